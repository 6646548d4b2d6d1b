"""The model card of an exported folder: the model, its errors, its data, its use, and the commands that made it."""

import dataclasses
import json
import re
import shlex

import csn_jax
from csn_jax.config.typed import flags
from csn_jax.model.run import Run


def model_card(name: str, run: Run, results: str) -> str:
    """The text of README.md. results: a table; empty when the model was not measured."""
    config, record = run.config, run.record
    inputs = " x ".join(map(str, record.input_shape))
    conditions = "\n".join(f"| {_cell(condition.name)} | {condition.kind} |" for condition in record.conditions)
    measured = _block("", results) if results else "Not measured: the checkpoint came without data."
    fields = record.as_object()
    data = {name: fields[name] for name in ("source", "split_unit", "items", "triplets") if name in fields}
    data |= {name: value for name, value in fields.items() if "sha256" in name}
    made = _block("bash", shlex.join(_command(run)))
    for mask in record.adapted:
        added, learned_from = _cell(mask["condition"]), _cell(mask["learned_from"])
        made += f"\n\nThen csn_jax adapt added {added}, from {learned_from}."
    workdir = f"runs/{name}"
    distance = f"model.distance(embeddings[0], embeddings[1], {record.names[0]!r})"
    kind, size = "mask over its dimensions", f"{config.backbone.embedding_dim} dimensions, {config.variant} masks"
    if config.variant == "maps":
        kind, size = "map, a matrix that applies to it,", size.removesuffix(" masks")
    network = f"Backbone {config.backbone.name}, {size}, inputs of {inputs}."
    if config.maps_vectors:
        network = f"Maps apply to the vectors of {inputs} numbers as they are."
    if record.raw and record.raw.get("conditions"):
        network += f" The vectors' raw geometry serves {', '.join(map(_cell, record.raw['conditions']))}."
    if record.init_sha256:
        licence = _cell(record.init_licence) if record.init_licence else "not known to csn_jax"
        network += (
            f"\n\nThe backbone started from `{config.backbone.init}`, weights of SHA-256 {record.init_sha256}. Their "
            f"licence: {licence}."
        )
    use = f"model = csn_jax.load({workdir!r})\nembeddings = model.embed(inputs)\n{distance}"
    return f"""\
---
library_name: csn_jax
---

# {_cell(name)}

One vector per item and one {kind} per condition: a
[Conditional Similarity Network](https://arxiv.org/abs/1603.07810) of csn_jax {csn_jax.__version__}.
{network}

| condition | kind |
|---|---|
{conditions}

## Results

{measured}

## Data

{_block("json", json.dumps(data, indent=2))}

## Use

{_block("bash", shlex.join(["csn_jax", "port", "import", name, f"--workdir={workdir}"]))}

{_block("python", use)}

## How it was made

{made}
"""


def _command(run: Run) -> list[str]:
    """The words of the command that trained or imported the model, before any adapting."""
    config, record = run.config, run.record
    adapted = {report["condition"] for report in record.adapted}
    conditions = tuple(name for name in config.data.conditions if name not in adapted)
    if record.checkpoint:
        words = ["csn_jax", "port", "import", record.checkpoint, "--conditions", *conditions]
        return words if record.rectified else [*words, "--unrectified"]
    data = dataclasses.replace(config.data, conditions=conditions)
    return ["csn_jax", "train", *flags(dataclasses.replace(config, data=data))]


def _block(language: str, text: str) -> str:
    """A code block whose fence is longer than any in the text."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _cell(text: str) -> str:
    """A text as one cell of a table, without markup."""
    return " ".join(re.sub(r"([|<>\\`*_\[\]])", r"\\\1", text).split())
