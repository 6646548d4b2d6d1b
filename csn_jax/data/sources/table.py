"""Source `table`: a table file with one row per item: its picture or vector, and attributes in columns."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from csn_jax.config import Config, DataConfig
from csn_jax.data.attributes import LONGEST, attribute_of, parse_kinds
from csn_jax.data.columns import Columns, read_columns
from csn_jax.data.duplicates import Duplicates, find_duplicates
from csn_jax.data.images import decode_usable
from csn_jax.data.item_set import SPLITS, Rows, check_split_by, choose_conditions, leave_out
from csn_jax.data.sources.vectors import read_vectors, vector_columns
from csn_jax.data.table_pictures import OUTSIDE, TablePictures, find_pictures, pictures_beside
from csn_jax.errors import UserError
from csn_jax.runtime.record import Condition
from csn_jax.text import did_you_mean, listed

SPLIT = "split"  # the column with the split of each item, in any case of letters
# Other names of the splits.
OTHER_NAMES = {"training": "train", "testing": "test"} | dict.fromkeys(("val", "valid", "dev"), "validation")
LONGEST_ID = 500  # characters
WIDE, LARGE = 64, 1 << 24  # characters of the longest text, and of all if they were as long: 64 MB


def read(config: Config) -> Rows:
    """The rows of a table as items. All columns are checked before any image is read."""
    data = config.data
    path = Path(data.path).expanduser()
    if not data.path or not path.exists():
        raise UserError(f"config.data.path is {data.path!r}, which is not a file; give a CSV or Parquet table.")
    columns = read_columns(path, data.encoding, data.skip_bad)
    if len(columns) == 0:
        raise UserError(f"{path} has no row; give one row per item.")
    look = pictures_beside if data.vectors else find_pictures
    pictures = look(columns, data.image)
    ids, id_column = item_ids(columns, pictures and pictures.ids(bool(data.vectors)), data)
    split_name, split = split_header(columns, data), given_split(columns, data)
    if split is not None and data.split_by:
        raise UserError(
            f"config.data.split_by is {data.split_by} and {path} has a column {split_name!r} with the split of each "
            "item; remove one of the two."
        )
    excluded = {id_column, split_name, data.image, *vector_columns(columns, data.vectors)}
    labels, cells, conditions, others, notes = attributes(columns, data, excluded)
    notes = (*columns.notes, *notes)
    if split_name not in ("", SPLIT):
        notes += (f"the column {split_name} gives the split of each item",)
    if not data.triplets:  # triplets bring their own conditions
        choose_conditions(labels, conditions, data.conditions)
    check_split_by(labels, data.split_by)
    if data.vectors:
        inputs, kept, more = _vectors(columns, data, ids, pictures)
    else:
        sources = list(pictures.sources(range(len(columns))))
        for row, (_, fault) in enumerate(sources):
            if fault and fault.startswith(OUTSIDE):  # also with skip_bad: such a table is not what it seems
                raise UserError(f"{columns.where(row)}: image {pictures.names[row]!r} {fault}.")
        remedy = "fix or remove bad images"
        inputs, kept, more = decode_usable(sources, pictures.names, columns.where, config, remedy)
    alike, ids = find_duplicates(inputs), _text_array(ids)[kept]
    return Rows(
        inputs=inputs,
        ids=ids,
        labels={name: column[kept] for name, column in labels.items()},
        conditions=conditions,
        split=None if split is None else split[kept],
        together=alike.group,
        notes=(*notes, *more, *_duplicates_note(alike, inputs, ids)),
        others=others,
        pictures=pictures.kept(kept, id_column) if pictures and (not data.vectors or pictures.exist()) else None,
        cells={name: column[kept] for name, column in cells.items()},
    )


def item_ids(
    columns: Columns, names: list[str] | None, data: DataConfig, flag: str = "--config.data.id"
) -> tuple[list[str], str]:
    """(ids, their column): the id column, else the paths of the images, else the numbers of the rows from 1."""
    if data.id != DataConfig.id or data.id in columns.names:
        ids, source = columns.column(data.id, flag), data.id
    elif names is not None:
        ids, source = names, data.image
    else:
        return [str(row + 1) for row in range(len(columns))], ""
    if len(set(ids)) == len(ids) and 1 <= min(map(len, ids)) and max(map(len, ids)) <= LONGEST_ID:
        return ids, source
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
                f"remove one row{f', or name another column with {flag}' if flag.startswith('--') else ''}."
            )
    return ids, source


def split_header(columns: Columns, data: DataConfig | None = None) -> str:
    """The name of the column of splits: `split`; or this word with capitals, if the column holds names of splits only;
    empty if there is none."""
    if SPLIT in columns.text or (data and data.notations == "plain"):
        return SPLIT if SPLIT in columns.text else ""
    found = [name for name in columns.text if name.lower() == SPLIT]
    known = {*SPLITS, *OTHER_NAMES}
    return next((name for name in found if known.issuperset({value.lower() for value in columns.text[name]})), "")


def given_split(columns: Columns, data: DataConfig | None = None) -> np.ndarray | None:
    """The split [N] that the table gives to items, or None."""
    split, header = split_column(columns, data), split_header(columns, data)
    for name in SPLITS if split is not None else ():
        if name not in split:
            raise UserError(
                f"column {header!r} of {columns.path} has no item of {name}; give every split items, or rename the "
                "column for a split of 70 / 10 / 20 %."
            )
    return split


def split_column(columns: Columns, data: DataConfig | None = None) -> np.ndarray | None:
    """The split of each row [N], or None if the table has no column of splits."""
    name = split_header(columns, data)
    if not name:
        return None
    values = enumerate(columns.text[name])
    return np.array([split_name(value, partial(columns.where, row)) for row, value in values])


def split_name(value: str, where: Callable[[], str]) -> str:
    """`train`, `validation` (or `val`, `valid`, `dev`) or `test`, in any case of letters; else a UserError with the
    place."""
    name = OTHER_NAMES.get(value.lower(), value.lower())
    if name not in SPLITS:
        near = did_you_mean(name, (*SPLITS, "val"))
        raise UserError(f"{where()}: {SPLIT} is {value!r}{near}; choose one of {', '.join(SPLITS)}.")
    return name


def attributes(
    columns: Columns, data: DataConfig, excluded: set[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], tuple[Condition, ...], tuple[Condition, ...], tuple[str, ...]]:
    """(labels of all columns but the excluded ones, the cells of those whose text is another one, conditions, other
    attributes, notes for the user).

    If the user names no conditions, all attributes are conditions but these: those whose values are all different,
    those of one value, and the column to split by.
    """
    kinds = parse_kinds(data.kinds, columns)
    labels, cells, conditions, others, notes, unused = {}, {}, [], [], [], []
    for name in columns.text:
        if name in excluded:
            continue
        wanted = name in data.conditions
        attribute = attribute_of(columns, name, kinds.get(name), data)
        if attribute is None:
            if wanted or name == data.split_by:
                raise UserError(
                    f"column {name!r} of {columns.path} holds texts of more than {LONGEST} characters, which cannot be "
                    "compared; name another column."
                )
            unused.append(f"{name} (long texts)")
            continue
        labels[name] = _text_array(attribute.values)
        if attribute.values != columns.text[name]:
            cells[name] = _text_array(columns.text[name])
        notes += attribute.notes
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
    if unread := [name for name in columns.names if name not in columns.text and name not in excluded]:
        notes.append(f"not read, as they hold neither text nor numbers: {listed(unread)}")
    if unused and not data.triplets:
        notes.append(f"not conditions unless data.conditions names them: {listed(unused)}")
    return labels, cells, tuple(conditions), tuple(others), tuple(notes)


def _text_array(texts: list[str]) -> np.ndarray:
    """Texts as an array [N]; of objects if a fixed width would take hundreds of megabytes, as for a million titles."""
    width = max(map(len, texts))
    return np.array(texts, object if width > WIDE and width * len(texts) > LARGE else None)


def _vectors(
    columns: Columns, data: DataConfig, ids: list[str], pictures: TablePictures | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """(vectors [K, F], the rows [K] that they belong to, notes for the user)."""
    inputs, faults, notes = read_vectors(columns, data, ids)
    bad = [f"{columns.where(row)} {fault}" for row, fault in enumerate(faults) if fault]
    notes += leave_out(bad, len(faults), "vectors", data.skip_bad, "embed that item again, or remove it")
    if pictures and not pictures.exist():
        notes += (f"pages and sheets will show no pictures, as those in {data.image} cannot be read",)
    return inputs, np.array([row for row, fault in enumerate(faults) if not fault], int), notes


def _duplicates_note(alike: Duplicates, inputs: np.ndarray, ids: np.ndarray) -> tuple[str, ...]:
    items = "pictures" if inputs.ndim == 4 else "vectors"
    counts = [f"{items} that repeat an earlier one exactly: {alike.exact:,}"] if alike.exact else []
    if alike.near:
        counts.append(f"{items} that are nearly the same as another: {alike.near:,}")
    if not counts:
        return ()
    i = np.flatnonzero(alike.group != np.arange(len(ids)))[0]
    return (f"{'; '.join(counts)}; such as {ids[alike.group[i]]} and {ids[i]}",)
