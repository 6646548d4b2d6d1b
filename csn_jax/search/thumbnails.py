"""Small pictures of embedded items, for people."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from csn_jax.data.dataset import read_rows
from csn_jax.data.images import resolve, shrink_file
from csn_jax.data.workers import read_in_workers
from csn_jax.errors import UserError
from csn_jax.runtime.workdir import read_config
from csn_jax.store.vector_file import Embeddings


def read_pictures(items: Embeddings, rows: Sequence[int], size: int) -> list[np.ndarray | None]:
    """The pictures of the items in rows: uint8 [height, width, 3], or None for an item without a picture.

    A picture in a file is shrunk as a whole to `size`. A run's own items have the pixels of the run, which may be less.
    """
    pictures, rows = items.pictures, list(rows)
    if pictures.get("kind") == "split":
        return _of_run(Path(pictures["root"]), items.ids[rows].tolist())
    if pictures.get("kind") not in ("folder", "table"):
        return [None] * len(rows)
    names = items.columns[pictures["image"]] if pictures.get("image") else items.ids
    root = Path(pictures["root"])
    return shrink_files([resolve(root, name) for name in names[rows].tolist()], size)


def shrink_files(paths: Sequence[Path | None], size: int) -> list[np.ndarray | None]:
    """Image files, each shrunk as a whole to `size`: uint8 [height, width, 3], or None for one that cannot be read."""
    pictures = read_in_workers(shrink_file, [(str(path), size) for path in paths if path])
    return [next(pictures)[0] if path else None for path in paths]


def _of_run(workdir: Path, ids: list[str]) -> list[np.ndarray | None]:
    try:
        rows = read_rows(read_config(workdir))
    except UserError:  # the run or its data no longer exist
        return [None] * len(ids)
    row_of = {item: row for row, item in enumerate(rows.ids.tolist())}
    pictures = [rows.inputs[row_of[item]] if item in row_of else None for item in ids]
    return [None if picture is None else np.broadcast_to(picture, (*picture.shape[:2], 3)) for picture in pictures]
