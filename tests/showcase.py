"""A small page of csn_jax.explore without training: random vectors, pictures, and labels that are markup."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from csn_jax.data.item_set import Condition, ItemSet
from csn_jax.explore import folder
from csn_jax.explore.items import Shown, of_rows
from csn_jax.runtime.record import Results
from csn_jax.runtime.whole import write_folder
from csn_jax.store.index import Index
from csn_jax.store.vector_file import Embeddings

HOSTILE = '<img src=x onerror="window.hacked=1">'
IDS = ("</script><script>window.hacked=1</script>", "\u2028\u2029 \\u003c ' \" ` ${window.hacked=1}", "<!--", "𝕏 ünï")
CONDITIONS = (Condition("shape", "categorical"), Condition(HOSTILE, "categorical"), Condition("price", "numeric"))
ABOUT = {"run": "<run>", "variant": "learned", "split": "test", "step": 7, "total": 80, "seed": 0}
RESULTS = {
    "variant": "learned",
    "split": "test",
    "step": 7,
    "conditions": [name for name, _ in CONDITIONS],
    "triplet_error": {"overall": 0.25, "by_condition": {"shape": 0.125, HOSTILE: 0.25, "price": 0.5}},
    "ci95": {"overall": [0.2, 0.3], "by_condition": {name: [0.1, 0.6] for name, _ in CONDITIONS}},
    "n_triplets": {"overall": 3000, "by_condition": {name: 1000 for name, _ in CONDITIONS}},
}


def items(n: int = 80, channels: int = 3, side: int = 24) -> ItemSet:
    """n items, the first four with hostile ids, with labels of the conditions and of a column `__proto__`."""
    rng = np.random.default_rng(0)
    labels = {
        "__proto__": np.array([f"p{i % 2}" for i in range(n)]),
        "shape": np.array([("round", "flat", "")[i % 3] for i in range(n)]),
        HOSTILE: np.array([(HOSTILE, "x</script>")[i % 2] for i in range(n)]),
        "price": np.array([f"{price:.2f}" for price in rng.uniform(1, 90, n)]),
    }
    ids = np.array([*IDS, *(f"item {i}" for i in range(n))])[:n]
    inputs = rng.integers(0, 256, (n, side, side, channels), np.uint8)
    split = np.array(["test"] * n)
    return ItemSet(inputs, ids, labels, split, CONDITIONS, (*CONDITIONS, Condition("__proto__", "categorical")))


def model(n: int = 80, width: int = 12) -> tuple[SimpleNamespace, np.ndarray]:
    """The parts of a model that a page needs, and vectors [n, D] grouped by shape."""
    rng = np.random.default_rng(1)
    masks = np.maximum(rng.normal(0.3, 0.7, (len(CONDITIONS), width)), 0).astype(np.float32)
    vectors = rng.normal(0, 1, (n, width)).astype(np.float32)
    vectors[:, :3] += 3 * np.eye(3, dtype=np.float32)[np.arange(n) % 3]
    return SimpleNamespace(conditions=tuple(name for name, _ in CONDITIONS), masks=masks), vectors


def index(shown: ItemSet) -> Index:
    """The same items for csn_jax.Index.search."""
    made, vectors = model(len(shown.ids))
    stored = Embeddings(shown.ids, vectors, {}, CONDITIONS, made.masks, "", {})
    return Index(stored, made.conditions, made.masks)


def shown_of(shown: ItemSet, ink: bool = False) -> Shown:
    made, vectors = model(len(shown.ids))
    shown = dataclasses.replace(shown, ink=ink)
    rows = np.arange(len(shown.ids))
    return of_rows(shown, rows, vectors, made.conditions, made.masks, Results.from_object(RESULTS), ABOUT)


def files(shown: ItemSet, ink: bool = False, link: str = "") -> dict[str, bytes]:
    return folder.page_files(shown_of(shown, ink), link)


def write(out: Path, shown: ItemSet, link: str = "") -> Path:
    """Write a page and return its index.html."""
    write_folder(out, files(shown, link=link), folder.OURS, folder.MARK)
    return out / "index.html"
