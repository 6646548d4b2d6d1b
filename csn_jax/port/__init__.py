"""Import a released checkpoint, or export a model for other tools.

    csn_jax port import csn.pth.tar --workdir=runs/released
    csn_jax port export --workdir=runs/quickstart --out=exported

An exported folder has model.safetensors, config.json, data.json, results.json and a model card, README.md. Tensors of
ResNets have torchvision's names and layout; `masks.weight` [C, D] holds the masks before the rectifier.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from csn_jax import cli
from csn_jax.config import BackboneConfig, Config, DataConfig, PreprocessConfig
from csn_jax.errors import UserError
from csn_jax.text import did_you_mean

if TYPE_CHECKING:
    from csn_jax.core.steps import State
    from csn_jax.model.run import Run

# What the released checkpoints do not hold: the names of their masks (in the order of the reference), and how their
# images were prepared.
REFERENCE_CONDITIONS = ("class", "closure", "gender", "heel")
REFERENCE_PREPROCESS = PreprocessConfig(112, flip=True, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Import:
    """Make a run from a released CSN checkpoint or from an exported folder.

        csn_jax port import csn.pth.tar --workdir=runs/released --conditions class closure gender heel
        csn_jax port import exported --workdir=runs/copy

    csn_jax.load opens the run, and the other commands take it as their --workdir.
    """

    checkpoint: str
    """A released CSN checkpoint (.pth.tar, .pth, .pt or .safetensors), or a folder that `export` wrote."""
    workdir: str = ""
    """The folder to make. Empty: runs/<name of the checkpoint>."""
    conditions: tuple[str, ...] = ()
    """Names for the masks of a released checkpoint, in order, as it does not hold them. Empty: class closure gender
    heel for four masks, else condition_0 and so on."""
    unrectified: bool = False
    """Apply a released checkpoint's masks without the rectifier, as the reference's own --test command does."""


@dataclass(frozen=True)
class Export:
    """Write the best model of a run for other tools to read or to run.

        csn_jax port export --workdir=runs/quickstart --out=exported
        csn_jax port export --workdir=runs/quickstart --format=onnx --out=model.onnx

    What it writes is complete, or not there at all.
    """

    workdir: str
    """The folder of a finished run of csn_jax train, or of an imported model."""
    out: str
    """For safetensors the folder to write, new or empty; otherwise the new file to write."""
    format: Literal["safetensors", "stablehlo", "onnx"] = "safetensors"
    """safetensors: a folder of tensors for any framework, with config, records and model card. The others are one file
    that normalises and embeds batches of any size. stablehlo: for jax.export.deserialize on CPU, CUDA or TPU, with the
    masks and a description in a JSON file beside it. onnx: for ONNX runtimes, masks inside (needs the package onnx)."""


ACTIONS = {"import": Import, "export": Export}


def main(argv: Sequence[str]) -> None:
    what, *rest = argv or ["--help"]
    if what in ("-h", "--help"):
        print(f"usage: csn_jax port ACTION [OPTIONS]\n\n{__doc__}\nOptions: csn_jax port import --help, export --help")
    elif what == "import":
        import_model(cli.parse(Import, rest, "csn_jax port import", positional=True))
    elif what == "export":
        export_model(cli.parse(Export, rest, "csn_jax port export", positional=True))
    else:
        raise UserError(f"unknown action {what!r}{did_you_mean(what, ACTIONS)}; choose import or export.")


def import_model(args: Import) -> None:
    """Make a workdir that csn_jax.load opens."""
    from csn_jax.runtime.writer import next_step

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
    next_step("python", "-c", f"import csn_jax; print(csn_jax.load({str(workdir)!r}).masks)")


def export_model(args: Export) -> None:
    """Write the best model of a run in one of the formats, whole or not at all."""
    from csn_jax.model.run import open_run
    from csn_jax.runtime.writer import next_step

    run, out = open_run(args.workdir), Path(args.out).expanduser().absolute()
    if run.results is None and run.record.source != "imported":
        raise UserError(
            f"{run.workdir} has no results.json yet; run its training to the end first, by the same command."
        )
    if args.format == "safetensors":
        _export_folder(run, out)
        next_step("port", "import", args.out, f"--workdir={args.workdir.rstrip('/')}_copy")
    else:
        _export_file(run, out, args.format)
        if args.format == "stablehlo":
            next_step("python", "-m", "json.tool", f"{args.out}.json")
        else:
            code = f"import onnxruntime as ort; print(ort.InferenceSession({args.out!r}).get_inputs()[0].shape)"
            next_step("python", "-c", code)


def _export_file(run: "Run", out: Path, form: str) -> None:
    """One file to run; for StableHLO, which has no place for them, the masks and all else in a JSON file beside it."""
    from csn_jax.port import one_file as deploy
    from csn_jax.runtime.record import to_json
    from csn_jax.runtime.whole import write_files

    beside = out.with_name(f"{out.name}.json")
    for path in (out, beside) if form == "stablehlo" else (out,):
        if path.exists():
            raise UserError(f"--out={out}: {path} is there already; give a new file.")
    model = run.model()
    about = deploy.description(run, model)
    if form == "onnx":
        files = {out: deploy.onnx(run, model, about)}
    else:  # the JSON file first: with the model there is always what explains it
        files = {beside: to_json(about | {"masks": model.masks.tolist()}), out: deploy.stablehlo(run)}
    write_files(files)
    inputs = " x ".join(map(str, about["input"]["shape"]))
    print(f"{out} takes {about['input']['dtype']} {inputs} and gives embeddings batch x {model.masks.shape[1]}")


def _export_folder(run: "Run", out: Path) -> None:
    from csn_jax.evaluate.table import results_table
    from csn_jax.port.model_card import model_card
    from csn_jax.runtime.record import to_json
    from csn_jax.runtime.whole import NOTHING, check_folder, write_folder

    check_folder(out, *NOTHING)
    files = _exported(run)
    if run.results:
        files["results.json"] = to_json(run.results.as_object())
    files["README.md"] = model_card(out.name, run, results_table(run.results) if run.results else "").encode()
    write_folder(out, files)
    print(f"{out} holds {', '.join(files)}")


def _import_released(args: Import, workdir: Path) -> Sequence[str]:
    """A Tripletnet's state dict: resnet18_csn below `embeddingnet.embeddingnet.`, its last layer named `fc_embed`, and
    masks below `embeddingnet.masks.`."""
    from csn_jax.backbones.tensors import MASKS, from_tensors, plain_names
    from csn_jax.core.steps import initial_state
    from csn_jax.data.item_set import SPLITS
    from csn_jax.model.network import build_network
    from csn_jax.model.weight_files import read_weights
    from csn_jax.runtime.record import Condition, Record
    from csn_jax.runtime.whole import write_run

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
    record = Record(
        source="imported",
        checkpoint=Path(path).name,
        checkpoint_sha256=weights.sha256,
        conditions=tuple(Condition(name, "categorical") for name in conditions),
        input_shape=(config.preprocess.size, config.preprocess.size, 3),
        items=none,
        triplets=none,
        rectified=not args.unrectified,
    )
    network = build_network(config, record.input_shape, len(conditions), 0)
    params, statistics, _ = from_tensors(
        config.backbone.name, tensors, network.state.params["backbone"], network.state.statistics, path
    )
    write_run(workdir, config, record, initial_state(params, statistics, beta, network.optimizer))
    return conditions


def _import_exported(folder: Path, workdir: Path) -> Sequence[str]:
    """A folder that `export_model` wrote; specialists have a folder each below it."""
    from csn_jax.model.run import open_run
    from csn_jax.runtime.whole import write_run

    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json; give a checkpoint file, or a folder that port export wrote.")
    exported = open_run(folder)
    runs = exported.specialists or (exported,)
    states = [_exported_state(run) for run in runs]  # all are read before anything is written
    if exported.specialists:
        write_run(workdir, exported.config, exported.record, None, exported.results)
    for run, state in zip(runs, states, strict=True):
        write_run(workdir / run.workdir.relative_to(exported.workdir), run.config, run.record, state, run.results)
    return exported.record.names


def _exported_state(run: "Run") -> "State":
    """The state that `_exported` wrote. What only training needs, Adam's averages, starts afresh."""
    import jax.numpy as jnp

    from csn_jax.backbones.tensors import MASKS, from_tensors
    from csn_jax.core.steps import initial_state
    from csn_jax.model.network import build_network, examples
    from csn_jax.model.weight_files import read_weights

    path, config, record = run.workdir / WEIGHTS, run.config, run.record
    weights = read_weights(str(path), "CHECKPOINT")
    tensors, step = dict(weights.tensors), weights.metadata.get("step", "")
    beta = _masks(tensors.pop(MASKS, None), path)
    shape = (len(record.conditions), config.backbone.embedding_dim)
    if beta.shape != shape or not re.fullmatch(r"\d{1,9}", step):
        raise UserError(
            f"{path} has masks {[*beta.shape]} of step {step!r}, and config.json and data.json beside it are of masks "
            f"{[*shape]} of some step; give a folder as port export wrote it."
        )
    network = build_network(config, record.input_shape, len(beta), examples(config, record))
    params, statistics, _ = from_tensors(
        config.backbone.name, tensors, network.state.params["backbone"], network.state.statistics, str(path)
    )
    return initial_state(params, statistics, beta, network.optimizer)._replace(step=jnp.int32(int(step)))


def _exported(run: "Run") -> dict[str, bytes]:
    """Files by name: config, record and weights of a run, or of each of the specialists below it."""
    from csn_jax.backbones.tensors import MASKS, to_tensors
    from csn_jax.model.weight_files import to_safetensors

    files = {"config.json": run.config.to_json().encode(), "data.json": run.record.to_json()}
    if run.specialists:
        for specialist in run.specialists:
            for name, content in _exported(specialist).items():
                files[f"{specialist.workdir.name}/{name}"] = content
        return files
    _, state = run.restore()
    tensors = to_tensors(run.config.backbone.name, state.params["backbone"], state.statistics)
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
    from csn_jax.runtime.record import check_name

    if not wanted:
        return REFERENCE_CONDITIONS if n == len(REFERENCE_CONDITIONS) else tuple(f"condition_{i}" for i in range(n))
    if len(wanted) != n or len(set(wanted)) < n or "" in wanted:
        raise UserError(f"--conditions names {' '.join(wanted)}; {path} has {n} masks, so give {n} different names.")
    for name in wanted:
        check_name(name)
    return wanted
