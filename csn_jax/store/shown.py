"""What a page shows of stored items: their attributes, and where their pictures are read from."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from csn_jax.data.dataset import read_rows
from csn_jax.data.thumbnails import read_thumbnails
from csn_jax.errors import UserError
from csn_jax.pictures.page_data import Column
from csn_jax.pictures.page_sheets import Thumbnails
from csn_jax.runtime.workdir import read_config
from csn_jax.store.vector_file import Embeddings

FEW = 10  # values of a column that colours can distinguish; a column of more different numbers is an amount


def columns_of(items: Embeddings, rows: np.ndarray) -> list[Column]:
    """The attributes of the items at positions `rows` [n], conditions first, without paths of pictures."""
    kinds = dict(items.conditions)
    return [
        Column(name, kinds.get(name) or kind_of(items.columns[name]), items.columns[name][rows])
        for name in sorted(items.columns, key=lambda name: name not in kinds)
        if name != items.pictures.get("image")
    ]


def kind_of(values: np.ndarray) -> str:
    """`numeric` for a column of more than FEW different numbers, else `categorical`."""
    known = set(values.tolist()) - {""}
    if len(known) <= FEW:
        return "categorical"
    try:
        return "numeric" if np.isfinite([float(value) for value in known]).all() else "categorical"
    except ValueError:
        return "categorical"


def thumbnails_of(items: Embeddings, rows: np.ndarray) -> Thumbnails | None:
    """The pictures of the items at positions `rows` [n]; None if there are none any more."""
    pictures = items.pictures
    if pictures.get("kind") == "split":
        return _of_run(Path(pictures["root"]), items.ids[rows])
    names = items.columns[pictures["image"]] if pictures.get("image") else items.ids
    return of_files(pictures, names[rows])


def of_files(where: Mapping[str, str], names: np.ndarray) -> Thumbnails | None:
    """Pictures in files; where and names [n] as in Pictures."""
    if where.get("kind") not in ("folder", "table", "bytes"):
        return None
    return Thumbnails(lambda places, side: read_thumbnails(where, names[places].tolist(), side))


def _of_run(workdir: Path, ids: np.ndarray) -> Thumbnails | None:
    """The pixels of a run's own items; None if the run or its data no longer exist."""
    try:
        rows = read_rows(read_config(workdir))
    except UserError:
        return None
    if rows.inputs.ndim != 4:
        return None
    row_of = {item: row for row, item in enumerate(rows.ids.tolist())}
    found = np.array([row_of.get(item, -1) for item in ids.tolist()])

    def read(places: np.ndarray, side: int) -> list[np.ndarray | None]:
        return [rows.inputs[row] if row >= 0 else None for row in found[places]]

    return Thumbnails(read, rows.inputs.shape[1], rows.ink)
