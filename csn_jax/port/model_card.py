"""The model card of an export: what the model is, how good, on which data, how to use it and how it was made."""

import dataclasses
import json
import re
import shlex

import csn_jax
from csn_jax.config import flags
from csn_jax.model.run import Run


def model_card(name: str, run: Run, results: str) -> str:
    """The text of README.md.

    Args:
        name: of the exported folder.
        run: that was exported.
        results: a table for people; empty where the model was not measured.
    """
    config, record = run.config, run.record
    inputs = " x ".join(map(str, record.input_shape))
    conditions = "\n".join(f"| {_cell(condition.name)} | {condition.kind} |" for condition in record.conditions)
    measured = _block("", results) if results else "Not measured here: it came without data."
    facts = record.as_object()
    data = {field: facts[field] for field in ("source", "split_unit", "items", "triplets") if field in facts}
    data |= {field: value for field, value in facts.items() if "sha256" in field}
    adapted = {report["condition"]: report for report in record.adapted}
    trained = tuple(name for name in config.data.conditions if name not in adapted)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, conditions=trained))
    command = ["python", "-m", "csn_jax.train", *flags(config)]
    if record.checkpoint:
        command = ["python", "-m", "csn_jax.port", "import", record.checkpoint, "--conditions"]
        command += [*config.data.conditions, *([] if record.rectified else ["--unrectified"])]
    made = _block("bash", shlex.join(command))
    for name, one in adapted.items():
        made += f"\n\nThen a mask for {_cell(name)} was added by csn_jax.adapt, from {_cell(one['learned_from'])}."
    place = f"runs/{name}"
    again = ["python", "-m", "csn_jax.port", "import", name, f"--workdir={place}"]
    use = (
        f"model = csn_jax.load({place!r})\nembeddings = model.embed(inputs)\n"
        f"model.distance(embeddings[0], embeddings[1], {record.names[0]!r})"
    )
    return f"""\
---
library_name: csn_jax
---

# {_cell(name)}

One embedding and a mask over its dimensions for each notion of similarity: a
[Conditional Similarity Network](https://arxiv.org/abs/1603.07810) of csn_jax {csn_jax.__version__}. Backbone
{config.backbone.name}, {config.backbone.embedding_dim} dimensions, {config.variant} masks, inputs of {inputs}.

| condition | kind |
|---|---|
{conditions}

## Results

{measured}

## Data

{_block("json", json.dumps(data, indent=2))}

## Use

{_block("bash", shlex.join(again))}

{_block("python", use)}

## How it was made

{made}
"""


def _block(language: str, text: str) -> str:
    """A block of code that nothing in the text ends."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _cell(text: str) -> str:
    """A text that stays one cell of a table and no markup."""
    return " ".join(re.sub(r"([|<>\\`*_\[\]])", r"\\\1", text).split())
