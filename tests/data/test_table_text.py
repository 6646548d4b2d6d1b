"""A table's text stays text: what `embed` stores and what `split_by` tells apart are the cells themselves."""

import decimal

import numpy as np
import pyarrow as pa
import pytest
import shop

from csn_jax.config import BackboneConfig, Config, DataConfig, PreprocessConfig
from csn_jax.data.item_set import split_rows
from csn_jax.data.sources import table
from csn_jax.data.to_embed import from_table

N = 60
CELLS = {
    "19 digits": [str(1234567890123456789 + i // 2) for i in range(N)],
    "exponents": ["4E3", "4000", "4e3"] * 20,
    "versions": ["1.10", "1.1", "1.100"] * 20,
    "leading zeros": ["007", "7", "07"] * 20,
    "truth values": ["True", "true", "FALSE"] * 20,
    "dates": ["2020-05-17", "17.05.2020", "2020-05-17 00:00:00"] * 20,
    "decimal commas": ["1,50", "1,5", "12"] * 20,
    "money": ["$1,299.00", "$5", "$5.00"] * 20,
    "unknown": ["NA", "a", "b"] * 20,
    "lists": ['["b", "a"]', '["a"]', '["a", "b"]'] * 20,
    "sets": ["b;a", "a", "a;b"] * 20,
    "long floats": ["0.1000000000000000055", "0.1", "0.10"] * 20,
}


def written(folder, cells, suffix):
    columns = shop.columns(N) | {"new": cells}
    return shop.write(folder / f"p{suffix}", columns, vector=shop.vectors(columns) if suffix == ".parquet" else None)


def config(path, **data):
    data = DataConfig(source="table", path=str(path), conditions=("colour",), **data)
    return Config(data=data, backbone=BackboneConfig(name="projection"))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("name", CELLS)
def test_cells_are_stored_and_split_as_they_are(name, suffix, tmp_path):
    path, cells = written(tmp_path, CELLS[name], suffix), CELLS[name]
    vectors = "vector"
    if suffix == ".csv":
        vectors = "v.npy"
        np.save(tmp_path / vectors, shop.vectors(shop.columns(N)))
    settings = config(path, vectors=vectors, split_by="new")
    rows = table.read(settings)
    assert rows.cells.get("new", rows.labels["new"]).tolist() == cells
    stored = from_table(path, settings.data, (12,), PreprocessConfig().form).columns
    assert stored["new"].tolist() == cells
    for other in ("price", "tags", "category", "size"):
        assert stored[other].tolist() == shop.columns(N)[other]
    split = split_rows(rows._replace(together=None), settings.data)[0]
    homes = {cell: set(split[np.array(cells) == cell]) for cell in cells if cell != "NA"}
    assert all(len(home) == 1 for home in homes.values())
    if len(homes) == 3:  # each text is a group of its own, so every split has one
        assert len(set(split)) == 3


TYPED = {
    "int64": (pa.array([2**53 + i for i in range(N)]), [str(2**53 + i) for i in range(N)]),
    "decimal": (pa.array([decimal.Decimal("1.10")] * N), ["1.10"] * N),
    "bool": (pa.array([True, False, None] * 20), ["true", "false", ""] * 20),
    "dictionary": (pa.array(["x", "01", "x"] * 20).dictionary_encode(), ["x", "01", "x"] * 20),
    "timestamp": (
        pa.array([0, 1, None] * 20, pa.timestamp("s")),
        ["1970-01-01 00:00:00", "1970-01-01 00:00:01", ""] * 20,
    ),
}


@pytest.mark.parametrize("name", TYPED)
def test_typed_columns_are_stored_by_their_text(name, tmp_path):
    array, text = TYPED[name]
    path = written(tmp_path, array, ".parquet")
    assert (
        from_table(path, config(path, vectors="vector").data, (12,), PreprocessConfig().form).columns["new"].tolist()
        == text
    )


def test_an_older_run_splits_by_numbers_as_it_did(tmp_path):
    """1.10 and 1.1 were one value, and its split must not change."""
    path = written(tmp_path, CELLS["versions"], ".parquet")
    data = config(path, vectors="vector", split_by="new", notations="plain").data
    rows = table.read(Config(data=data, backbone=BackboneConfig(name="projection")))
    assert set(rows.labels["new"]) == {"1.1"} and len(set(split_rows(rows._replace(together=None), data)[0])) == 1
