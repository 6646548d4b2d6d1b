"""States from tensors: of an exported folder, and of a released checkpoint."""

import re
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from csn_jax.backbones.tensors import MASKS, from_tensors
from csn_jax.config import Config
from csn_jax.core.steps import State, initial_state
from csn_jax.errors import UserError
from csn_jax.model.network import build_network, examples
from csn_jax.model.weight_files import read_weights
from csn_jax.runtime.record import Record

if TYPE_CHECKING:
    from csn_jax.model.run import Run

WEIGHTS = "model.safetensors"


def exported_state(run: "Run") -> State:
    """The state of a folder that csn_jax port exported; a UserError if its weights do not fit its records."""
    path, record = str(run.workdir / WEIGHTS), run.record
    weights = read_weights(path, "CHECKPOINT")
    tensors, step = dict(weights.tensors), weights.metadata.get("step", "")
    beta = masks_of(tensors.pop(MASKS, None), path)
    shape = (len(record.conditions), run.config.backbone.embedding_dim)
    if beta.shape != shape or not re.fullmatch(r"\d{1,9}", step):
        raise UserError(
            f"{path} has masks {[*beta.shape]} of step {step!r}, but config.json and data.json beside it need "
            f"masks {[*shape]} of a numbered step; export the folder again."
        )
    return state_of(run.config, record, tensors, beta, path)._replace(step=jnp.int32(int(step)))


def state_of(config: Config, record: Record, tensors: dict[str, np.ndarray], beta: np.ndarray, path: str) -> State:
    """A state of step 0 with these tensors and masks. Adam's averages, which no export holds, start afresh."""
    network = build_network(config, record.input_shape, len(beta), examples(config, record))
    initial = (network.state.params["backbone"], network.state.statistics)
    params, statistics, _ = from_tensors(config.backbone.name, tensors, *initial, path)
    return initial_state(params, statistics, beta, network.optimizer)


def masks_of(beta: np.ndarray | None, path: str) -> np.ndarray:
    """The masks [C, D] of a file, as float32."""
    if beta is None or beta.ndim != 2 or beta.dtype.kind != "f" or not (beta.size and np.isfinite(beta).all()):
        needed = "a tensor masks.weight [conditions, dimensions] of finite floats"
        raise UserError(f"{path} has no masks ({needed}); give a checkpoint of a Conditional Similarity Network.")
    return beta.astype(np.float32)
