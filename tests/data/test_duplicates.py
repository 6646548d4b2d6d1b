"""Duplicates: equal pictures, nearly equal pictures, and different pictures that look similar."""

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from csn_jax.data import duplicates
from csn_jax.data.duplicates import components, find_duplicates

SIDE = 64


def scene(seed):
    """A smooth colour picture that differs from seed to seed."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def saved_again(pixels, quality):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def resized(pixels):
    return np.asarray(Image.fromarray(pixels).resize((48, 48)).resize((SIDE, SIDE)))


def brighter(pixels):
    return np.clip(pixels.astype(int) + 2, 0, 255).astype(np.uint8)


def with_a_stain(pixels):
    changed = pixels.copy()
    changed[30:33, 30:33] = 0
    return changed


def groups(duplicates):
    group = duplicates.group
    return {tuple(np.flatnonzero(group == root)) for root in np.unique(group)} - {(i,) for i in range(len(group))}


def test_equal_and_nearly_equal_pictures_are_grouped():
    """Copies, other qualities, sizes, brightness and small changes; not other pictures."""
    first = [scene(seed) for seed in range(12)]
    again = [
        first[0],
        saved_again(first[1], 60),
        resized(first[2]),
        brighter(first[3]),
        with_a_stain(first[4]),
        first[0],
    ]
    alike = find_duplicates(np.stack([*first, *again]))
    assert alike.exact == 2 and alike.near == 8
    assert groups(alike) == {(0, 12, 17), (1, 13), (2, 14), (3, 15), (4, 16)}
    assert (alike.group[:12] == np.arange(12)).all()


def test_equal_shapes_are_not_duplicates():
    """Another colour or a flip: a shop sells the same shoe in red and in blue."""
    shoe = np.full((SIDE, SIDE, 3), 255, np.uint8)
    shoe[30:50, 10:55], shoe[20:30, 10:25] = (200, 20, 20), (200, 20, 20)
    blue = np.where(shoe == (200, 20, 20), (20, 20, 200), shoe).astype(np.uint8)
    assert find_duplicates(np.stack([shoe, blue, shoe[:, ::-1]])).near == 0


def test_blank_pictures():
    """Blank pictures of other colours stay apart. A thousand equal ones are one group."""
    plain = np.stack([np.full((SIDE, SIDE, 3), 20 * i, np.uint8) for i in range(12)])
    alike = find_duplicates(np.concatenate([plain, np.repeat(plain[:1], 1000, axis=0)]))
    assert alike.exact == 1000 and alike.near == 0 and groups(alike) == {(0, *range(12, 1012))}


@pytest.mark.parametrize("shape", [(40, 40, 1), (17, 23, 3), (8, 9, 3)])
def test_any_size_and_grey(shape):
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (20, *shape), dtype=np.uint8)
    inputs[13] = inputs[5]
    inputs[17] = inputs[5]
    inputs[17, 0, 0] ^= 3
    assert groups(find_duplicates(inputs)) == {(5, 13, 17)}


def test_against_all_pairs_by_loops():
    """Hashes and small copies by their definitions."""
    rng = np.random.default_rng(0)
    side = 20  # not a multiple of 8, 9 or 16
    base = [scene(seed)[:side, :side].astype(int) for seed in range(6)]
    noisy = [np.clip(base[i % 6] + rng.normal(0, rng.uniform(0, 12), (side, side, 3)), 0, 255) for i in range(36)]
    inputs = np.stack(noisy).astype(np.uint8)

    def part(pixels, rows, columns):
        """Means over equal parts: rows x columns."""
        means = np.zeros((rows, columns, 3))
        for r, c in np.ndindex(rows, columns):
            total, weight = np.zeros(3), 0.0
            for y in range(r * side // rows, -(-(r + 1) * side // rows)):
                for x in range(c * side // columns, -(-(c + 1) * side // columns)):
                    height = min(y + 1, (r + 1) * side / rows) - max(y, r * side / rows)
                    width = min(x + 1, (c + 1) * side / columns) - max(x, c * side / columns)
                    total += height * width * pixels[y, x]
                    weight += height * width
            means[r, c] = total / weight
        return means

    hashes, small = [], []
    for pixels in inputs:
        grey = part(pixels, 8, 9) @ [0.299, 0.587, 0.114]
        hashes.append(grey[:, 1:] > grey[:, :-1])
        small.append(part(pixels, 16, 16).round())
    near = lambda a, b: (hashes[a] != hashes[b]).sum() <= 6 and np.abs(small[a] - small[b]).mean() <= 3  # noqa: E731
    expected = {(a, b) for a in range(36) for b in range(a + 1, 36) if near(a, b)}
    alike = {(a, b) for a in range(36) for b in range(a + 1, 36) if a % 6 == b % 6}
    assert expected < alike and len(expected) > 10
    h, thumbnails = duplicates._summaries(inputs, np.arange(36))
    assert {tuple(pair) for pair in duplicates._near_pairs(h, thumbnails).tolist()} == expected


def test_above_the_limit_of_pairs_equal_hashes_are_compared(monkeypatch):
    monkeypatch.setattr(duplicates, "PAIRWISE", 10)
    first = [scene(seed) for seed in range(20)]
    alike = find_duplicates(np.stack([*first, with_a_stain(first[7]), first[3]]))
    assert {(3, 21), (7, 20)} <= groups(alike) and alike.exact == 1


def test_vectors_are_duplicates_only_if_equal():
    vectors = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    vectors[20], vectors[21] = vectors[4], vectors[5] + 1e-6
    alike = find_duplicates(vectors)
    assert (alike.exact, alike.near, groups(alike)) == (1, 0, {(4, 20)})


@pytest.mark.parametrize(
    ("dtype", "shape"), [("float16", (3,)), ("float16", (13,)), ("float32", (6,)), ("uint8", (3, 5))]
)
def test_equal_bytes_against_a_loop(dtype, shape):
    """Rows of any number of bytes, most of them alike but for one number; zero and minus zero differ."""
    rng = np.random.default_rng(0)
    inputs = np.zeros((400, *shape), dtype)
    flat = inputs.reshape(400, -1)
    flat[np.arange(400), rng.integers(flat.shape[1], size=400)] = rng.integers(4, size=400)
    if dtype != "uint8":
        flat[rng.integers(400, size=20), -1] *= -1
    first = {}
    expected = [first.setdefault(item.tobytes(), row) for row, item in enumerate(inputs)]
    assert duplicates._first_equal(inputs).tolist() == expected and 5 < len(first) < 200


def test_components():
    pairs = np.array([[5, 3], [3, 1], [7, 8], [2, 2], [8, 7]])
    assert components(9, pairs).tolist() == [0, 1, 2, 1, 4, 1, 6, 7, 7]
    assert components(3, np.zeros((0, 2), int)).tolist() == [0, 1, 2]


def test_memory_is_bounded():
    """50,000 hashes are compared in chunks, not in 2.5 billion pairs at once."""
    rng = np.random.default_rng(0)
    n = 8_000
    hashes = rng.integers(0, 2**63, n).astype(np.uint64)
    hashes[: n // 2] = 0  # half of the pictures are blank
    thumbnails = rng.integers(0, 256, (n, 768), dtype=np.uint8)
    tracemalloc.start()
    duplicates._near_pairs(hashes, thumbnails)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 250e6  # all pairs of hashes alone would be 512 MB
