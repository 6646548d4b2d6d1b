"""What to learn a condition from, by what the user gives: labels or triplets; the run's data, a table or an index."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from csn_jax.adapt import labels, people
from csn_jax.adapt.lesson import Items, Lesson, own_items
from csn_jax.adapt.start import NewRun
from csn_jax.adapt.tables import of_raters, read_tables
from csn_jax.config import DataConfig
from csn_jax.data.columns import Columns
from csn_jax.data.item_set import SPLITS
from csn_jax.data.sources.table import SPLIT, item_ids
from csn_jax.data.sources.vectors import is_file, vector_columns
from csn_jax.data.table_pictures import pictures_beside
from csn_jax.data.to_embed import from_table, overridden
from csn_jax.errors import UserError
from csn_jax.model.model import Model
from csn_jax.model.run import Run
from csn_jax.runtime.writer import Progress, say
from csn_jax.store.open_index import open_index

if TYPE_CHECKING:
    from csn_jax.adapt import Args


def find_lesson(args: "Args", run: Run, model: Model) -> Lesson:
    """The triplets to learn --condition from, and the items that they name. UserError if nothing can be learned."""
    name, ids, items = args.condition, None, None
    kind = None if args.kind == "inferred" else args.kind
    data = overridden(run.config.data, args.image, args.id, args.vectors)
    columns, raters = read_tables(args.table, data), None
    if columns is not None:
        columns, raters = of_raters(columns, name, kind, data, args.raters == "equal")
        if raters:
            say(raters.about())
    if args.index:
        index = run.items if isinstance(run, NewRun) else open_index(args.index, run, model)
        split = index.columns.get(SPLIT)
        if split is not None and set(split.tolist()) != set(SPLITS):  # another attribute, or not a whole split
            split = None
        items = Items(index.ids, split, args.index, index.vectors)
        if columns is None:
            text = {column: values.tolist() for column, values in index.columns.items()}
            columns, ids = Columns(Path(args.index), text, None, None), index.ids.tolist()
    if columns is not None and people.holds_triplets(columns, name):
        embeds_files = len(model.input_shape) == 3 and not args.index
        items = items or _of_run(run, model)
        return people.from_triplets(columns, name, items, model if embeds_files else None)._replace(raters=raters)
    if columns is not None:
        labels.attribute_in(columns, name, kind, run.config.data)  # an unusable column is reported before anything slow
    if columns is None or (items is None and columns.path.resolve() == _table_of(run)):
        lesson = labels.from_run(run, model, name, kind)
        if lesson:
            return lesson
    if columns is None:
        raise UserError(
            f"{run.workdir} has no labels of its own to learn {name!r} from (it was imported, trained on triplets from "
            "people, or adapted by other data since); give --table."
        )
    if items is None:
        columns, items = _of_table(columns, run, data, model)
    ids, of_maps = ids or _ids_of(columns, data), model.maps is not None
    return labels.from_table(columns, ids, name, kind, items, run.config.data, of_maps)._replace(raters=raters)


def _of_run(run: Run, model: Model) -> Items | None:
    """The run's own items, or None when they are missing or are other data."""
    try:
        return own_items(run.dataset(), model)
    except UserError:
        return None


def _of_table(columns: Columns, run: Run, data: DataConfig, model: Model) -> tuple[Columns, Items]:
    """The usable rows of a table, and their items: those that the table has images or vectors of, else those of the
    run. A table of images beside the run's own table may name items of the run only. Then these are meant, and they
    keep their split."""
    images, beside, own_table = len(model.input_shape) == 3, False, _table_of(run)
    if images:
        has_inputs = pictures_beside(columns, data.image) is not None
        beside = own_table is not None and columns.path.resolve().parent == own_table.parent
    else:
        has_inputs = is_file(data.vectors) or bool(vector_columns(columns, data.vectors))
    if not has_inputs:
        return columns, own_items(run.dataset(), model)
    items = _of_run(run, model) if beside else None
    if items and set(_ids_of(columns, data)) <= set(items.ids.tolist()):
        return columns, items
    return _embedded(columns, data, model)


def _embedded(columns: Columns, data: DataConfig, model: Model) -> tuple[Columns, Items]:
    """`_of_table` for a table with inputs of its own, which are embedded here. Unreadable images are left out."""
    if not columns.path.exists():  # several tables, whose paths of images begin in folders of their own
        raise UserError(
            f"the tables {columns.path.name} bring their own {'images' if len(model.input_shape) == 3 else 'vectors'}, "
            "which one table alone may do; embed these items with csn_jax embed, and give that file as --index."
        )
    source = from_table(columns.path, data, model.input_shape, model.form)
    vectors, faults = [], []
    with closing(Progress("embedding", len(source.ids), unit=source.unit)) as progress:
        for inputs, chunk_faults in source.chunks(np.arange(len(source.ids))):
            vectors += [model.embed(inputs)] if len(inputs) else []
            faults += chunk_faults
            progress.advance(len(chunk_faults))
    for name, fault in zip(source.ids, faults, strict=True):
        if fault:
            say(f"left out {name}, which {fault}")
    kept = [row for row, fault in enumerate(faults) if not fault]
    if not kept:
        n = f"{len(faults):,} {source.unit}s"
        raise UserError(f"{columns.path}: none of the {n} can be read; the first {faults[0]}.")
    text = {name: [values[row] for row in kept] for name, values in columns.text.items()}
    text[data.id] = source.ids[kept].tolist()  # numbers of rows would be others without those left out
    lines = [columns.lines[row] for row in kept] if columns.lines else None
    items = Items(source.ids[kept], None, str(columns.path), np.concatenate(vectors))
    return Columns(columns.path, text, lines, None), items


def _table_of(run: Run) -> Path | None:
    """The table that a run was trained on, or None if its source is another one."""
    data = run.placed().data
    return Path(data.path).expanduser().resolve() if data.source == "table" else None


def _ids_of(columns: Columns, data: DataConfig) -> list[str]:
    pictures = pictures_beside(columns, data.image)
    return item_ids(columns, pictures and pictures.ids(bool(data.vectors)), data, "--id")[0]
