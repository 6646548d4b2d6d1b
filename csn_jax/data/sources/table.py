"""Source `table`: a CSV or Parquet file, one row an item; its pictures or vectors, and a notion in every column."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from csn_jax.config import Config, DataConfig
from csn_jax.data.columns import Columns, read_columns
from csn_jax.data.duplicates import Duplicates, find_duplicates
from csn_jax.data.images import decode_files, resolve
from csn_jax.data.item_set import SPLITS, Condition, Pictures, Rows, check_split_by, check_values, choose_conditions
from csn_jax.data.kinds import LONGEST, attribute_of, parse_kinds
from csn_jax.data.sources.vectors import read_vectors
from csn_jax.errors import UserError
from csn_jax.runtime.writer import say
from csn_jax.text import did_you_mean

SPLIT = "split"  # the column whose values name each item's split
TOLD = 1_000  # unreadable images named one by one
LONGEST_ID = 500  # characters


def read(config: Config) -> Rows:
    """The rows of a table as items; the columns' values, kinds and splits are looked at before any image.

    Raises:
        UserError: for whatever cannot be used, naming column or row.
    """
    data = config.data
    path = Path(data.path).expanduser()
    if not data.path or not path.is_file():
        raise UserError(f"config.data.path is {data.path!r}, which is no file; give a CSV or Parquet table.")
    columns = read_columns(path)
    if len(columns) == 0:
        raise UserError(f"{path} has no row; give a row for each item.")
    names = columns.column(data.image, "config.data.image") if not data.vectors else columns.text.get(data.image)
    ids, id_column = item_ids(columns, names, data)
    split = given_split(columns)
    if split is not None and data.split_by:
        raise UserError(
            f"config.data.split_by is {data.split_by} and {path} has a column {SPLIT!r} that gives every item's split; "
            "leave one of them out."
        )
    labels, conditions, others, notes = attributes(columns, data, {id_column, SPLIT, data.image, data.vectors})
    if not data.triplets:  # which bring conditions of their own
        check_values(labels, choose_conditions(conditions, data.conditions))
    check_split_by(labels, data.split_by)
    if data.vectors:
        inputs, kept = read_vectors(columns, data.vectors, ids), np.arange(len(columns))
    else:
        inputs, faults = _images(columns, names, config)
        kept = np.array([row for row, fault in enumerate(faults) if fault is None], int)
        bad = [f"left out {columns.where(row)}: {fault}" for row, fault in enumerate(faults) if fault]
        notes += (*bad[:TOLD], f"left out {len(bad) - TOLD:,} more") if len(bad) > TOLD else tuple(bad)
    alike, ids = find_duplicates(inputs), np.array(ids)[kept]
    return Rows(
        inputs=inputs,
        ids=ids,
        labels={name: column[kept] for name, column in labels.items()},
        conditions=conditions,
        split=None if split is None else split[kept],
        together=alike.group,
        notes=(*notes, *_told_of(alike, inputs, ids)),
        others=others,
        pictures=None if data.vectors else _pictures(path, data.image, id_column, np.array(names, object)[kept]),
    )


def _pictures(path: Path, image: str, id_column: str, names: np.ndarray) -> Pictures:
    where = {"kind": "table", "root": str(path.parent.resolve())}
    return Pictures(where) if id_column == image else Pictures(where | {"image": image}, names)


def item_ids(
    columns: Columns, names: list[str] | None, data: DataConfig, flag: str = "--config.data.id"
) -> tuple[list[str], str]:
    """(ids, the column they are from): the id column, else the image paths, else the rows' numbers from 1."""
    if data.id in columns.text or data.id != DataConfig.id:
        ids, source = columns.column(data.id, flag), data.id
    elif names is not None:
        ids, source = names, data.image
    else:
        return [str(row + 1) for row in range(len(columns))], ""
    first: dict[str, int] = {}
    for row, one in enumerate(ids):
        if not one:
            raise UserError(f"{columns.where(row)} has nothing in column {source!r}, which names it; fill it in.")
        if len(one) > LONGEST_ID:
            raise UserError(f"{columns.where(row)}: {source} has {len(one):,} characters; give names of {LONGEST_ID}.")
        if first.setdefault(one, row) != row:
            raise UserError(
                f"{columns.where(row)} has the same {source} as row {first[one] + 1}, {one!r}, and items are named by "
                f"it; remove one of them, or name another column with {flag}."
            )
    return ids, source


def given_split(columns: Columns) -> np.ndarray | None:
    """The table's own split [N], if it has one."""
    if SPLIT not in columns.text:
        return None
    split = [split_name(value, lambda row=row: columns.where(row)) for row, value in enumerate(columns.text[SPLIT])]
    for name in SPLITS:
        if name not in split:
            raise UserError(
                f"column {SPLIT!r} of {columns.path} has no item of {name}; give every split some, or rename the "
                "column to have items split 70 / 10 / 20 %."
            )
    return np.array(split)


def split_name(value: str, where: Callable[[], str]) -> str:
    """`train`, `validation` (also written val) or `test`.

    Raises:
        UserError: for anything else, naming the place.
    """
    name = {"val": "validation"}.get(value.lower(), value.lower())
    if name not in SPLITS:
        near = did_you_mean(name, (*SPLITS, "val"))
        raise UserError(f"{where()}: {SPLIT} is {value!r}{near}; choose one of {', '.join(SPLITS)}.")
    return name


def attributes(
    columns: Columns, data: DataConfig, excluded: set[str]
) -> tuple[dict[str, np.ndarray], tuple[Condition, ...], tuple[Condition, ...], tuple[str, ...]]:
    """Labels of all columns but the given ones, what could be learned, what only if named, and notes for the user.

    Without named conditions, a column is no condition where its values are names (all different) or one only, and the
    column to split by is none.
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
                    f"column {name!r} of {columns.path} holds texts of more than {LONGEST} characters, which are no "
                    "notion; name another column."
                )
            unused.append(f"{name} (long texts)")
            continue
        labels[name] = np.array(attribute.values)
        if attribute.note:
            notes.append(attribute.note)
        if wanted or (attribute.by_default and name != data.split_by):
            conditions.append(Condition(name, attribute.kind))
        else:
            others.append(Condition(name, attribute.kind))
        if not wanted and (data.conditions or not attribute.by_default or name == data.split_by):
            unused.append(f"{name} ({attribute.kind})")
    for name in data.conditions if not data.triplets else ():
        columns.column(name, "config.data.conditions")
        if name in excluded:
            raise UserError(
                f"config.data.conditions names {name!r}, which holds the items' {name} and no notion; "
                f"{columns.path} has {', '.join(labels)}."
            )
    if not conditions and not data.triplets:
        raise UserError(
            f"{columns.path} has no column with two different values of which one comes twice; add one that tells "
            "what items have in common, or give data.triplets."
        )
    if unused and not data.triplets:
        notes.append(f"no condition unless data.conditions names them: {', '.join(unused)}")
    return labels, tuple(conditions), tuple(others), tuple(notes)


def _images(columns: Columns, names: list[str], config: Config) -> tuple[np.ndarray, list[str | None]]:
    """Pixels of the rows whose image could be read, and what is wrong with it for every row.

    Raises:
        UserError: for a path outside the table's folder; for any image that cannot be read, unless they may be left
            out.
    """
    folder = columns.path.parent.resolve()
    paths = []
    for row, name in enumerate(names):
        path = resolve(folder, name)
        if path is None:
            raise UserError(
                f"{columns.where(row)}: image {name!r} lies outside {folder}; put the table above all its "
                "images and write their paths from there."
            )
        paths.append(path)
    images, faults = decode_files(paths, config.preprocess.size, len(config.preprocess.mean))
    faults = [
        fault and (f"image {name!r} {fault}" if name else "no image is named")
        for name, fault in zip(names, faults, strict=True)
    ]
    bad = [row for row, fault in enumerate(faults) if fault]
    if bad and not config.data.skip_bad:
        for row in bad[:TOLD] if len(bad) > 1 else ():
            say(f"{columns.where(row)}: {faults[row]}")
        more = f"; {len(bad) - 1} more cannot be read" if len(bad) > 1 else ""
        raise UserError(
            f"{columns.where(bad[0])}: {faults[bad[0]]}{more}; mend or remove "
            f"{'them' if more else 'it'}, or train without by --config.data.skip_bad=True."
        )
    if len(bad) == len(names):
        raise UserError(f"{columns.path}: none of the {len(names)} images can be read; the first {faults[0]}.")
    return images, faults


def _told_of(alike: Duplicates, inputs: np.ndarray, ids: np.ndarray) -> tuple[str, ...]:
    what = "pictures" if inputs.ndim == 4 else "vectors"
    lines = [f"{what} that repeat an earlier one exactly: {alike.exact:,}"] if alike.exact else []
    if alike.near:
        lines.append(f"{what} that are nearly the same as another: {alike.near:,}")
    if not lines:
        return ()
    i = np.flatnonzero(alike.group != np.arange(len(ids)))[0]
    return (f"{'; '.join(lines)}; such as {ids[alike.group[i]]} and {ids[i]}",)
