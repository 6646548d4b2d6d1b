"""Lessons from triplets that people gave."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from csn_jax.adapt.lesson import MOST, Items, Lesson
from csn_jax.data.columns import Columns
from csn_jax.data.duplicates import components
from csn_jax.data.images import decode_files, resolve
from csn_jax.data.item_set import split_items
from csn_jax.data.own_triplets import same_three
from csn_jax.data.sources.table import split_header, split_name
from csn_jax.data.triplet_tables import ROLES, with_usual_names
from csn_jax.data.triplets import Triplets
from csn_jax.errors import UserError
from csn_jax.model.model import Model
from csn_jax.runtime.record import Condition
from csn_jax.text import did_you_mean, listed

FEW = 1_000  # triplets up to which all are learned from, and cross-validation measures the error
MANY_GROUPS = 80  # of triplets, below which a fifth of them teaches more than it measures: the screens of a grid
SCREEN = "screen"  # the column of what was on screen when triplets were given together
LEAST = 10  # triplets
LEAST_ANCHORS = 5  # different anchors, or groups of triplets


def holds_triplets(columns: Columns, name: str) -> bool:
    """Whether a table holds triplets instead of labels of a condition."""
    return name not in columns.text and all(role in with_usual_names(columns).text for role in ROLES)


def from_triplets(columns: Columns, name: str, items: Items | None, model: Model | None) -> Lesson:
    """A lesson from triplets: columns anchor, positive and negative (or other names that people use), and optionally
    condition, split and screen, which then groups triplets, and says that positives were selected and negatives not.

    Rows of another `condition` are left out. If there is a column `split`, its test triplets are held out. Otherwise a
    fifth is held out of more than FEW triplets in MANY_GROUPS, and none of fewer. Triplets of one group stay together.
    Cells may name `items` by id; or image files relative to the table, which `model` embeds, unless it is None.
    """
    notes = columns.notes
    columns = with_usual_names(columns)
    chosen = _rows_of(columns, name)
    cells = np.array([columns.text[role] for role in ROLES], object)[:, chosen]  # [3, T]
    n, n_anchors = len(chosen), len(set(cells[0].tolist()))
    if n < LEAST or n_anchors < LEAST_ANCHORS:
        raise UserError(
            f"{columns.path} has {n} triplets of {n_anchors} different anchors for {name!r}; give at least {LEAST} "
            f"triplets, better some hundred, of {LEAST_ANCHORS} anchors or more."
        )

    def where(role: int, t: int) -> str:
        return f"{columns.where(int(chosen[t]))}: {ROLES[role]}"

    roles, items = _items_of(cells, columns.path.parent, items, model, where)
    anchor, positive, negative = roles
    for t in np.flatnonzero((anchor == positive) | (anchor == negative) | (positive == negative))[:1].tolist():
        raise UserError(f"{columns.where(int(chosen[t]))} names an item twice; a triplet is three different items.")
    group = group_triplets(*roles)
    if SCREEN in columns.text:
        _, group = np.unique(np.array(columns.text[SCREEN])[chosen], return_inverse=True)
    split = np.full(n, "train", "<U10")
    if header := split_header(columns):
        split[:] = [split_name(columns.text[header][i], lambda i=i: columns.where(i)) for i in chosen.tolist()]
    elif n > FEW and len(np.unique(group)) >= MANY_GROUPS:
        split = split_items(n, group, seed=0)
    train, test = np.flatnonzero(split != "test"), np.flatnonzero(split == "test")
    n_groups = len(np.unique(group[train]))
    if n_groups < LEAST_ANCHORS:
        raise UserError(
            f"{columns.path} has triplets for {name!r} of {n_groups} different anchors, or sets of three items, that "
            f"are not test triplets; give triplets of {LEAST_ANCHORS} or more."
        )
    if len(train) > MOST:
        train = np.sort(np.random.default_rng(0).choice(train, MOST, replace=False))
    triplets, groups = {}, {}
    for part, rows in (("train", train), ("test", test)):
        if len(rows):
            triplets[part] = Triplets(*(role[rows].astype(np.int32) for role in roles), np.zeros(len(rows), np.int32))
            groups[part] = group[rows]
    source = f"{n:,} triplets in {columns.path.name}"
    note, screens = "; ".join(columns.notes[len(notes) :]), SCREEN in columns.text
    return Lesson(Condition(name, "triplets"), items, triplets, groups, source, note, screens=screens)


def _rows_of(columns: Columns, name: str) -> np.ndarray:
    """The rows of a table that hold triplets of a condition."""
    if "condition" not in columns.text:
        return np.arange(len(columns))
    named = columns.text["condition"]
    rows = np.flatnonzero(np.array(named) == name)
    if not len(rows):
        raise UserError(
            f"{columns.path} has no triplet of condition {name!r}{did_you_mean(name, set(named))}; it has triplets of "
            f"{listed(sorted(set(named)))}."
        )
    return rows


def group_triplets(anchor: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """int [T], the group of each triplet. A fold never separates triplets of one group.

    Triplets of one anchor, or of the same three items, share a group, also through other triplets. If that joins most
    triplets, only those of the same three items share one.
    """
    n, three = len(anchor), same_three(anchor, positive, negative)
    _, of_anchor = np.unique(anchor, return_inverse=True)
    pairs = np.stack([np.tile(np.arange(n), 2), np.concatenate([n + of_anchor, 2 * n + three])], axis=1)
    _, group, sizes = np.unique(components(3 * n, pairs)[:n], return_inverse=True, return_counts=True)
    return group if len(sizes) >= LEAST_ANCHORS and sizes.max() <= n / 3 else three


def _items_of(
    cells: np.ndarray, folder: Path, items: Items | None, model: Model | None, where: Callable[[int, int], str]
) -> tuple[np.ndarray, Items]:
    """(positions int64 [3, T], items) that cells [3, T] name: known items, or else image files."""
    names = list(dict.fromkeys(cells.ravel().tolist()))
    row_of = {item: row for row, item in enumerate(items.ids.tolist())} if items else {}
    unknown = [name for name in names if name not in row_of]
    if unknown:
        places = {name: where(role, t) for (role, t), name in reversed(list(np.ndenumerate(cells)))}
        files = _image_files(names, folder, model, places) if model else None
        if files is None:
            problem = f"not an item of {items.origin}{items.near(unknown[0])}" if items else "not an image file"
            beside = f", nor an image file in {folder}" if items and model else ""
            raise UserError(
                f"{places[unknown[0]]} {unknown[0]!r} is {problem}{beside}; name items by their ids there, or give "
                "--index a file of vectors that has them."
            )
        items, row_of = files, {name: row for row, name in enumerate(names)}
    return np.array([[row_of[name] for name in role] for role in cells.tolist()]), items


def _image_files(names: list[str], folder: Path, model: Model, places: dict[str, str]) -> Items | None:
    """The image files of these names, or None if no name is a file's."""
    paths = [resolve(folder.resolve(), name) for name in names]
    if not any(path and path.is_file() for path in paths):
        return None
    images, faults = decode_files([path or folder for path in paths], *model.form)
    for name, path, fault in zip(names, paths, faults, strict=True):
        if path is None:
            raise UserError(f"{places[name]} {name!r} lies outside {folder}; put the table above its images.")
        if fault:
            raise UserError(f"{places[name]} {name!r} {fault}; fix it or remove that triplet.")
    return Items(np.array(names), None, str(folder), images, model)
