"""Small pictures of embedded items, for people, from where the items came from."""

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
    """Pictures of some items, uint8 [height, width, 3]; None where there is none any more, or never was.

    Files are shown whole and shrunk to `size`; items of a run's own data as the run has them, which may be smaller.
    """
    where, rows = items.pictures, list(rows)
    kind = where.get("kind")
    if kind == "split":
        return _of_run(Path(where["root"]), items.ids[rows].tolist())
    if kind not in ("folder", "table"):
        return [None] * len(rows)
    names = items.columns[where["image"]] if where.get("image") else items.ids
    root = Path(where["root"])
    return shrink_files([resolve(root, name) for name in names[rows].tolist()], size)


def shrink_files(paths: Sequence[Path | None], size: int) -> list[np.ndarray | None]:
    """Image files, whole and shrunk to `size`: uint8 [height, width, 3], or None where one cannot be read."""
    pictures = read_in_workers(shrink_file, [(str(path), size) for path in paths if path])
    return [next(pictures)[0] if path else None for path in paths]


def _of_run(workdir: Path, ids: list[str]) -> list[np.ndarray | None]:
    try:
        rows = read_rows(read_config(workdir))
    except UserError:  # run or data are gone
        return [None] * len(ids)
    place = {one: row for row, one in enumerate(rows.ids.tolist())}
    pictures = [rows.inputs[place[one]] if one in place else None for one in ids]
    return [None if one is None else np.broadcast_to(one, (*one.shape[:2], 3)) for one in pictures]
