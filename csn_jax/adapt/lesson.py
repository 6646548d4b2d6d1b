"""What a new condition is learned from after training: labels in a table, or triplets that people gave, of items that
are embedded already or can be."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from csn_jax.adapt.known_items import Known
from csn_jax.config import Config, DataConfig
from csn_jax.data.columns import Columns
from csn_jax.data.dataset import Dataset, load_dataset
from csn_jax.data.duplicates import components, find_duplicates
from csn_jax.data.images import decode_files, resolve
from csn_jax.data.item_set import SPLITS, Condition, ItemSet, Rows, split_items, split_rows
from csn_jax.data.kinds import LONGEST, attribute_of
from csn_jax.data.own_triplets import ROLES, same_three
from csn_jax.data.sources.table import SPLIT, given_split, split_name
from csn_jax.data.triplets import Triplets, draw_triplets
from csn_jax.errors import UserError
from csn_jax.model.run import Run
from csn_jax.text import did_you_mean

MOST = 50_000  # training triplets that are drawn: some dozen weights are fitted to them
FEW = 1_000  # triplets up to which all of them are learned from, and measured by cross-validation
LEAST, LEAST_ANCHORS = 10, 5  # triplets, and different anchors among them, or groups that stand or fall apart


class Lesson(NamedTuple):
    """What to learn a condition from. Condition 0 of the triplets is the new one.

    inputs, embedded: as in Known; the triplets name rows of them.
    triplets: by split. Without `validation`, the strength of the fit is for cross-validation to choose; without `test`,
        the error is for it to tell.
    together: by split [T], equal for triplets that stand or fall together.
    told: in words, for people and for data.json.
    note: what the user should know of the column, or nothing.
    """

    kind: str
    inputs: np.ndarray
    embedded: bool
    triplets: dict[str, Triplets]
    together: dict[str, np.ndarray]
    told: str
    note: str = ""


class Found(NamedTuple):
    """What to learn from. Where that is a column of the run's own data: this with the new condition, on which the new
    workdir can be evaluated, and the config that reads it so; else no data, and the run's config."""

    lesson: Lesson
    dataset: Dataset | None
    config: Config


def is_of_triplets(columns: Columns, name: str) -> bool:
    """Whether a table holds triplets, and no labels of a condition."""
    return name not in columns.text and all(role in columns.text for role in ROLES)


def of_run(run: Run, name: str, kind: str | None) -> Found | None:
    """The run's own data with one condition more, checked to be otherwise that of the run; None where it cannot have
    one more: it comes from triplets or from nowhere, or a condition was learned from elsewhere since.

    Raises:
        UserError: when the data is not there any more or is other data, or has no such column.
    """
    config, record = run.config, run.record
    elsewhere = any(not report["own_data"] for report in record.adapted)
    if config.data.source == "imported" or config.data.triplets or elsewhere:
        return None
    old = record.names
    kinds = (*config.data.kinds, f"{name}={kind}") if kind else config.data.kinds
    wider = dataclasses.replace(config, data=dataclasses.replace(config.data, conditions=(*old, name), kinds=kinds))
    try:
        dataset = load_dataset(wider)
    except UserError as error:
        if "config.loss.name compares" in str(error):
            return None  # an in-batch loss knows categories only, and evaluation reads the data as training does
        raise UserError(str(error).replace("config.data.conditions", "--condition")) from None
    items, triplets = dataset.items, dataset.triplets
    before = {
        split: Triplets(*(one[columns.condition < len(old)] for one in columns)) for split, columns in triplets.items()
    }
    as_it_was = {
        "conditions": record.conditions,
        "triplets": {split: len(columns.anchor) for split, columns in before.items()},
        "items_sha256": dataclasses.replace(items, conditions=items.conditions[:-1]).digest(),
        "triplets_sha256": {split: columns.digest() for split, columns in before.items()},
    }
    record.check(dataclasses.replace(dataset.record, **as_it_was), run.workdir)
    new = {split: columns.of_condition(len(old)) for split, columns in triplets.items()}
    new["train"] = Triplets(*(column[:MOST] for column in new["train"]))
    words = f"labels of {int((items.labels[name] != '').sum()):,} items of the run's own data"
    return Found(Lesson(items.conditions[-1].kind, items.inputs, False, new, _anchors(new), words), dataset, wider)


def from_labels(
    columns: Columns, ids: Sequence[str], name: str, kind: str | None, known: Known, data: DataConfig
) -> Lesson:
    """Draw triplets from a column of labels, inside each split.

    Items are split as `known` says, else as the table's column `split` says, else 70 / 10 / 20 %, those with equal
    vectors together.

    Args:
        columns: the table.
        ids: of its rows.
        name: the column; the new condition has its name.
        kind: of the attribute; None to infer it from the values.
        known: the items, all those of the table among them.
        data: for the numbers of triplets and the seed, with which they are those of a training with this condition.

    Raises:
        UserError: for a column without two different values, an unknown item, or a split without triplets.
    """
    columns.column(name, "--condition")
    attribute = attribute_of(columns, name, kind, "--kind=")
    if attribute is None:
        raise UserError(
            f"column {name!r} of {columns.path} holds texts of more than {LONGEST} characters, which cannot be "
            "compared; name another column."
        )
    different = set(attribute.values) - {""}
    if len(different) < 2:
        what = f"one value only, {different.pop()!r}" if different else "no value at all"
        raise UserError(
            f"column {name!r} of {columns.path} has {what}, so it tells no two items apart; name another column."
        )
    row_of = {one: row for row, one in enumerate(known.ids.tolist())}
    rows = np.array([_row(one, row_of, known, lambda i=i: columns.where(i)) for i, one in enumerate(ids)])
    labels = np.full(len(known.ids), "", dtype=object)
    labels[rows] = attribute.values
    labels, split = labels.astype(str), known.split
    if split is None:
        own = given_split(columns)
        together = find_duplicates(known.inputs[rows]).group
        of_rows, _ = split_rows(
            Rows(known.inputs[rows], known.ids[rows], {}, (), own, together), DataConfig(seed=data.seed)
        )
        split = np.full(len(known.ids), "", dtype="<U10")
        split[rows] = of_rows
    items = ItemSet(known.inputs, known.ids, {name: labels}, split, (Condition(name, attribute.kind),))
    counts = (min(data.train_triplets, MOST), data.validation_triplets, data.test_triplets)
    triplets = {
        one: draw_triplets(items, one, count, data.seed, "label more items")
        for one, count in zip(SPLITS, counts, strict=True)
    }
    told = f"labels of {int((labels != '').sum()):,} items in {columns.path.name}"
    return Lesson(attribute.kind, known.inputs, known.embedded, triplets, _anchors(triplets), told, attribute.note)


def from_triplets(
    columns: Columns, name: str, known: Known | None, input_shape: Sequence[int], may_be_files: bool
) -> Lesson:
    """Read triplets that people gave: columns anchor, positive and negative, and perhaps condition and split.

    Where there is a column `condition`, the rows of others are left out. Where there is a column `split`, its test
    triplets are held out; else, of more than FEW triplets, a fifth; else none. What `_together` groups stays together.

    Args:
        columns: the table.
        name: of the condition.
        known: items that the cells may name by id.
        input_shape: of one image.
        may_be_files: whether the cells may name image files instead, relative to the table.

    Raises:
        UserError: for cells that name nothing, an item twice in a triplet, or too few triplets.
    """
    chosen = np.arange(len(columns))
    if "condition" in columns.text:
        named = columns.text["condition"]
        chosen = np.flatnonzero(np.array(named) == name)
        if not len(chosen):
            raise UserError(
                f"{columns.path} has no triplet of condition {name!r}{did_you_mean(name, set(named))}; it has some of "
                f"{', '.join(sorted(set(named)))}."
            )
    cells = np.array([columns.text[role] for role in ROLES], object)[:, chosen]  # [3, T]
    if cells.shape[1] < LEAST or len(set(cells[0].tolist())) < LEAST_ANCHORS:
        raise UserError(
            f"{columns.path} has {cells.shape[1]} triplets of {len(set(cells[0].tolist()))} different anchors for "
            f"{name!r}; give at least {LEAST} triplets, better some hundred, of {LEAST_ANCHORS} anchors or more."
        )

    def where(role: int, t: int) -> str:
        return f"{columns.where(int(chosen[t]))}: {ROLES[role]}"

    roles, inputs, embedded = _items_of(cells, columns.path.parent, known, input_shape, may_be_files, where)
    anchor, positive, negative = roles
    for t in np.flatnonzero((anchor == positive) | (anchor == negative) | (positive == negative))[:1].tolist():
        raise UserError(f"{columns.where(int(chosen[t]))} names an item twice; a triplet is three different items.")
    together = _together(*roles)
    split = np.full(len(anchor), "train", "<U10")
    if SPLIT in columns.text:
        split[:] = [split_name(columns.text[SPLIT][i], lambda i=i: columns.where(i)) for i in chosen.tolist()]
    elif len(anchor) > FEW and len(np.unique(together)) >= 2 * LEAST_ANCHORS:
        split = split_items(len(anchor), together, seed=0)
    train, test = np.flatnonzero(split != "test"), np.flatnonzero(split == "test")
    n_groups = len(np.unique(together[train]))
    if n_groups < LEAST_ANCHORS:
        raise UserError(
            f"{columns.path} has triplets for {name!r} of {n_groups} different anchors, or sets of three items, that "
            f"are no test triplets; give some of {LEAST_ANCHORS} or more."
        )
    if len(train) > MOST:
        train = np.sort(np.random.default_rng(0).choice(train, MOST, replace=False))
    triplets = {
        one: Triplets(*(role[rows].astype(np.int32) for role in roles), np.zeros(len(rows), np.int32))
        for one, rows in (("train", train), ("test", test))
        if len(rows)
    }
    groups = {one: together[rows] for one, rows in (("train", train), ("test", test)) if len(rows)}
    return Lesson("triplets", inputs, embedded, triplets, groups, f"{len(anchor):,} triplets in {columns.path.name}")


def _anchors(triplets: dict[str, Triplets]) -> dict[str, np.ndarray]:
    """Of drawn triplets, those of one anchor stand or fall together."""
    return {split: columns.anchor for split, columns in triplets.items()}


def _together(anchor: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """int [T], equal for triplets that people gave and that stand or fall together: of one anchor, or of the same three
    items, perhaps through others. Where most of them hang together so, of the same three items only."""
    n, three = len(anchor), same_three(anchor, positive, negative)
    _, of_anchor = np.unique(anchor, return_inverse=True)
    pairs = np.stack([np.tile(np.arange(n), 2), np.concatenate([n + of_anchor, 2 * n + three])], axis=1)
    _, group, sizes = np.unique(components(3 * n, pairs)[:n], return_inverse=True, return_counts=True)
    return group if len(sizes) >= LEAST_ANCHORS and sizes.max() <= n / 3 else three


def _row(one: str, row_of: dict[str, int], known: Known, where: Callable[[], str]) -> int:
    if one not in row_of:
        near = did_you_mean(one, list(row_of)[:20_000])
        raise UserError(
            f"{where()}: {one!r} is no item of {known.what}{near}; remove that row, or give --index a file of vectors "
            "that has it."
        )
    return row_of[one]


def _items_of(
    cells: np.ndarray,
    folder: Path,
    known: Known | None,
    input_shape: Sequence[int],
    may_be_files: bool,
    where: Callable[[int, int], str],
) -> tuple[np.ndarray, np.ndarray, bool]:
    """(positions int64 [3, T], inputs, whether these are embeddings) of the items that cells [3, T] name: known ones,
    or else image files."""
    names = {one: i for i, one in enumerate(dict.fromkeys(cells.ravel().tolist()))}
    first = {one: (role, t) for (role, t), one in reversed(list(np.ndenumerate(cells)))}
    row_of = {one: row for row, one in enumerate(known.ids.tolist())} if known else {}
    strangers = [one for one in names if one not in row_of]
    if not strangers:
        return np.array([[row_of[one] for one in role] for role in cells.tolist()]), known.inputs, known.embedded
    paths = [resolve(folder.resolve(), one) for one in names] if may_be_files else []
    if may_be_files and any(path and path.is_file() for path in paths):
        images, faults = decode_files([path or folder for path in paths], *input_shape[1:])
        for one, path, fault in zip(names, paths, faults, strict=True):
            if path is None:
                raise UserError(f"{where(*first[one])} {one!r} lies outside {folder}; put the table above its images.")
            if fault:
                raise UserError(f"{where(*first[one])} {one!r} {fault}; mend it or remove that triplet.")
        return np.array([[names[one] for one in role] for role in cells.tolist()]), images, False
    one = strangers[0]
    what = f"no item of {known.what}{did_you_mean(one, list(row_of)[:20_000])}" if known else "no image file"
    beside = f", nor an image file in {folder}" if may_be_files and known else ""
    raise UserError(
        f"{where(*first[one])} {one!r} is {what}{beside}; name items by their ids there, or give --index a file of "
        "vectors that has them."
    )
