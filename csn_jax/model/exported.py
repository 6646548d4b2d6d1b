"""States from tensors: of an exported folder, and of a released checkpoint."""

import re
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from csn_jax.backbones.tensors import MAPS, MASKS, from_tensors
from csn_jax.config import Config
from csn_jax.core.steps import State, initial_state
from csn_jax.errors import UserError
from csn_jax.model.network import network_of
from csn_jax.model.weight_files import read_weights
from csn_jax.runtime.record import Record

if TYPE_CHECKING:
    from csn_jax.model.run import Run

WEIGHTS = "model.safetensors"
# Of maps over vectors, [C, r, k] on k principal axes: tensors by the name of a checkpoint's statistics.
OVER_VECTORS = {"kept": MAPS, "kept_error": "maps.error", "axes": "axes.weight", "mean": "axes.mean"}


def exported_state(run: "Run") -> State:
    """The state of a folder that csn_jax port exported; a UserError if its weights do not fit its records."""
    path, record = str(run.workdir / WEIGHTS), run.record
    weights = read_weights(path, "CHECKPOINT")
    tensors, step = dict(weights.tensors), weights.metadata.get("step", "")
    if run.config.variant == "maps":
        return _state_of_maps(run, tensors, step, path)
    beta = masks_of(tensors.pop(MASKS, None), path)
    shape = (len(record.conditions), run.config.backbone.embedding_dim)
    if beta.shape != shape or not re.fullmatch(r"\d{1,9}", step):
        raise UserError(
            f"{path} has masks {[*beta.shape]} of step {step!r}, but config.json and data.json beside it need "
            f"masks {[*shape]} of a numbered step; export the folder again."
        )
    return state_of(run.config, record, tensors, beta, path)._replace(step=jnp.int32(int(step)))


def _state_of_maps(run: "Run", tensors: dict[str, np.ndarray], step: str, path: str) -> State:
    """The state of an exported folder of the variant maps. All sets of maps that trained side by side are the best."""
    network = network_of(run.config, run.record)
    params, statistics, beta = network.state.params["backbone"], network.state.statistics, network.masks.beta
    shapes = {MAPS: beta.shape[1:]}
    if run.config.maps_vectors:
        shapes = {name: statistics[leaf].shape for leaf, name in OVER_VECTORS.items()}
    given = {name: tensors.pop(name, np.zeros(0)) for name in shapes}
    sound = (x.shape == shapes[name] and x.dtype.kind == "f" and np.isfinite(x).all() for name, x in given.items())
    if not all(sound) or not re.fullmatch(r"\d{1,9}", step) or (run.config.maps_vectors and tensors):
        needed = ", ".join(f"{name} {[*shape]}" for name, shape in shapes.items())
        raise UserError(
            f"{path} does not have the finite floats {needed} of a numbered step, which config.json and data.json "
            "beside it need; export the folder again."
        )
    if run.config.maps_vectors:
        statistics = {leaf: given[name].astype(np.float32) for leaf, name in OVER_VECTORS.items()}
        statistics["unit"] = np.array(bool(run.record.raw and run.record.raw["unit"]))
    else:
        params, statistics, _ = from_tensors(run.config.backbone.name, tensors, params, statistics, path)
    beta = np.repeat(given[MAPS].astype(np.float32)[None], len(beta), axis=0)
    return initial_state(params, statistics, beta, network.optimizer)._replace(step=jnp.int32(int(step)))


def state_of(config: Config, record: Record, tensors: dict[str, np.ndarray], beta: np.ndarray, path: str) -> State:
    """A state of step 0 with these tensors and masks. Adam's averages, which no export holds, start afresh."""
    network = network_of(config, record)
    initial = (network.state.params["backbone"], network.state.statistics)
    params, statistics, _ = from_tensors(config.backbone.name, tensors, *initial, path)
    return initial_state(params, statistics, beta, network.optimizer)


def masks_of(beta: np.ndarray | None, path: str) -> np.ndarray:
    """The masks [C, D] of a file, as float32."""
    if beta is None or beta.ndim != 2 or beta.dtype.kind != "f" or not (beta.size and np.isfinite(beta).all()):
        needed = "a tensor masks.weight [conditions, dimensions] of finite floats"
        raise UserError(f"{path} has no masks ({needed}); give a checkpoint of a Conditional Similarity Network.")
    return beta.astype(np.float32)
