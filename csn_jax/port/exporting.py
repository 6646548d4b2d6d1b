"""The best model of a run as a folder of tensors, or as one file that runs without this package: StableHLO or ONNX.

Such a file takes what training read, uint8 pixels [B, H, W, ch] or float32 features [B, F] with any B, normalises it
inside and returns what masks apply to: embeddings, or under maps the views of all conditions side by side.
`description` says how to make the pixels of an image file.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import csn_jax
from csn_jax.backbones import build
from csn_jax.backbones.tensors import MAPS, MASKS, to_tensors
from csn_jax.core.preprocess import make_preprocess
from csn_jax.core.steps import make_embed_step
from csn_jax.errors import UserError
from csn_jax.evaluate.table import results_table
from csn_jax.model.exported import OVER_VECTORS, WEIGHTS
from csn_jax.model.from_state import raw_beside, raw_geometry
from csn_jax.model.model import Model
from csn_jax.model.run import Run
from csn_jax.model.weight_files import to_safetensors
from csn_jax.port.model_card import model_card
from csn_jax.port.onnx_graph import Part, to_onnx
from csn_jax.runtime.record import to_json
from csn_jax.runtime.whole import check_folder, write_files, write_folder

PLATFORMS = ("cpu", "cuda", "tpu")


def export_folder(run: Run, out: Path) -> list[str]:
    """Write a folder for any framework and return the names of its files; a UserError when the place is not free or
    cannot be written."""
    check_folder(out)
    files = _tensors_and_records(run)
    if run.results:
        files["results.json"] = to_json(run.results.as_object())
    files["README.md"] = model_card(out.name, run, results_table(run.results) if run.results else "").encode()
    write_folder(out, files)
    return list(files)


def export_file(run: Run, out: Path, form: str) -> tuple[dict[str, Any], int]:
    """Write one file that embeds, and return its input ({"dtype": ..., "shape": [...], ...}) and its output's width.
    `form`: onnx, or stablehlo, which has no place for masks and description: these go to FILE.json beside it. A
    UserError when a file exists or cannot be written, and as in `onnx_graph.to_onnx`."""
    beside = out.with_name(f"{out.name}.json")
    for path in (out, beside) if form == "stablehlo" else (out,):
        if path.exists():
            raise UserError(f"--out={out}: {path} exists; give a new file.")
    model = run.model()
    about = description(run, model)
    if form == "onnx":
        metadata = {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
        parts, made_by = _parts(run), about["made_by"]
        files = {out: to_onnx(parts, run.record.input_shape, model.masks, metadata, made_by, model.maps)}
    else:  # JSON first: where there is a model, there is its description
        files = {beside: to_json(about | {"masks": model.masks.tolist()}), out: stablehlo(run, model)}
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
    if run.config.maps_vectors:
        tensors = {name: np.asarray(state.statistics[leaf]) for leaf, name in OVER_VECTORS.items()}
    else:
        tensors = to_tensors(run.config.backbone.name, state.params["backbone"], state.statistics)
        beta = np.asarray(state.params["beta"])
        tensors |= {MAPS: beta[0]} if run.config.variant == "maps" else {MASKS: beta}
    return {WEIGHTS: to_safetensors(tensors, {"step": str(int(state.step))})} | files


def description(run: Run, model: Model) -> dict[str, Any]:
    """What a user of an exported file must know: its input, its conditions, and how to compute a distance."""
    config, shape = run.config, run.record.input_shape
    features = len(shape) == 1
    outputs = "embeddings"
    if model.maps:
        outputs = "outputs: the views of all conditions side by side, where masks[c] is 1 in the columns of condition c"
    return {
        "made_by": f"csn_jax {csn_jax.__version__}",
        "conditions": list(model.conditions),
        "kinds": [condition.kind for condition in run.record.conditions],
        "variant": config.variant,
        "backbone": config.backbone.name,
        "step": model.step,
        "model_sha256": model.sha256,
        "input": {"dtype": "float32" if features else "uint8", "shape": ["batch", *shape], "what": _input(run)},
        **({} if features else {"fit": config.preprocess.fit}),
        "embedding": ["batch", model.masks.shape[1]],
        "distance": "under condition c: sqrt(sum(((x * masks[c] - y * masks[c]) + 1e-6) ** 2)), x and y " + outputs,
    }


def _input(run: Run) -> str:
    """How to make an input."""
    shape, size = run.record.input_shape, run.config.preprocess.size
    if len(shape) == 1:
        return "feature vectors, from the embedder whose vectors the model was trained on"
    if run.config.data.source in ("glyphs", "fonts"):
        return f"grey pixels 0 to 255 of a character, as source {run.config.data.source} draws it; the file normalises"
    order = "red, green, blue" if shape[-1] == 3 else "grey"
    resize = "(Pillow's BILINEAR, which smooths when it shrinks;"
    fit = (
        f"resize the shorter side to {size} {resize} long side int({size} * long / short)), cut out the central square "
        "(offset int(round(extra / 2)), halves to the even number)"
    )
    if run.config.preprocess.fit == "pad":
        fit = (
            f"resize the longer side to {size} {resize} short side max(1, round({size} * short / long)), halves to the "
            f"even number), put it on a white square of {size} (offset rest // 2)"
        )
    return (
        f"pixels 0 to 255, {order}: turn the image as its EXIF says, put transparent pixels on white, {fit}; the file "
        "normalises"
    )


def stablehlo(run: Run, model: Model) -> bytes:
    """The bytes that `jax.export.deserialize` reads. Its `call` maps inputs [B, ...] to float32 [B, D], or under maps
    [B, V], on CPU, CUDA and TPU. The parameters are inside."""
    parts, shape, maps = _parts(run), run.record.input_shape, model.maps

    def embed(inputs: jax.Array) -> jax.Array:
        embeddings = []
        for part in parts:
            step = make_embed_step(build(part.backbone), make_preprocess(part.preprocess))
            embeddings.append(step({"backbone": part.params}, part.statistics, inputs))
            embeddings += [raw_geometry(inputs, *part.raw)] if part.raw else []
        x = jnp.concatenate(embeddings, axis=1) if parts else inputs
        if maps is None:
            return x
        return jnp.matmul(raw_geometry(x, True, 1.0) if maps.unit else x, maps.matrix.T, precision="highest")

    dtype = jnp.uint8 if len(shape) == 3 else jnp.float32
    inputs = jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), *shape), dtype)
    with _without_places():
        return bytes(export.export(jax.jit(embed), platforms=PLATFORMS)(inputs).serialize())


@contextmanager
def _without_places() -> Iterator[None]:
    """Trace without the paths and lines of Python files, so that a model has the same bytes on every machine."""
    setting, before = "jax_traceback_in_locations_limit", jax.config.jax_traceback_in_locations_limit
    jax.config.update(setting, 0)
    try:
        yield
    finally:
        jax.config.update(setting, before)


def _parts(run: Run) -> Sequence[Part]:
    """The best networks of a run, in NumPy: one, or one per condition of specialists; none where maps take the vectors
    themselves."""
    if run.specialists:
        return [part for specialist in run.specialists for part in _parts(specialist)]
    if run.config.maps_vectors:
        return []
    _, state = run.restore()
    params, statistics = jax.tree.map(np.asarray, (state.params["backbone"], state.statistics))
    return [
        Part(run.config.backbone, run.config.preprocess, params, statistics, raw_beside(run.config, run.record.raw))
    ]
