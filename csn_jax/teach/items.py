"""What a page asks about: items, their vectors on principal axes, attributes and pictures."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from csn_jax.core.maps import Axes, principal_axes, rotated, sampled
from csn_jax.errors import UserError
from csn_jax.pictures.page_data import Column
from csn_jax.pictures.page_sheets import Thumbnails
from csn_jax.store.open_index import open_index, open_vectors
from csn_jax.store.shown import columns_of, thumbnails_of
from csn_jax.store.vector_file import Embeddings

if TYPE_CHECKING:
    from csn_jax.teach import Args

LEAST = 40  # items
AXES = 128  # that a page weighs, at most: more make the fit slow and not better


class Asked(NamedTuple):
    """n items. points: [n, k] float32, whose axes the page weighs. thumbnails: None if there are no pictures. total:
    how many items the file has. name: of the file."""

    ids: np.ndarray
    points: np.ndarray
    columns: list[Column]
    thumbnails: Thumbnails | None
    total: int
    name: str


def find_items(args: "Args") -> Asked:
    """The items of --index, or a sample of them. UserError if they are too few, or --workdir has the condition."""
    if args.max_items < LEAST:
        raise UserError(f"--max_items={args.max_items} leaves too few items to ask about; give {LEAST} or more.")
    if args.workdir:
        from csn_jax.model.run import open_run

        run = open_run(args.workdir, args.data.path)
        if args.condition in run.record.names:
            raise UserError(f"{args.workdir} has a condition {args.condition!r} already; give another name.")
        items = open_index(args.index, run, run.model()).items
    else:
        items = open_vectors(args.index)
    if len(items.ids) < LEAST:
        raise UserError(f"{args.index} has {len(items.ids)} items, too few to ask about; give {LEAST} or more.")
    rows = sampled(np.arange(len(items.ids)), args.max_items)
    points = points_of(items, rows)
    return Asked(
        items.ids[rows], points, columns_of(items, rows), thumbnails_of(items, rows), len(items.ids), args.index
    )


def points_of(items: Embeddings, rows: np.ndarray) -> np.ndarray:
    """Of the items at positions `rows` [n], the coordinates [n, k] that a new condition weighs: the dimensions of
    embeddings under masks, else principal axes of the vectors of all items. Vectors without conditions are scaled to
    length 1, as csn_jax adapt does."""
    if items.conditions and items.maps is None:
        return np.asarray(items.vectors[rows], np.float32)
    unit = items.maps.unit if items.maps else True
    k = min(AXES, items.vectors.shape[1], len(items.ids) - 1)
    axes: Axes = principal_axes(items.vectors, np.arange(len(items.ids)), k, unit)
    return rotated(axes, items.vectors[rows], unit)
