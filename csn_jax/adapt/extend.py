"""A run with one more condition: its state, record and model. The other conditions keep their bits."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from csn_jax.adapt.forms import Choice
from csn_jax.adapt.lesson import Lesson
from csn_jax.core.maps import AXES, Axes, Maps, pieces, principal_axes
from csn_jax.core.steps import State, initial_state
from csn_jax.model.from_state import make_model, make_programs
from csn_jax.model.model import Model
from csn_jax.model.network import Network, network_of
from csn_jax.model.run import Run
from csn_jax.runtime.record import Record
from csn_jax.runtime.sharding import make_shardings

MOST = 512  # rows of known maps that a new condition may weigh, whose fit takes the square of their number


class Wider(NamedTuple):
    """A run with one more condition, which is the last."""

    record: Record
    state: State
    model: Model


def axes_of(run: Run, state: State, vectors: np.ndarray) -> Axes:
    """The coordinates in which a new map starts: the run's own axes of its vectors, or the principal axes of embeddings
    [R, D] that a network made."""
    if run.config.maps_vectors:
        mean, rows = (np.asarray(state.statistics[name]) for name in ("mean", "axes"))
        return Axes(mean, rows if run.config.maps.axes else rows[:AXES])
    k = max(1, min(AXES, vectors.shape[1], len(vectors) - 1))
    return principal_axes(vectors, np.arange(len(vectors)), k, unit=False)


def known_rows(run: Run, state: State, axes: Axes) -> np.ndarray | None:
    """The rows [V, k] of the maps of a run over vectors, without those that fill them up; at most MOST. None for maps
    on the embedding of images, whose coordinates are others."""
    if not run.config.maps_vectors:
        return None
    learned = ~np.isin(run.record.names, run.record.raw.get("conditions", ()))
    kept = np.asarray(state.statistics["kept"])[learned]
    rows = kept.reshape(-1, kept.shape[2])
    return rows[np.any(rows, axis=1)][:MOST, : len(axes.rows)]


def with_mask(run: Run, state: State, model: Model, lesson: Lesson, mask: np.ndarray) -> Wider:
    """A run of masks with one more mask [D]."""
    beta = np.asarray(state.params["beta"])
    record = _record(run, lesson)
    beside = np.zeros(model.masks.shape[1] - len(mask), np.float32)  # over the raw vector, if there is one
    masks = np.concatenate([model.masks, np.concatenate([mask, beside])[None]])
    _, state = _extended(run, record, state, state.statistics, np.concatenate([beta, mask[None]]))
    return Wider(record, state, model.with_masks(record.names, masks))


def with_choice(
    run: Run, state: State, model: Model, lesson: Lesson, choice: Choice, axes: Axes, vectors: np.ndarray
) -> Wider:
    """A run of maps with one more condition of the chosen form. Its mean squared distance between items, here the
    vectors [R, D], is the mean of those under the other conditions, so that it counts as much as they in a mixture."""
    beta, raw, name = np.asarray(state.params["beta"]), run.record.raw, lesson.condition.name
    views = model.view(vectors)
    spread = 0.0  # of a run without a condition
    if model.conditions:
        spread = float(np.mean(np.square(model.masks, dtype=np.float64) @ views.var(axis=0, dtype=np.float64)))

    def scaled(rows: np.ndarray, by: np.ndarray) -> np.ndarray:
        """Rows times the factor that gives their product with `by` the spread of the other conditions."""
        own = Maps(rows @ by, model.maps.unit).views(vectors).var(axis=0, dtype=np.float64).sum()
        return rows * np.float32(np.sqrt(spread / own) if spread > 0 and own > 0 else 1)

    if run.config.maps_vectors:
        start = np.eye(1, beta.shape[3], dtype=np.float32)  # a place for what raw vectors take the part of
        own = start if choice.rows is None else scaled(choice.rows, axes.rows)
        if choice.rows is None:
            size = sum(x.var(axis=0).sum() * len(x) for _, x in pieces(vectors, model.maps.unit, np.float32))
            scale = float(np.sqrt(spread * len(vectors) / size)) if spread > 0 and size > 0 else 1.0
            raw = {"scale": scale} | raw | {"conditions": [*raw.get("conditions", ()), name]}
    else:
        whole = np.eye(beta.shape[3], dtype=np.float32)
        own = scaled(whole if choice.rows is None else choice.rows @ axes.rows, whole)
    own = np.pad(own, ((0, 0), (0, beta.shape[3] - own.shape[1])))  # axes beyond those that it was learned on
    rank = max(beta.shape[2], len(own))
    own, beta, statistics = _filled(own, rank), _filled(beta, rank), state.statistics
    beta = np.concatenate([beta, np.broadcast_to(own, (len(beta), 1, *own.shape))], axis=1)
    if run.config.maps_vectors:
        kept, error = (np.asarray(statistics[name]) for name in ("kept", "kept_error"))
        kept = np.concatenate([_filled(kept, rank), own[None]])
        statistics = statistics | {"kept": kept, "kept_error": np.append(error, np.float32(choice.error))}
    record = dataclasses.replace(_record(run, lesson), maps=run.record.maps | {"rank": rank}, raw=raw)
    network, state = _extended(run, record, state, statistics, beta)
    parts = (record.names, record.input_shape, state, make_programs(network), make_shardings())
    return Wider(record, state, make_model(run.config, *parts, raw=raw))


def _record(run: Run, lesson: Lesson) -> Record:
    """Without a report of the new condition, which is measured later."""
    old = run.record
    return dataclasses.replace(
        lesson.own[0].record if lesson.own else old,
        conditions=(*old.conditions, lesson.condition),
        init_sha256=old.init_sha256,
        init_licence=old.init_licence,
        adapted=old.adapted,
        maps=old.maps,
        raw=old.raw,
    )


def _extended(run: Run, record: Record, state: State, statistics: Any, beta: np.ndarray) -> tuple[Network, State]:
    network = network_of(run.config, record)
    new = initial_state(state.params["backbone"], statistics, beta, network.optimizer)
    return network, new._replace(step=state.step)


def _filled(maps: np.ndarray, rank: int) -> np.ndarray:
    """Maps [..., r, k] with rows of zeros up to a rank."""
    return np.pad(maps, [(0, 0)] * (maps.ndim - 2) + [(0, rank - maps.shape[-2]), (0, 0)])
