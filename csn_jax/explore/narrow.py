"""Fewer numbers per item, where a page of many wide vectors would be too large to load."""

from typing import NamedTuple

import numpy as np

MOST = 12_000_000  # numbers of a page: 16 MB as text
LEAST = 16  # numbers per group that are always kept
SAMPLE = 20_000  # items that axes are found from, at most


class Narrow(NamedTuple):
    """vectors: [n, V] float32. masks: [C, V]. share: of the variance of the narrowed parts, how much is left; 1 if
    nothing was narrowed."""

    vectors: np.ndarray
    masks: np.ndarray
    share: float


def narrowed(vectors: np.ndarray, masks: np.ndarray) -> Narrow:
    """Vectors [n, V] and masks [C, V] in at most MOST numbers, if they have parts that can be narrowed.

    Dimensions that every condition weighs alike, as the views of one map, may be rotated together: distances under any
    mixture stay as they are. Of a wide group of them, the first principal axes are kept.
    """
    vectors = np.asarray(vectors, np.float32)
    room = MOST // max(1, len(vectors))
    if masks.shape[1] <= room:
        return Narrow(vectors, masks, 1.0)
    columns, group_of = np.unique(masks.T, axis=0, return_inverse=True)
    group_of = group_of.ravel()
    used = [group for group in range(len(columns)) if columns[group].any()]
    most = max(LEAST, room // max(1, len(used)))
    parts, weights, kept, total = [], [], 0.0, 0.0
    for group in used:
        part, column = vectors[:, group_of == group], columns[group]
        if part.shape[1] > most:
            sample = np.random.default_rng(0).permutation(len(part))[:SAMPLE]
            mean = part[sample].mean(axis=0)
            centred = (part[sample] - mean).astype(np.float64)
            values, axes = np.linalg.eigh(centred.T @ centred)
            kept, total = kept + values[-most:].sum(), total + values.sum()
            part = (part - mean) @ axes[:, : -most - 1 : -1].astype(np.float32)
        parts.append(part)
        weights += [column] * part.shape[1]
    return Narrow(np.concatenate(parts, axis=1), np.array(weights, np.float32).T, kept / total if total else 1.0)
