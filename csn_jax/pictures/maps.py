"""Where items lie in the plane: a map of masked embeddings, by t-SNE where openTSNE is installed."""

import importlib.util
from collections.abc import Sequence

import numpy as np

from csn_jax.runtime.writer import Progress

SEED = 0
PERPLEXITY = 30
LEAST = 8  # items; fewer have no map but their two main axes


def has_tsne() -> bool:
    """Whether openTSNE is installed."""
    return importlib.util.find_spec("openTSNE") is not None


def draw_maps(vectors: np.ndarray, masks: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """A map for every condition.

    Each starts from the two main axes of its own masked vectors, and is then turned and mirrored, not bent, to lie on
    the first as well as it can: an item that moves between two maps moves because its neighbours changed.

    Args:
        vectors: [n, D] float32.
        masks: [C, D] float32.

    Returns:
        [C, n, 2] float64 between 0 and 1, the longer side of each map filling it.
    """
    progress, maps = Progress("drawing maps", len(masks) * len(vectors)), []
    for mask, name in zip(masks, names, strict=True):
        places = place(vectors.astype(np.float64) * mask)
        places -= places.mean(axis=0)
        if maps:
            left, _, right = np.linalg.svd(places.T @ maps[0])
            places = places @ (left @ right)
        maps.append(places)
        progress.advance(len(vectors), drawn=name)
    progress.close()
    scaled = []
    for places in maps:
        low, high = places.min(axis=0), places.max(axis=0)
        side = (high - low).max()
        scaled.append((places - (low + high) / 2) / (side or 1) + 0.5)
    return np.stack(scaled)


def place(masked: np.ndarray) -> np.ndarray:
    """Points [n, D] in the plane: [n, 2] float64, the same for the same points. Fewer than 8, points that are all
    alike, and without openTSNE all others, have no map but their two main axes."""
    centred = masked - masked.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, : -1 if masked.shape[1] == 1 else -3 : -1]  # the main one first
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])  # eigh leaves the sign open
    plane = np.zeros((len(masked), 2))
    plane[:, : axes.shape[1]] = centred @ axes
    spread = plane[:, 0].std()
    if len(masked) < LEAST or spread == 0 or not has_tsne():
        return plane
    import openTSNE

    # A little noise, as a mask of one live dimension has no second axis to leave the line by.
    start = 1e-4 * (plane / spread + np.random.default_rng(SEED).normal(0, 1e-2, plane.shape))
    # One thread: as fast as two at these sizes, many times faster beside other work, and the same bits every time.
    tsne = openTSNE.TSNE(
        perplexity=min(PERPLEXITY, (len(masked) - 1) / 3), initialization=start, random_state=SEED, n_jobs=1
    )
    return np.array(tsne.fit(masked))
