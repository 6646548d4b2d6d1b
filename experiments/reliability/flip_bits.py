"""Flip single bits in every file of a checkpoint, an item cache and an index: the right content or a word, no silence.

    python experiments/reliability/flip_bits.py --flips=2000

Files take turns, and the bit is random. A flip is harmless where all that is read equals the original bit for bit. Else
it must be told: of a checkpoint by step and leaf or file, and training goes on from the step before; of an index by its
name; a cache is made again. Ends with one line of JSON; exits 1 where one was silent.
"""

import argparse
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import lives

FILES = ("parquet, float32", "parquet, int8", "npz, float32", "npz, int8")


def flips_of_checkpoint(folder: Path, rng: random.Random):
    """Outcomes of one flip after the other, over all files of three steps of which the oldest is the best."""
    import saved

    from csn_jax.errors import MachineError
    from csn_jax.runtime.checkpoint import Checkpoints

    three = saved.filled(folder / "three", {1: 0.1, 2: 0.3, 3: None})
    names = [name for name in saved.files_of(three) if (three / name).stat().st_size]
    for name in itertools.cycle(names):
        told = saved.damage_and_restore(three, folder / "copy", lambda copy, name=name: saved.flip(copy / name, rng))
        where = name.partition("/")[0]
        if where != "3":
            assert not told, told  # an older step is nothing to the newest
            checkpoints = Checkpoints(folder / "copy", read_only=True)
            try:
                saved.assert_is(checkpoints.restore(int(where), saved.target()), int(where))
            except MachineError as error:
                told = str(error)
                assert f"{folder / 'copy' / where} is damaged: " in told, told
        yield f"checkpoint, {'told' if told else 'harmless'}"


def flips_of_cache(folder: Path, rng: random.Random):
    """Outcomes over both files of an entry. Lock files are empty."""
    import numpy as np
    import saved

    from csn_jax.data.cache import cached

    os.environ["CSN_JAX_CACHE"] = str(folder / "cache")
    blocks = np.random.default_rng(0).integers(256, size=(20, 8, 8, 3), dtype=np.uint8)
    made = []

    def produce(_):
        made.append(1)
        yield from zip(blocks, (f"note {i}" for i in range(20)), strict=True)

    cached("key", blocks.shape, produce)
    files = [path for path in sorted((folder / "cache").iterdir()) if path.suffix in (".npy", ".json")]
    for path in itertools.cycle(files):
        before = len(made)
        saved.flip(path, rng)
        images, notes = cached("key", blocks.shape, produce)
        assert np.array_equal(images, blocks) and notes == [f"note {i}" for i in range(20)], (path.name, notes)
        yield f"cache, {'made again' if len(made) > before else 'harmless'}"


def flips_of_index(folder: Path, rng: random.Random):
    """Outcomes over files of all kinds that `embed` writes."""
    import numpy as np
    import saved

    from csn_jax.data.item_set import Condition
    from csn_jax.errors import UserError
    from csn_jax.store.int8 import rounded
    from csn_jax.store.vector_file import Embeddings, read_embeddings, write_embeddings

    vectors = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
    items = Embeddings(
        ids=np.array([f"item {i}" for i in range(200)]),
        vectors=vectors,
        columns={"colour": np.array(["red", "blue", ""] * 66 + ["red"] * 2)},
        conditions=(Condition("colour", "categorical"), Condition("size", "numeric")),
        masks=np.abs(np.random.default_rng(1).normal(size=(2, 16))).astype(np.float32),
        model_sha256="0" * 64,
        pictures={"kind": "folder", "root": "/photos"},
    )
    originals = {}
    for kind in FILES:
        suffix, dtype = kind.split(", ")
        path = folder / f"{dtype}.{suffix}"
        small, scale = rounded(vectors.copy())
        write_embeddings(path, items if dtype == "float32" else items._replace(vectors=small, scale=scale))
        originals[path] = (path.read_bytes(), read_embeddings(path))
    for path, (data, expected) in itertools.cycle(originals.items()):
        saved.flip(path, rng)
        try:
            found, outcome = read_embeddings(path), "harmless"
            for ours, theirs in zip(found, expected, strict=True):
                same = (
                    repr(ours) == repr(theirs)
                    if isinstance(theirs, dict | tuple | str)
                    else np.array_equal(ours, theirs)
                )
                assert same, (path, ours, theirs)
        except UserError as error:
            assert str(path) in str(error), error
            outcome = "told"
        yield f"index, {outcome}"
        path.write_bytes(data)


def contest(flips: int, seed: int, folder: Path) -> dict:
    """Half of the flips in the checkpoint, a quarter each in the cache and the index: the report."""
    rng, outcomes, faults, began = random.Random(seed), Counter(), [], time.monotonic()
    parts = {
        flips_of_checkpoint: flips // 2,
        flips_of_cache: flips // 4,
        flips_of_index: flips - flips // 2 - flips // 4,
    }
    for part, number in parts.items():
        place = folder / part.__name__
        place.mkdir()
        try:
            for outcome in itertools.islice(part(place, rng), number):
                outcomes[outcome] += 1
        except AssertionError as silent:
            faults.append(f"{part.__name__}, after {dict(outcomes)}: {str(silent)[:2000]}")
    minutes = round((time.monotonic() - began) / 60, 1)
    return {"seed": seed, "flips": outcomes.total(), "outcomes": outcomes, "minutes": minutes, "faults": faults}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--flips", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flip_bits_") as folder:
        lives.prepare(Path(folder), tensorflow=False)
        report = contest(args.flips, args.seed, Path(folder))
    print(json.dumps(report))
    return 1 if report["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
