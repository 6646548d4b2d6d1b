"""Source `table`: a CSV or Parquet file with one row per item: its picture or vector, and attributes in columns."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from csn_jax.config import Config, DataConfig
from csn_jax.data.columns import LONGEST, Columns, attribute_of, parse_kinds, read_columns
from csn_jax.data.duplicates import Duplicates, find_duplicates
from csn_jax.data.images import decode_usable, resolve
from csn_jax.data.item_set import SPLITS, Pictures, Rows, check_split_by, choose_conditions
from csn_jax.data.sources.vectors import read_vectors
from csn_jax.errors import UserError
from csn_jax.runtime.record import Condition
from csn_jax.text import did_you_mean, listed

SPLIT = "split"  # the column with the split of each item
LONGEST_ID = 500  # characters


def read(config: Config) -> Rows:
    """The rows of a table as items. All columns are checked before any image is read."""
    data = config.data
    path = Path(data.path).expanduser()
    if not data.path or not path.is_file():
        raise UserError(f"config.data.path is {data.path!r}, which is not a file; give a CSV or Parquet table.")
    columns = read_columns(path)
    if len(columns) == 0:
        raise UserError(f"{path} has no row; give one row per item.")
    names = columns.column(data.image, "config.data.image") if not data.vectors else columns.text.get(data.image)
    ids, id_column = item_ids(columns, names, data)
    split = given_split(columns)
    if split is not None and data.split_by:
        raise UserError(
            f"config.data.split_by is {data.split_by} and {path} has a column {SPLIT!r} with the split of each item; "
            "remove one of the two."
        )
    labels, conditions, others, notes = attributes(columns, data, {id_column, SPLIT, data.image, data.vectors})
    if not data.triplets:  # triplets bring their own conditions
        choose_conditions(labels, conditions, data.conditions)
    check_split_by(labels, data.split_by)
    if data.vectors:
        inputs, kept, pictures = read_vectors(columns, data.vectors, ids), np.arange(len(columns)), None
    else:
        paths = _image_paths(columns, names)
        inputs, kept, bad_notes = decode_usable(paths, names, columns.where, config, "fix or remove bad images")
        notes += bad_notes
        pictures = Pictures({"kind": "table", "root": str(path.parent.resolve())})
        if id_column != data.image:
            pictures = Pictures(pictures.where | {"image": data.image}, np.array(names, object)[kept])
    alike, ids = find_duplicates(inputs), np.array(ids)[kept]
    return Rows(
        inputs=inputs,
        ids=ids,
        labels={name: column[kept] for name, column in labels.items()},
        conditions=conditions,
        split=None if split is None else split[kept],
        together=alike.group,
        notes=(*notes, *_duplicates_note(alike, inputs, ids)),
        others=others,
        pictures=pictures,
    )


def item_ids(
    columns: Columns, names: list[str] | None, data: DataConfig, flag: str = "--config.data.id"
) -> tuple[list[str], str]:
    """(ids, their column): the id column, else the paths of the images, else the numbers of the rows from 1."""
    if data.id in columns.text or data.id != DataConfig.id:
        ids, source = columns.column(data.id, flag), data.id
    elif names is not None:
        ids, source = names, data.image
    else:
        return [str(row + 1) for row in range(len(columns))], ""
    first: dict[str, int] = {}
    for row, name in enumerate(ids):
        if not name:
            raise UserError(f"{columns.where(row)} has no id in column {source!r}; fill it in.")
        if len(name) > LONGEST_ID:
            raise UserError(
                f"{columns.where(row)}: {source} has {len(name):,} characters; give an id of at most {LONGEST_ID}."
            )
        if first.setdefault(name, row) != row:
            raise UserError(
                f"{columns.where(row)} has the same {source} as row {first[name] + 1}, {name!r}, and ids must differ; "
                f"remove one row, or name another column with {flag}."
            )
    return ids, source


def given_split(columns: Columns) -> np.ndarray | None:
    """The split [N] that the table gives to items, or None."""
    split = split_column(columns)
    for name in SPLITS if split is not None else ():
        if name not in split:
            raise UserError(
                f"column {SPLIT!r} of {columns.path} has no item of {name}; give every split items, or rename the "
                "column for a split of 70 / 10 / 20 %."
            )
    return split


def split_column(columns: Columns) -> np.ndarray | None:
    """The split of each row [N], or None if the table has no column of splits."""
    if SPLIT not in columns.text:
        return None
    values = enumerate(columns.text[SPLIT])
    return np.array([split_name(value, partial(columns.where, row)) for row, value in values])


def split_name(value: str, where: Callable[[], str]) -> str:
    """`train`, `validation` (or `val`) or `test`, in any case of letters; else a UserError with the place."""
    name = {"val": "validation"}.get(value.lower(), value.lower())
    if name not in SPLITS:
        near = did_you_mean(name, (*SPLITS, "val"))
        raise UserError(f"{where()}: {SPLIT} is {value!r}{near}; choose one of {', '.join(SPLITS)}.")
    return name


def attributes(
    columns: Columns, data: DataConfig, excluded: set[str]
) -> tuple[dict[str, np.ndarray], tuple[Condition, ...], tuple[Condition, ...], tuple[str, ...]]:
    """(labels of all columns but the excluded ones, conditions, other attributes, notes for the user).

    If the user names no conditions, all attributes are conditions but these: those whose values are all different,
    those of one value, and the column to split by.
    """
    kinds = parse_kinds(data.kinds, columns)
    labels, conditions, others, notes, unused = {}, [], [], [], []
    for name in columns.text:
        if name in excluded:
            continue
        wanted = name in data.conditions
        attribute = attribute_of(columns, name, kinds.get(name))
        if attribute is None:
            if wanted or name == data.split_by:
                raise UserError(
                    f"column {name!r} of {columns.path} holds texts of more than {LONGEST} characters, which cannot be "
                    "compared; name another column."
                )
            unused.append(f"{name} (long texts)")
            continue
        labels[name] = np.array(attribute.values)
        notes += [attribute.note] if attribute.note else []
        learned = wanted or (attribute.by_default and name != data.split_by)
        (conditions if learned else others).append(Condition(name, attribute.kind))
        if not learned or (data.conditions and not wanted):
            unused.append(f"{name} ({attribute.kind})")
    for name in data.conditions if not data.triplets else ():
        columns.column(name, "config.data.conditions")
        if name in excluded:
            raise UserError(
                f"config.data.conditions names {name!r}, which holds the {name} of each item and cannot be a "
                f"condition; choose from {listed(labels)}."
            )
    if not conditions and not data.triplets:
        raise UserError(
            f"{columns.path} has no column with two different values and one that repeats; add a column of values "
            "that items share, or give data.triplets."
        )
    if unused and not data.triplets:
        notes.append(f"not conditions unless data.conditions names them: {listed(unused)}")
    return labels, tuple(conditions), tuple(others), tuple(notes)


def _image_paths(columns: Columns, names: list[str]) -> list[Path]:
    folder = columns.path.parent.resolve()
    paths = [resolve(folder, name) for name in names]
    if None in paths:
        row = paths.index(None)
        raise UserError(
            f"{columns.where(row)}: image {names[row]!r} lies outside {folder}; move the table to a folder above its "
            "images and write their paths from there."
        )
    return paths


def _duplicates_note(alike: Duplicates, inputs: np.ndarray, ids: np.ndarray) -> tuple[str, ...]:
    items = "pictures" if inputs.ndim == 4 else "vectors"
    counts = [f"{items} that repeat an earlier one exactly: {alike.exact:,}"] if alike.exact else []
    if alike.near:
        counts.append(f"{items} that are nearly the same as another: {alike.near:,}")
    if not counts:
        return ()
    i = np.flatnonzero(alike.group != np.arange(len(ids)))[0]
    return (f"{'; '.join(counts)}; such as {ids[alike.group[i]]} and {ids[i]}",)
