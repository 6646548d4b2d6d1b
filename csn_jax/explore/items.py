"""What a page shows: the items of a run's split, or of a file of vectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from csn_jax.core.maps import sampled
from csn_jax.data.item_set import ItemSet
from csn_jax.pictures.maps import SEED
from csn_jax.pictures.page_data import Column
from csn_jax.pictures.page_sheets import Thumbnails
from csn_jax.runtime.record import Condition, Results
from csn_jax.store.shown import columns_of, of_files, thumbnails_of

if TYPE_CHECKING:
    from csn_jax.model.run import Run
    from csn_jax.store.index import Index


class Shown(NamedTuple):
    """n items. vectors: [n, D] float32, what the masks [C, D] apply to. thumbnails: None if there are no pictures.
    results: None if nothing was measured. about: facts that the page prints."""

    ids: np.ndarray
    vectors: np.ndarray
    conditions: tuple[Condition, ...]
    masks: np.ndarray
    columns: list[Column]
    thumbnails: Thumbnails | None
    results: Results | None
    about: dict[str, Any]


def of_split(run: "Run", split: str, max_items: int) -> Shown:
    """The items of a split, or a sample of them; a UserError when the run's data or checkpoint is missing."""
    model, dataset = run.model(), run.dataset()
    rows = dataset.rows(split)
    about = {"run": run.workdir.name, "variant": run.config.variant, "split": split}
    about |= {"step": model.step, "total": len(rows), "seed": SEED}
    rows = sampled(rows, max_items)
    vectors = model.view(model.embed(dataset.items.inputs, rows, progress=True))
    return of_rows(dataset.items, rows, vectors, model.conditions, model.masks, run.results, about)


def of_rows(
    items: ItemSet,
    rows: np.ndarray,
    vectors: np.ndarray,
    conditions: Sequence[str],
    masks: np.ndarray,
    results: Results | None,
    about: dict[str, Any],
) -> Shown:
    """The items at positions `rows` [n]; vectors: theirs."""
    kinds = dict(items.conditions)
    attributes = dict(items.attributes) | kinds
    columns = [
        Column(name, attributes.get(name, "categorical"), items.labels[name][rows])
        for name in sorted(items.labels, key=lambda name: name not in kinds)  # conditions first
    ]
    thumbnails = None
    if items.inputs.ndim == 4:
        thumbnails = Thumbnails(lambda some, _: items.inputs[rows[some]], items.inputs.shape[1], items.ink)
    elif items.pictures:
        where, names = items.pictures
        thumbnails = of_files(where, (items.ids if names is None else names)[rows])
    named = tuple(Condition(name, kinds.get(name, "triplets")) for name in conditions)
    return Shown(items.ids[rows], vectors, named, masks, columns, thumbnails, results, about)


def of_index(index: "Index", run: "Run | None", max_items: int) -> Shown:
    """All items of an index, or a sample; run: whose masks it has, or None if they are the file's own."""
    rows = sampled(np.arange(len(index.ids)), max_items)
    items = index.items
    kinds = dict(items.conditions)
    named = tuple(Condition(name, kinds.get(name, "categorical")) for name in index.conditions)
    columns, thumbnails = columns_of(items, rows), thumbnails_of(items, rows)
    about = {"run": Path(index.name).name, "total": len(index.ids), "seed": SEED}
    about["variant"] = "maps" if index.maps else ""
    results = run.results if run else None
    vectors = index.maps.views(index.vectors[rows]) if index.maps else index.vectors[rows]
    return Shown(items.ids[rows], vectors, named, index.masks, columns, thumbnails, results, about)
