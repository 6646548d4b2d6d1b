"""The best model of a run as a folder of tensors, or as one file to run."""

from pathlib import Path
from typing import Any

from csn_jax.backbones.tensors import MASKS, to_tensors
from csn_jax.errors import UserError
from csn_jax.evaluate.table import results_table
from csn_jax.model.run import Run
from csn_jax.model.weight_files import to_safetensors
from csn_jax.port import one_file
from csn_jax.port.model_card import model_card
from csn_jax.runtime.record import to_json
from csn_jax.runtime.whole import check_folder, write_files, write_folder

WEIGHTS = "model.safetensors"


def export_folder(run: Run, out: Path) -> list[str]:
    """Write a folder for any framework and return the names of its files.

    Raises:
        UserError: when the place is not free or cannot be written.
    """
    check_folder(out)
    files = _tensors_and_records(run)
    if run.results:
        files["results.json"] = to_json(run.results.as_object())
    files["README.md"] = model_card(out.name, run, results_table(run.results) if run.results else "").encode()
    write_folder(out, files)
    return list(files)


def export_file(run: Run, out: Path, form: str) -> tuple[dict[str, Any], int]:
    """Write one file that embeds.

    Args:
        form: `onnx`, or `stablehlo`, which has no place for masks and description: these go to FILE.json beside it.

    Returns:
        Its input ({"dtype": ..., "shape": [...], ...}) and the embedding's width.

    Raises:
        UserError: when a file exists or cannot be written, and as in `onnx_graph.to_onnx`.
    """
    beside = out.with_name(f"{out.name}.json")
    for path in (out, beside) if form == "stablehlo" else (out,):
        if path.exists():
            raise UserError(f"--out={out}: {path} exists; give a new file.")
    model = run.model()
    about = one_file.description(run, model)
    if form == "onnx":
        files = {out: one_file.onnx(run, model, about)}
    else:  # JSON first: where there is a model, there is its description
        files = {beside: to_json(about | {"masks": model.masks.tolist()}), out: one_file.stablehlo(run)}
    write_files(files)
    return about["input"], model.masks.shape[1]


def _tensors_and_records(run: Run) -> dict[str, bytes]:
    """Files by name: config, record and weights of a run, or of each of the specialists below it."""
    files = {"config.json": run.config.to_json().encode(), "data.json": to_json(run.record.as_object())}
    if run.specialists:
        for specialist in run.specialists:
            for name, content in _tensors_and_records(specialist).items():
                files[f"{specialist.workdir.name}/{name}"] = content
        return files
    _, state = run.restore()
    tensors = to_tensors(run.config.backbone.name, state.params["backbone"], state.statistics)
    tensors[MASKS] = state.params["beta"]
    return {WEIGHTS: to_safetensors(tensors, {"step": str(int(state.step))})} | files
