"""Pictures of items for people to look at: on pages and sheets, also of items that are vectors."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from csn_jax.data.images import Source, decode_file, resolve, shrink_file, tasks_of
from csn_jax.data.item_set import ItemSet
from csn_jax.data.table_pictures import read_contents
from csn_jax.data.workers import read_in_workers


def read_thumbnails(where: Mapping[str, str], names: Sequence[str], size: int) -> list[np.ndarray | None]:
    """Pictures, each shrunk as a whole to `size`: uint8 [height, width, 3], or None for one that cannot be read. Where
    and names: as in Pictures."""
    return shrink(_sources(where, names), size)


def shrink(sources: Sequence[Source | None], size: int) -> list[np.ndarray | None]:
    """As `read_thumbnails`, for pictures that are found already."""
    pictures = read_in_workers(shrink_file, tasks_of([source for source in sources if source is not None], size))
    return [None if source is None else next(pictures)[0] for source in sources]


def pixels_of(items: ItemSet, rows: np.ndarray, size: int) -> np.ndarray | None:
    """uint8 [n, S, S, 1 or 3] of the items in rows [n]; None if they have no pictures.

    Items that are pixels give these. The pictures of vectors are whole on white squares of S = `size`; a picture that
    cannot be read is all white.
    """
    if items.inputs.ndim == 4:
        return items.inputs[rows]
    if items.pictures is None:
        return None
    where, names = items.pictures
    sources = _sources(where, (items.ids if names is None else names)[rows].tolist())
    tasks = tasks_of([source for source in sources if source is not None], size, 3, "pad")
    pictures, pixels = read_in_workers(decode_file, tasks), np.full((len(rows), size, size, 3), 255, np.uint8)
    for square, source in zip(pixels, sources, strict=True):
        if source is not None and (picture := next(pictures)[0]) is not None:
            square[:] = picture
    return pixels


def _sources(where: Mapping[str, str], names: Sequence[str]) -> list[Source | None]:
    kind, root = where.get("kind"), Path(where.get("root", ""))
    if kind == "bytes":
        return read_contents(root, where["image"], [int(name) - 1 for name in names])
    return [resolve(root, name) if name and kind in ("folder", "table") else None for name in names]
