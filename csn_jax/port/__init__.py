"""Import a released checkpoint, or export a model for other tools.

    csn_jax port import csn.pth.tar --workdir=runs/released
    csn_jax port export --workdir=runs/quickstart --out=exported

An exported folder has model.safetensors, config.json, data.json, results.json and a model card, README.md. Tensors of
ResNets have torchvision's names and layout; `masks.weight` [C, D] holds the masks before the rectifier. Of the variant
maps, `maps.weight` [C, r, D] holds the maps; over vectors [C, r, k], which apply to `axes.weight` [k, F].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from csn_jax import cli
from csn_jax.errors import UserError
from csn_jax.text import did_you_mean


@dataclass(frozen=True)
class Import:
    """Make a run from a released CSN checkpoint or from an exported folder.

        csn_jax port import csn.pth.tar --workdir=runs/released --conditions class closure gender heel
        csn_jax port import exported --workdir=runs/copy

    csn_jax.load opens the run, and the other commands take it as their --workdir.
    """

    checkpoint: str
    """A released CSN checkpoint (.pth.tar, .pth, .pt, .ckpt, .bin or .safetensors), or a folder that `export` wrote."""
    workdir: str = ""
    """The folder to make. Empty: runs/<name of the checkpoint>."""
    conditions: tuple[str, ...] = ()
    """Names for the masks of a released checkpoint, in order; the file has none. Empty: class closure gender heel for
    four masks, else condition_0 and so on."""
    unrectified: bool = False
    """Apply a released checkpoint's masks without the rectifier, as the reference's own --test command does."""


@dataclass(frozen=True)
class Export:
    """Write the best model of a run for other tools to read or to run.

        csn_jax port export --workdir=runs/quickstart --out=exported
        csn_jax port export --workdir=runs/quickstart --format=onnx --out=model.onnx

    The output is written whole or not at all.
    """

    workdir: str
    """The folder of a finished run of csn_jax train, or of an imported model."""
    out: str
    """For safetensors the folder to write, new or empty; otherwise the new file to write."""
    format: Literal["safetensors", "stablehlo", "onnx"] = "safetensors"
    """safetensors: a folder of tensors for any framework, with config, records and model card. The others are one file
    that normalises and embeds batches of any size, or under maps gives their views. stablehlo: for
    jax.export.deserialize on CPU, CUDA or TPU, with the masks and a description in a JSON file beside it. onnx: for
    ONNX runtimes, masks inside (needs the package onnx)."""


ACTIONS = {"import": Import, "export": Export}  # read by main, and by the completion of `csn_jax`


def main(argv: Sequence[str]) -> None:
    action, *rest = argv or ["--help"]
    if action in ("-h", "--help"):
        print(f"usage: csn_jax port ACTION [OPTIONS]\n\n{__doc__}\nOptions: csn_jax port import --help, export --help")
    elif action == "import":
        _import(cli.parse(Import, rest, "csn_jax port import", positional=True))
    elif action == "export":
        _export(cli.parse(Export, rest, "csn_jax port export", positional=True))
    else:
        near = did_you_mean(action, ACTIONS)
        raise UserError(f"unknown action {action!r}{near}; choose import or export.")


def _import(args: Import) -> None:
    source = Path(args.checkpoint).expanduser().absolute()
    workdir = Path(args.workdir or f"runs/{source.name.split('.')[0]}")
    exported = source.is_dir()
    if exported and (args.conditions or args.unrectified):
        raise UserError(
            f"{source} names its conditions and how its masks are applied; leave out --conditions and --unrectified."
        )

    from csn_jax.port.importing import import_folder, import_released
    from csn_jax.runtime.writer import next_step

    if exported:
        names = import_folder(source, workdir)
    else:
        names = import_released(args.checkpoint, workdir, args.conditions, rectified=not args.unrectified)
    print(f"{workdir} holds the model, with conditions {', '.join(names)}: csn_jax.load({str(workdir)!r}) opens it")
    next_step("python", "-c", f"import csn_jax; print(csn_jax.load({str(workdir)!r}).masks)")


def _export(args: Export) -> None:
    from csn_jax.model.run import open_run
    from csn_jax.port.exporting import export_file, export_folder
    from csn_jax.runtime.writer import next_step

    run, out = open_run(args.workdir), Path(args.out).expanduser().absolute()
    if run.results is None and run.record.source != "imported":
        raise UserError(f"{run.workdir} has no results.json yet; rerun its training command until it ends.")
    if args.format == "safetensors":
        print(f"{out} holds {', '.join(export_folder(run, out))}")
        next_step("port", "import", args.out, f"--workdir={args.workdir.rstrip('/')}_copy")
        return
    inputs, width = export_file(run, out, args.format)
    gives = "views" if run.config.variant == "maps" else "embeddings"
    print(f"{out} takes {inputs['dtype']} {' x '.join(map(str, inputs['shape']))} and gives {gives} batch x {width}")
    if args.format == "stablehlo":
        next_step("python", "-m", "json.tool", f"{args.out}.json")
    else:
        code = f"import onnxruntime as ort; print(ort.InferenceSession({args.out!r}).get_inputs()[0].shape)"
        next_step("python", "-c", code)
