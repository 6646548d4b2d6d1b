"""The parts of a file of vectors: resumed, checked and joined, without a model."""

import json

import numpy as np
import pytest

from csn_jax.data import to_embed
from csn_jax.data.to_embed import ToEmbed
from csn_jax.embed.file import embed_in_parts
from csn_jax.errors import MachineError, UserError

N, CHUNK = 50, 8
INPUTS = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(to_embed, "CHUNK", CHUNK)


def items(bad=()):
    """Items `i0`, `i1`, ...; the bad ones cannot be read."""
    faults = [f"is bad {i}" if i in bad else None for i in range(N)]

    def digests():
        return to_embed.of_rows(INPUTS, np.arange(N))

    def chunks(positions):
        for first in range(0, len(positions), CHUNK):
            rows = positions[first : first + CHUNK].tolist()
            yield INPUTS[[row for row in rows if not faults[row]]], [faults[row] for row in rows]

    return ToEmbed(np.array([f"i{i}" for i in range(N)], object), {}, {}, chunks, digests, [])


def embedded(folder, function=lambda inputs: 2 * inputs, bad=(), made_from="a", dtype="float32"):
    folder.mkdir(exist_ok=True)
    return embed_in_parts(folder, made_from, items(bad), function, dtype)


@pytest.mark.parametrize("bad", [(), (3, 49), range(8, 24), range(8)], ids=str)
def test_vectors_and_positions_of_the_readable_items(tmp_path, bad):
    """Also when no item of a whole chunk can be read."""
    vectors, kept = embedded(tmp_path, bad=bad)
    assert kept.tolist() == [i for i in range(N) if i not in bad]
    np.testing.assert_array_equal(vectors, 2 * INPUTS[kept])


def test_only_what_is_missing_or_damaged_is_embedded_again(tmp_path, capsys):
    sizes = []

    def function(inputs):
        sizes.append(len(inputs))
        return 2 * inputs

    embedded(tmp_path, function)
    part = tmp_path / "000005.npz"
    raw = bytearray(part.read_bytes())
    raw[200] ^= 1
    part.write_bytes(raw)
    sizes.clear()
    vectors, _ = embedded(tmp_path, function)
    assert sizes == [CHUNK, N % CHUNK] and "resuming after 40 of 50" in capsys.readouterr().err
    np.testing.assert_array_equal(vectors, 2 * INPUTS)
    sizes.clear()
    embedded(tmp_path, function, made_from="another request")
    assert sum(sizes) == N


def test_unreadable_items_are_named_up_to_twenty(tmp_path, capsys):
    embedded(tmp_path, bad=range(5, 30))
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert lines == [*(f"left out i{i}, which is bad {i}" for i in range(5, 25)), "left out 5 more"]


@pytest.mark.parametrize(
    ("value", "dtype", "bad", "error", "words"),
    [
        (np.nan, "float32", (8,), MachineError, ("vector of i9 is not finite",)),
        (1e5, "float16", (), UserError, ("--dtype=float16", "65,504")),
        (1.0, "float32", range(N), UserError, ("none of the 50 images",)),
    ],
)
def test_failures(tmp_path, value, dtype, bad, error, words):
    """A vector that is not finite is the model's failure, the others are the user's."""

    def function(inputs):
        return np.where(np.isin(inputs, INPUTS[9]), np.float32(value), inputs)

    with pytest.raises(error) as raised:
        embedded(tmp_path, function, bad, dtype=dtype)
    assert all(word in str(raised.value) for word in words)


def test_the_type_of_the_vectors(tmp_path):
    """int8 needs all vectors for its scale, so its parts are float32."""
    for dtype, stored in {"float16": "float16", "int8": "float32"}.items():
        vectors, _ = embedded(tmp_path / dtype, dtype=dtype)
        assert vectors.dtype == stored
        with np.load(tmp_path / dtype / "000000.npz") as part:
            assert part["vectors"].dtype == stored and json.loads(str(part["faults"])) == [None] * CHUNK
