"""Models from training states, and several of them as one."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from csn_jax.backbones import Backbone
from csn_jax.config import STAGES, Config
from csn_jax.core.losses import norm
from csn_jax.core.maps import Maps, stacked, with_raw
from csn_jax.core.masks import rectify
from csn_jax.core.preprocess import Preprocess, make_preprocess
from csn_jax.core.steps import State, make_embed_step, make_features_step
from csn_jax.model.model import Model
from csn_jax.model.network import Network, backbone_of
from csn_jax.runtime.compiler import jit
from csn_jax.runtime.sharding import Shardings, make_shardings, place


class Programs(NamedTuple):
    """The jitted functions (params, statistics, inputs [B, ...]) of a network, shared by all models of a run."""

    embed: Callable[..., jax.Array]  # -> [B, D]
    features: Callable[..., jax.Array]  # -> [B, F]


def make_programs(network: Network) -> Programs:
    """Jitted, so that each is compiled at its first call."""
    return _programs(network.backbone, network.preprocess)


@lru_cache(maxsize=16)  # a model that is loaded again compiles nothing
def _programs(backbone: Backbone, preprocess: Preprocess) -> Programs:
    return Programs(*(jit(make(backbone, preprocess)) for make in (make_embed_step, make_features_step)))


class Origin(NamedTuple):
    """What makes a network's part of a model. params and statistics: as in State."""

    config: Config
    input_shape: tuple[int, ...]
    params: Any
    statistics: Any
    step: int
    raw: tuple[bool, float] | None = None  # whether of unit length, and scale, of the input beside the embedding


def make_model(
    config: Config,
    conditions: Sequence[str],
    input_shape: Sequence[int],
    state: State,
    programs: Programs,
    shardings: Shardings,
    *,
    rectified: bool = True,
    raw: dict[str, Any] | None = None,
) -> Model:
    """A model from a training state. `raw`: as in Record; its conditions have the vectors' raw geometry."""
    beta, width, maps = np.asarray(state.params["beta"]), config.backbone.embedding_dim, None
    origin = Origin(config, tuple(input_shape), state.params, state.statistics, int(state.step))
    if config.maps_vectors:
        kept, axes, unit = (np.asarray(state.statistics[name]) for name in ("kept", "axes", "unit"))
        width, maps, masks = input_shape[0], Maps(axes[:0], bool(unit)), np.zeros((0, 0), np.float32)
        if len(kept):  # a run that adapt starts has no condition yet
            maps, masks = stacked([_rows(own) @ axes for own in kept], bool(unit))
    elif config.variant == "maps":
        maps, masks = stacked(beta[0], unit=False)
    else:
        masks = np.asarray(rectify(beta) if rectified else beta)
    if raw and raw.get("conditions"):
        served = np.isin(conditions, raw["conditions"])
        if config.maps_vectors:
            maps, masks = with_raw(maps, masks, served, raw["scale"])
        else:
            beside = np.repeat(served[:, None], input_shape[0], axis=1).astype(np.float32)
            masks = np.concatenate([np.where(served[:, None], np.float32(0), masks), beside], axis=1)
            width, origin = masks.shape[1], origin._replace(raw=raw_beside(config, raw))
    return _from_origin(origin, tuple(conditions), masks, maps, width, programs, shardings)


def _rows(own: np.ndarray) -> np.ndarray:
    """A map without the rows of zeros that fill it up to the highest rank: when another condition comes with more rows,
    these could change the last bits of a product."""
    return own[np.any(own, axis=1)]


def _from_origin(
    origin: Origin,
    conditions: tuple[str, ...],
    masks: np.ndarray,
    maps: Maps | None,
    width: int,
    programs: Programs,
    shardings: Shardings,
) -> Model:
    config, input_shape, params, statistics, step, raw = origin

    def embed(inputs: jax.Array) -> jax.Array:
        embeddings = programs.embed(params, statistics, inputs)
        return embeddings if raw is None else jnp.concatenate([embeddings, raw_geometry(inputs, *raw)], axis=1)

    return Model(
        conditions=conditions,
        masks=masks,
        step=step,
        input_shape=input_shape,
        maps=maps,
        _width=width,
        _any_size=config.backbone.name in STAGES,
        _embed=embed,
        _features=lambda inputs: programs.features(params, statistics, inputs),
        _digest=lambda: _digest(origin),
        _shardings=shardings,
        _preprocess=config.preprocess,
        _origin=lambda: Origin(config, input_shape, *jax.tree.map(np.asarray, (params, statistics)), step, raw),
        _unpickled=_unpickled,
    )


def raw_beside(config: Config, raw: dict[str, Any] | None) -> tuple[bool, float] | None:
    """Whether of unit length, and the scale, of the vectors that a model has beside its embedding, as some condition
    keeps their raw geometry. None if it has none, and for maps, whose embedding is the vector. `raw`: as in Record."""
    if config.maps_vectors or not (raw and raw.get("conditions")):
        return None
    return raw["unit"], raw["scale"]


@partial(jax.jit, static_argnums=(1, 2))
def raw_geometry(inputs: jax.Array, unit: bool, scale: float) -> jax.Array:
    """Vectors [B, F] in their raw geometry: scaled to length 1 if `unit`, then by `scale`."""
    return inputs * (scale / jnp.maximum(norm(inputs, axis=1), 1e-12)[:, None] if unit else scale)


def _unpickled(
    origin: Origin | list[Origin], conditions: tuple[str, ...], masks: np.ndarray, maps: Maps | None
) -> Model:
    """A model of one network, or of several joined ones."""
    if isinstance(origin, list):
        return join([_unpickled(part, (), np.ones((1, 1), np.float32), None) for part in origin]).with_masks(
            conditions, masks
        )
    shardings, config = make_shardings(), origin.config
    params, statistics = place((origin.params, origin.statistics), shardings.state)
    programs = _programs(backbone_of(config), make_preprocess(config.preprocess))
    origin = origin._replace(params=params, statistics=statistics)
    width = origin.input_shape[0] if config.maps_vectors else config.backbone.embedding_dim
    width += origin.input_shape[0] if origin.raw else 0
    return _from_origin(origin, conditions, masks, maps, width, programs, shardings)


def _digest(origin: Origin) -> str:
    config, params, statistics = origin.config, origin.params["backbone"], origin.statistics
    if config.maps_vectors:  # the embedding is the vector, whatever maps apply to it
        return hashlib.sha256(f"vectors of {origin.input_shape[0]} numbers".encode()).hexdigest()
    # Settings that only training reads are left out. The digest is stored in files of vectors: keep its form.
    network = repr(replace(config.backbone, init="", freeze="", learning_rate_ratio=1.0, rematerialise=False))
    network = network.replace(", rematerialise=False", "")  # newer than the form
    preprocess = repr(replace(config.preprocess, flip=False)).replace(", fit='crop'", "")  # newer than the form
    raw = f", {origin.raw}" if origin.raw else ""
    hasher = hashlib.sha256(f"({network}, {preprocess}{raw})".encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path((params, statistics)):
        leaf = np.asarray(leaf)
        hasher.update(repr((jax.tree_util.keystr(path), leaf.shape, leaf.dtype.str)).encode())
        hasher.update(np.ascontiguousarray(leaf))
    return hasher.hexdigest()


def join(models: Sequence[Model]) -> Model:
    """Specialists as one model: concatenated embeddings [B, C * D], and a block mask per condition [C, C * D]."""
    masks, at = np.zeros((len(models), sum(model._width for model in models)), np.float32), 0
    for row, model in zip(masks, models, strict=True):
        row[at : at + model._width], at = model.masks[0], at + model._width
    concatenated = lambda parts: jnp.concatenate(list(parts), axis=1)  # noqa: E731
    return replace(
        models[0],
        conditions=tuple(name for model in models for name in model.conditions),
        masks=masks,
        _width=masks.shape[1],
        step=max(model.step for model in models),
        _embed=lambda inputs: concatenated(model._embed(inputs) for model in models),
        _features=lambda inputs: concatenated(model._features(inputs) for model in models),
        _digest=lambda: hashlib.sha256("".join(model.sha256 for model in models).encode()).hexdigest(),
        _origin=lambda: [model._origin() for model in models],
    )


def restore_target(state: State, shardings: Shardings) -> State:
    """Shapes, dtypes and placement of a state, for a checkpoint to be restored into."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings.state),
        jax.eval_shape(lambda: state),
    )
