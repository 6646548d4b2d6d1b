"""docs/stores.md: its Python runs from top to bottom, and its stores find what the page says they find."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from csn_jax.core.maps import stacked
from csn_jax.data.item_set import Condition
from csn_jax.store.vector_file import Embeddings, write_embeddings

DOCS = Path(__file__).parents[2] / "docs"


def test_its_python_is_python():
    sys.path.insert(0, str(DOCS))
    try:
        from stores import blocks
    finally:
        sys.path.remove(str(DOCS))
    code = blocks((DOCS / "stores.md").read_text())
    assert len(code) == (DOCS / "stores.md").read_text().count("```python") > 5
    for block in code:
        ast.parse(block)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["learned", "maps"])
def test_the_page_runs(variant, tmp_path):
    """On items in clumps, under masks that overlap in part; and under maps."""
    rng = np.random.default_rng(0)
    n, d = 2000, 24
    masks = np.zeros((3, d), np.float32)
    masks[0, :12], masks[1, 8:20], masks[2, 14:] = 1, 0.7, rng.uniform(0.1, 1, 10)
    vectors = rng.normal(size=(40, d))[rng.integers(0, 40, n)] + rng.normal(0, 0.7, (n, d))
    maps = None
    if variant == "maps":
        maps, masks = stacked(rng.normal(size=(3, 6, d)).astype(np.float32), unit=True)
    items = Embeddings(
        ids=np.array([f"{i}.png" for i in range(n)], object),
        vectors=vectors.astype(np.float32),
        columns={"colour": rng.choice(["Red", "Blue"], n).astype(object)},
        conditions=tuple(Condition(name, "categorical") for name in ("a", "b", "c")),
        masks=masks,
        model_sha256="a" * 64,
        pictures={},
        maps=maps,
    )
    write_embeddings(tmp_path / "items.parquet", items)
    argv = [sys.executable, DOCS / "stores.py", tmp_path / "items.parquet"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    figures = re.findall(r"^\| (.*?) \| (one condition|mixtures|negative) \| ([\d.]+) \(", done.stdout, re.MULTILINE)
    recall = {(store, kind): float(value) for store, kind, value in figures}
    assert recall["Qdrant, embedded, 200 candidates", "one condition"] == 1
    assert recall["Qdrant, embedded, 200 candidates", "negative"] == 1
    assert recall["FAISS, flat, vectors and squares", "negative"] == 1
    assert recall["LanceDB, a column for each condition", "one condition"] == 1
    assert recall["float16", "mixtures"] > 0.99 and recall["int8", "mixtures"] > 0.95
    for store in (
        "Qdrant, embedded, 200 candidates",
        "FAISS, HNSW for each condition",
        "LanceDB, a column for each condition",
    ):
        assert recall[store, "mixtures"] > 0.95
    assert recall["the 100 nearest unmasked, ranked again", "one condition"] < 0.9
    assert "1,000,000 x 64" in done.stdout
