"""A run of masks as maps over its network's features, which csn_jax embed --features stored: a mask over a linear layer
is a map over that layer's input. So a new condition can use more than the embedding holds."""

import json
from pathlib import Path

import numpy as np

from csn_jax.adapt.start import NewRun, run_over
from csn_jax.backbones import HEAD
from csn_jax.backbones.plain import PROJECTION_SCALE
from csn_jax.core.maps import AXES, Axes, MapsPlan, principal_axes
from csn_jax.errors import UserError
from csn_jax.model.model import Model
from csn_jax.model.run import Run
from csn_jax.store.vector_file import KEY, read_embeddings


def over_features(run: Run, model: Model, index: str) -> NewRun | None:
    """A run over the features in a file, with the conditions of a run; distances under these are the same up to
    rounding. None unless `index` is a Parquet file of features of that run's network.

    Raises:
        UserError: when a condition keeps the raw vectors, as a map over the features cannot give these.
    """
    path = Path(index).expanduser()
    if model.maps or not _holds_features(path, model.sha256):
        return None
    if raw := (run.record.raw or {}).get("conditions"):
        raise UserError(
            f"--index={index} holds features, but {raw[0]!r} of {run.workdir} keeps the raw vectors, which maps over "
            "features cannot give; train maps on the vectors themselves, with --config=features, and adapt that run."
        )
    _, state = run.restore()
    items = read_embeddings(path)
    layer = np.asarray(state.params["backbone"][HEAD]["kernel"], np.float64).T  # [D, F]
    if run.config.backbone.name == "projection":
        layer *= PROJECTION_SCALE
    axes = axes_with(layer, items.vectors)
    size = np.square(axes.rows[0], dtype=np.float64).sum()
    maps = (model.masks[:, :, None] * layer @ axes.rows.T / size).astype(np.float32)  # [C, D, k]
    plan = MapsPlan(len(axes.rows), len(layer), (0.0,))
    return run_over(run.workdir, items, axes, plan, unit=False, conditions=run.record.conditions, maps=maps)


def axes_with(layer: np.ndarray, vectors: np.ndarray) -> Axes:
    """The principal axes of vectors [N, F], and behind them orthogonal directions for what a layer [D, F] sees beside
    them, so that each map over the layer's output is one over these coordinates."""
    n, width = vectors.shape
    mean, rows = principal_axes(vectors, np.arange(n), max(1, min(AXES, width, n - 1)), unit=False)
    lengths = np.linalg.norm(rows, axis=1)
    rows = rows[lengths > lengths.max() / 2]  # those without variance have lost their length to rounding
    basis = np.linalg.qr(np.concatenate([rows, layer]).T)[0].T  # begins with the axes, up to their signs
    return Axes(mean, np.concatenate([rows, (basis[len(rows) :] * lengths.max()).astype(np.float32)]))


def _holds_features(path: Path, model_sha256: str) -> bool:
    """Whether a file's metadata says that embed --features wrote it, with a network of this digest."""
    import pyarrow
    import pyarrow.parquet

    try:
        head = json.loads(pyarrow.parquet.read_schema(path).metadata[KEY])
        return not head["conditions"] and head["model_sha256"] == model_sha256
    except (OSError, pyarrow.ArrowException, KeyError, TypeError, ValueError, RecursionError):
        return False  # who reads the file next says what is wrong
