"""Equal and nearly equal items. In different splits they would leak test items into training."""

import hashlib
from typing import NamedTuple

import numpy as np

HASH_DISTANCE = 6  # of 64 bits may differ for two pictures to be compared
PIXEL_DISTANCE = 3.0  # mean difference of colour values, 0 to 255, up to which two pictures are nearly equal
THUMBNAIL = 16  # pixels per side of the compared copies
CANDIDATES = 100  # compared per item; only blank pictures have more
PAIRWISE = 100_000  # pictures up to which all pairs of hashes are compared; above, hashes must be equal
CHUNK = 128


class Duplicates(NamedTuple):
    """Which of N items look alike."""

    exact: int  # number of items that repeat an earlier one
    near: int  # number of items that are nearly equal to another one
    group: np.ndarray  # [N] int, for each item the first one that equal and nearly equal items connect it with


def find_duplicates(inputs: np.ndarray) -> Duplicates:
    """Group the items that look alike: [N, H, W, ch] uint8 pixels or [N, F] float vectors, perhaps memory-mapped.

    Two pictures are compared if the 64-bit hashes of their brightness gradients (9 x 8 grey) differ in few bits. They
    are nearly equal if small colour copies differ little. Vectors count only if they are equal.
    """
    root = _first_equal(inputs)
    distinct = np.flatnonzero(root == np.arange(len(inputs)))
    exact = len(inputs) - len(distinct)
    near = 0
    if inputs.ndim == 4:
        hashes, thumbnails = _summaries(inputs, distinct)
        pairs = distinct[_near_pairs(hashes, thumbnails)]
        near = len(np.unique(pairs))
        root = components(len(inputs), pairs)[root]
    return Duplicates(exact, near, root)


def _first_equal(inputs: np.ndarray) -> np.ndarray:
    """For each of N items the first one that has the same bytes: int [N]. Only items whose checksum repeats are hashed:
    a million hashes take ten seconds."""
    sums = np.zeros(len(inputs), np.uint64)
    for start in range(0, len(inputs), CHUNK):
        rows = np.ascontiguousarray(inputs[start : start + CHUNK]).reshape(len(inputs[start : start + CHUNK]), -1)
        rows = rows.view(np.uint8)
        words = rows[:, : rows.shape[1] // 8 * 8].view(np.uint64)  # what is left over is compared below
        factors = np.random.default_rng(0).integers(1 << 64, size=words.shape[1], dtype=np.uint64)
        sums[start : start + CHUNK] = words @ (factors | np.uint64(1))  # modulo 2^64
    _, group, counts = np.unique(sums, return_inverse=True, return_counts=True)
    root, first = np.arange(len(inputs)), {}
    for row in np.flatnonzero(counts[group] > 1).tolist():
        root[row] = first.setdefault(hashlib.sha256(inputs[row].tobytes()).digest(), row)
    return root


def components(n: int, pairs: np.ndarray) -> np.ndarray:
    """For each of n items the smallest one that pairs [P, 2] connect it with, directly or through others."""
    from scipy.sparse import coo_array, csgraph  # here, as it takes 0.2 s, and most runs have no pairs

    graph = coo_array((np.ones(len(pairs), bool), tuple(pairs.T)), shape=(n, n))
    _, label = csgraph.connected_components(graph, directed=False)
    return np.unique(label, return_index=True)[1][label]


def _summaries(inputs: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(hashes uint64 [K], thumbnails uint8 [K, 16 * 16 * ch]) of K rows of uint8 [N, H, W, ch]."""
    _, height, width, channels = inputs.shape
    to_grey = np.array([0.299, 0.587, 0.114] if channels == 3 else [1.0], np.float32)
    to_hash = _means(height, 8), _means(width, 9).T
    to_small = _means(height, THUMBNAIL), _means(width, THUMBNAIL).T
    hashes = np.empty(len(rows), np.uint64)
    thumbnails = np.empty((len(rows), THUMBNAIL * THUMBNAIL * channels), np.uint8)
    for start in range(0, len(rows), CHUNK):
        x = np.asarray(inputs[rows[start : start + CHUNK]], np.float32)
        grey = to_hash[0] @ (x @ to_grey) @ to_hash[1]  # [B, 8, 9]
        bits = (grey[:, :, 1:] > grey[:, :, :-1]).reshape(len(x), 64)
        hashes[start : start + CHUNK] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
        small = to_small[0] @ np.moveaxis(x, -1, 1) @ to_small[1]  # [B, ch, 16, 16]
        thumbnails[start : start + CHUNK] = np.rint(small).reshape(len(x), -1)
    return hashes, thumbnails


def _means(size: int, parts: int) -> np.ndarray:
    """float32 [parts, size]: the weights of the means over equal parts of `size` pixels."""
    edges = np.linspace(0, size, parts + 1)[:, None]
    pixels = np.arange(size)
    covered = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return (np.maximum(covered, 0) * parts / size).astype(np.float32)


def _near_pairs(hashes: np.ndarray, thumbnails: np.ndarray) -> np.ndarray:
    """Pairs [P, 2] of positions of nearly equal pictures, by blocks of candidates."""
    near = []
    if len(hashes) <= PAIRWISE:
        blocks = (_near_hashes(hashes, start) for start in range(0, len(hashes), CHUNK))
    else:
        order = np.argsort(hashes, kind="stable")
        blocks = (
            np.stack([order[:-step], order[step:]], axis=1)[hashes[order[:-step]] == hashes[order[step:]]]
            for step in range(1, CANDIDATES + 1)
        )
    for pairs in blocks:
        for start in range(0, len(pairs), 1 << 14):
            part = pairs[start : start + (1 << 14)]
            a, b = (thumbnails[part[:, side]].astype(np.int16) for side in range(2))
            near.append(part[np.abs(a - b).mean(axis=1) <= PIXEL_DISTANCE])
    return np.concatenate(near) if near else np.zeros((0, 2), np.int64)


def _near_hashes(hashes: np.ndarray, start: int) -> np.ndarray:
    """Pairs [P, 2] of the items of one chunk and later items whose hash differs in few bits."""
    near = np.bitwise_count(hashes[start : start + CHUNK, None] ^ hashes[None, start:]) <= HASH_DISTANCE  # [B, K]
    if near.sum() > CANDIDATES * len(near):  # blank pictures
        near = np.triu(near, 1)
        near &= near.cumsum(axis=1, dtype=np.int32) <= CANDIDATES
    pairs = np.argwhere(near) + start
    return pairs[pairs[:, 0] < pairs[:, 1]]
