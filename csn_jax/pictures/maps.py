"""Maps of masked embeddings in the plane: by t-SNE if openTSNE is installed, else by principal axes."""

import importlib.util
from collections.abc import Sequence

import numpy as np

from csn_jax.runtime.writer import Progress

SEED = 0
PERPLEXITY = 30
LEAST = 8  # items for t-SNE
MOST = 10_000  # items for t-SNE, which takes minutes for so many; of more, a sample is placed by it
SAMPLE = 5_000
BESIDE = 5  # items of the sample that place another one
PIECE = 2_000  # items placed at a time


def has_tsne() -> bool:
    """Whether openTSNE is installed."""
    return importlib.util.find_spec("openTSNE") is not None


def is_sampled(n: int) -> bool:
    """Whether a map of n items is that of a sample, with the other items beside their nearest ones in it."""
    return n > MOST and has_tsne()


def draw_maps(vectors: np.ndarray, masks: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """A map per condition of vectors [n, D] under masks [C, D]: [C, n, 2] float64, whose longer sides go from 0 to 1.

    Each starts from the two principal axes of its masked vectors. Rotation and reflection then align it with the first
    map, so that an item that moves between two maps has other neighbours.
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
    maps = np.stack(maps)
    low, high = maps.min(axis=1, keepdims=True), maps.max(axis=1, keepdims=True)  # [C, 1, 2]
    side = (high - low).max(axis=2, keepdims=True)
    return np.clip((maps - (low + high) / 2) / np.where(side > 0, side, 1) + 0.5, 0, 1)  # rounding may leave -1e-16


def place(masked: np.ndarray) -> np.ndarray:
    """Points [n, D] in the plane: [n, 2] float64, the same bits for the same points. Fewer than 8 points, and points
    that are all equal, are placed by their two principal axes, as without openTSNE. Of more than MOST points, t-SNE
    places a sample, and the others stand beside their nearest ones in it."""
    if is_sampled(len(masked)):
        rng = np.random.default_rng(SEED)
        sample = np.sort(rng.choice(len(masked), SAMPLE, replace=False))
        return place_beside(masked, masked[sample], place(masked[sample]), rng)
    centred = masked - masked.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, : -1 if masked.shape[1] == 1 else -3 : -1]  # the principal one first
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])  # eigh returns either sign
    plane = np.zeros((len(masked), 2))
    plane[:, : axes.shape[1]] = centred @ axes
    spread = plane[:, 0].std()
    if len(masked) < LEAST or spread == 0 or not has_tsne():
        return plane
    import openTSNE

    # With noise: a mask with one live dimension has no second axis, and t-SNE would stay on a line.
    start = 1e-4 * (plane / spread + np.random.default_rng(SEED).normal(0, 1e-2, plane.shape))
    # One thread gives the same bits every time. It is as fast as two at these sizes, and faster beside other work.
    perplexity = min(PERPLEXITY, (len(masked) - 1) / 3)
    tsne = openTSNE.TSNE(perplexity=perplexity, initialization=start, random_state=SEED, n_jobs=1)
    return np.array(tsne.fit(masked))


def place_beside(masked: np.ndarray, sample: np.ndarray, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Points [n, D] beside the nearest of a sample [m, D] that has places [m, 2]: [n, 2] float64, in the middle of the
    nearest few, each weighed by its nearness. A little noise keeps points apart that would coincide."""
    plane = np.empty((len(masked), 2))
    masked, sample = masked.astype(np.float32), sample.astype(np.float32)
    squares = np.einsum("md,md->m", sample, sample)
    noise = 0.002 * np.ptp(places, axis=0)
    for start in range(0, len(masked), PIECE):
        x = masked[start : start + PIECE]
        gaps = squares - 2 * (x @ sample.T)  # [P, m], less the square of x
        near = np.argpartition(gaps, BESIDE, axis=1)[:, :BESIDE]
        gaps = np.take_along_axis(gaps, near, axis=1) + np.einsum("pd,pd->p", x, x)[:, None]
        gaps = np.maximum(gaps, max(1e-30, 1e-6 * squares.max()))
        weights = (gaps.min(axis=1, keepdims=True) / gaps) ** 2
        weights /= weights.sum(axis=1, keepdims=True)
        plane[start : start + len(x)] = np.einsum("pk,pkd->pd", weights, places[near])
    return plane + rng.normal(0, 1, plane.shape) * noise
