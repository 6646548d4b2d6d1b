"""Models in and out: a released CSN checkpoint or an exported folder becomes a workdir, a workdir such a folder.

Exported are model.safetensors, config.json, data.json and results.json as the run has them, and a model card README.md.
Tensors of ResNets have torchvision's names and layout; `masks.weight` [C, D] holds the masks before the rectifier.
"""

import json
import os
import re
import shlex
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import csn_jax
from csn_jax import cli
from csn_jax.config import BackboneConfig, Config, DataConfig, PreprocessConfig, did_you_mean, flags
from csn_jax.errors import UserError

if TYPE_CHECKING:
    from csn_jax.core.steps import State

USAGE = """\
usage: python -m csn_jax.port import CHECKPOINT --workdir=DIR [--conditions NAME ...] [--unrectified]
       python -m csn_jax.port export --workdir=DIR --out=FOLDER [--format=safetensors]

import makes a workdir of a released CSN checkpoint, or of a folder that export wrote, for csn_jax.load to open; export
writes a run's best model for others to read. More of each: python -m csn_jax.port import --help, export --help."""

# What the released checkpoints do not hold: the names of their masks (in the order of the reference), and how their
# images were prepared.
REFERENCE_CONDITIONS = ("class", "closure", "gender", "heel")
REFERENCE_PREPROCESS = PreprocessConfig(112, flip=True, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Import:
    checkpoint: str
    """A released CSN checkpoint (.pth.tar, .pth, .pt or .safetensors), or a folder that `export` wrote."""
    workdir: str = ""
    """The folder to make. Empty: runs/<name of the checkpoint>."""
    conditions: tuple[str, ...] = ()
    """Names of a released checkpoint's masks, which it does not hold, in order. Empty: class closure gender heel where
    there are four, else condition_0 and so on."""
    unrectified: bool = False
    """Apply a released checkpoint's masks without the rectifier, as the reference's own --test command does."""


@dataclass(frozen=True)
class Export:
    workdir: str
    """The folder of a finished run of csn_jax.train, or of an imported model."""
    out: str
    """The folder to write; it must be new or empty."""
    format: Literal["safetensors"] = "safetensors"
    """safetensors: tensors that any framework reads, with config, records and model card."""


def main(argv: Sequence[str]) -> None:
    what, *rest = argv or ["--help"]
    if what in ("-h", "--help"):
        print(USAGE)
    elif what == "import":
        import_model(cli.parse(Import, rest, "python -m csn_jax.port import", positional=True))
    elif what == "export":
        export_model(cli.parse(Export, rest, "python -m csn_jax.port export"))
    else:
        choices = ("import", "export")
        raise UserError(f"unknown command {what!r}{did_you_mean(what, choices)}; choose import or export.")


def import_model(args: Import) -> None:
    """Make a workdir that csn_jax.load opens."""
    source = Path(args.checkpoint).expanduser().absolute()
    workdir = Path(args.workdir or f"runs/{source.name.split('.')[0]}")
    if not source.is_dir():
        names = _import_released(args, workdir)
    elif args.conditions or args.unrectified:
        raise UserError(
            f"{source} names its conditions and how its masks are applied; leave out --conditions and --unrectified."
        )
    else:
        names = _import_exported(source, workdir)
    print(f"{workdir} holds the model, with conditions {', '.join(names)}: csn_jax.load({str(workdir)!r}) opens it")


def export_model(args: Export) -> None:
    """Write the best model of a run as a folder, whole or not at all."""
    from csn_jax.runtime.workdir import full_disk_told, read_config, read_record, read_results, write_atomically

    workdir, out = (Path(path).expanduser().absolute() for path in (args.workdir, args.out))
    config, record, results = read_config(workdir), read_record(workdir), read_results(workdir)
    if results is None and config.data.source != "imported":
        raise UserError(f"{workdir} has no results.json yet; run its training to the end first, by the same command.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out={out} is there and not empty; give a new folder.")
    files = _exported(workdir, config, record)
    if results:
        files["results.json"] = _json(results)
    files["README.md"] = _model_card(out.name, config, record, results).encode()
    temporary = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of an export that was killed
        temporary.mkdir(parents=True)
        with full_disk_told(temporary):
            for name, content in files.items():
                (temporary / name).parent.mkdir(exist_ok=True)
                write_atomically(temporary / name, content)
        if out.exists():
            out.rmdir()
        os.rename(temporary, out)
    except OSError as error:
        raise UserError(f"--out={out} cannot be written ({error.strerror}); give a folder you may write to.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"{out} holds {', '.join(files)}")


def _import_released(args: Import, workdir: Path) -> Sequence[str]:
    """A Tripletnet's state dict: resnet18_csn below `embeddingnet.embeddingnet.`, masks below `embeddingnet.masks.`."""
    from csn_jax.backbones.tensors import MASKS, from_tensors, plain_names
    from csn_jax.core.steps import initial_state
    from csn_jax.data.item_set import SPLITS
    from csn_jax.model import build_network
    from csn_jax.runtime.weights import read_weights

    path = args.checkpoint
    weights = read_weights(path, "CHECKPOINT")
    tensors = plain_names(weights.tensors, path)
    beta = _masks(tensors.pop(MASKS, None), path)
    conditions = _names(args.conditions, len(beta), path)
    config = Config(
        backbone=BackboneConfig("resnet18_csn", embedding_dim=beta.shape[1]),
        data=DataConfig("imported", conditions=conditions),
        preprocess=REFERENCE_PREPROCESS,
    )
    none = dict.fromkeys(SPLITS, 0)
    record = {
        "source": "imported",
        "checkpoint": Path(path).name,
        "checkpoint_sha256": weights.sha256,
        "conditions": [{"name": name, "kind": "categorical"} for name in conditions],
        "input_shape": [config.preprocess.size, config.preprocess.size, 3],
        "items": none,
        "triplets": none,
        "rectified": not args.unrectified,
    }
    network = build_network(config, record["input_shape"], len(conditions), 0)
    params, statistics, _ = from_tensors(
        config.backbone.name, tensors, network.state.params["backbone"], network.state.statistics, path
    )
    _write_run(workdir, config, record, initial_state(params, statistics, beta, network.optimizer))
    return conditions


def _import_exported(folder: Path, workdir: Path) -> Sequence[str]:
    """A folder that `export_model` wrote; specialists have a folder each below it."""
    from csn_jax.runtime.workdir import read_config, read_record, read_results

    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json; give a checkpoint file, or a folder that port export wrote.")
    config, record, results = read_config(folder), read_record(folder), read_results(folder)
    names = [condition["name"] for condition in record["conditions"]]
    if config.variant != "specialists":
        _write_run(workdir, config, record, _exported_state(folder, config, record), results)
        return names
    for name in names:  # they become folders
        if Path(name).name != name or name == "..":
            raise UserError(f"{folder / 'data.json'} has a condition {name!r}, which can be no folder's name.")
    runs = [(read_config(folder / name), read_record(folder / name)) for name in names]
    states = [_exported_state(folder / name, *run) for name, run in zip(names, runs, strict=True)]
    _write_run(workdir, config, record, None, results)
    for name, run, state in zip(names, runs, states, strict=True):
        _write_run(workdir / name, *run, state)
    return names


def _exported_state(folder: Path, config: Config, record: dict[str, Any]) -> "State":
    """The state that `_exported` wrote. What only training needs, Adam's averages, starts afresh."""
    import jax.numpy as jnp

    from csn_jax.backbones.tensors import MASKS, from_tensors
    from csn_jax.core.steps import initial_state
    from csn_jax.model import build_network, examples
    from csn_jax.runtime.weights import read_weights

    path = folder / WEIGHTS
    weights = read_weights(str(path), "CHECKPOINT")
    tensors, step = dict(weights.tensors), weights.metadata.get("step", "")
    beta = _masks(tensors.pop(MASKS, None), path)
    shape = (len(record["conditions"]), config.backbone.embedding_dim)
    if beta.shape != shape or not re.fullmatch(r"\d{1,9}", step):
        raise UserError(
            f"{path} has masks {[*beta.shape]} of step {step!r}, and config.json and data.json beside it are of masks "
            f"{[*shape]} of some step; give a folder as port export wrote it."
        )
    network = build_network(config, record["input_shape"], len(beta), examples(config, record))
    params, statistics, _ = from_tensors(
        config.backbone.name, tensors, network.state.params["backbone"], network.state.statistics, str(path)
    )
    return initial_state(params, statistics, beta, network.optimizer)._replace(step=jnp.int32(int(step)))


def _write_run(
    workdir: Path, config: Config, record: dict[str, Any], state: "State | None", results: dict[str, Any] | None = None
) -> None:
    """A workdir as training leaves it; without a state where the networks are below it."""
    from csn_jax.runtime.checkpoint import Checkpoints, has_steps
    from csn_jax.runtime.workdir import claim, full_disk_told, locked, open_workdir, write_atomically

    workdir = open_workdir(workdir)
    folder = workdir / "checkpoints"
    with locked(workdir), full_disk_told(workdir):
        if has_steps(folder) or (workdir / "results.json").exists():
            raise UserError(f"{workdir} holds a model already; give another --workdir.")
        claim(workdir, config, record)
        if state is not None:
            with closing(Checkpoints(folder)) as checkpoints:
                checkpoints.save(state)
        if results is not None:
            write_atomically(workdir / "results.json", _json(results))


def _exported(workdir: Path, config: Config, record: dict[str, Any]) -> dict[str, bytes]:
    """Files by name: config, record and weights of a run, or of each of the specialists below it."""
    from csn_jax.backbones.tensors import MASKS, to_tensors
    from csn_jax.model import restore_best
    from csn_jax.runtime.weights import to_safetensors
    from csn_jax.runtime.workdir import read_config, read_record

    files = {"config.json": config.to_json().encode(), "data.json": _json(record)}
    if config.variant == "specialists":
        for condition in record["conditions"]:
            below = workdir / condition["name"]
            for name, content in _exported(below, read_config(below), read_record(below)).items():
                files[f"{condition['name']}/{name}"] = content
        return files
    _, state = restore_best(workdir, config, record)
    tensors = to_tensors(config.backbone.name, state.params["backbone"], state.statistics)
    tensors[MASKS] = state.params["beta"]
    return {WEIGHTS: to_safetensors(tensors, {"step": str(int(state.step))})} | files


def _masks(beta: Any, path: str | Path) -> Any:
    """The masks [C, D] of a file, as float32."""
    import numpy as np

    if beta is None or beta.ndim != 2 or beta.dtype.kind != "f" or not (beta.size and np.isfinite(beta).all()):
        raise UserError(
            f"{path} has no masks (a tensor masks.weight [conditions, dimensions] of finite floats); give a checkpoint "
            "of a Conditional Similarity Network."
        )
    return beta.astype(np.float32)


def _names(wanted: tuple[str, ...], n: int, path: str) -> tuple[str, ...]:
    if not wanted:
        return REFERENCE_CONDITIONS if n == len(REFERENCE_CONDITIONS) else tuple(f"condition_{i}" for i in range(n))
    if len(wanted) != n or len(set(wanted)) < n or "" in wanted:
        raise UserError(f"--conditions names {' '.join(wanted)}; {path} has {n} masks, so give {n} different names.")
    return wanted


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _model_card(name: str, config: Config, record: dict[str, Any], results: dict[str, Any] | None) -> str:
    """README.md of an export: what the model is, how good, on which data, how to use it and how it was made."""
    inputs = " x ".join(map(str, record["input_shape"]))
    conditions = "\n".join(
        f"| {_cell(condition['name'])} | {condition['kind']} |" for condition in record["conditions"]
    )
    measured = _block("", cli.results_table(results)) if results else "Not measured here: it came without data."
    data = {field: record[field] for field in ("source", "split_unit", "items", "triplets") if field in record}
    data |= {field: value for field, value in record.items() if "sha256" in field}
    command = ["python", "-m", "csn_jax.train", *flags(config)]
    if config.data.source == "imported":
        command = ["python", "-m", "csn_jax.port", "import", record["checkpoint"], "--conditions"]
        command += [*config.data.conditions, *([] if record["rectified"] else ["--unrectified"])]
    run = f"runs/{name}"
    again = ["python", "-m", "csn_jax.port", "import", name, f"--workdir={run}"]
    use = (
        f"model = csn_jax.load({run!r})\nembeddings = model.embed(inputs)\n"
        f"model.distance(embeddings[0], embeddings[1], {record['conditions'][0]['name']!r})"
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

{_block("bash", shlex.join(command))}
"""


def _block(language: str, text: str) -> str:
    """A block of code that nothing in the text ends."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def _cell(text: str) -> str:
    """A text that stays one cell of a table and no markup."""
    return " ".join(re.sub(r"([|<>\\`*_\[\]])", r"\\\1", text).split())


if __name__ == "__main__":
    cli.run(main)
