"""The data report: what training will learn from, as a table to read before an hour is spent."""

import math
from collections import Counter
from itertools import combinations

import numpy as np

from csn_jax.config import Config
from csn_jax.data.dataset import Dataset
from csn_jax.data.item_set import SPLITS, Condition, ItemSet
from csn_jax.data.triplets import Triplets, count_by_gap, count_by_members, count_by_value, scale_of
from csn_jax.runtime.record import GAPS, NUMBERS
from csn_jax.store.vector_file import check_columns
from csn_jax.text import table

RARE = 2  # a value seen at most so often
ALIKE = 0.8  # normalised mutual information from which two conditions are nearly the same
HELD = 16  # values per dimension: with more, masks are likely to tell fewer of them apart than the raw vectors do
WIDTH = 24  # characters of a name or value


def report(config: Config, dataset: Dataset) -> str:
    """The items and conditions of a data set as a table, and below it conditions that are nearly the same and notes of
    the source. A UserError for a column that csn_jax embed would refuse after training."""
    items = dataset.items
    check_columns((*items.labels, *items.cells))
    counts = ", ".join(f"{int((items.split == name).sum()):,} {name}" for name in SPLITS)
    if dataset.record.split_unit == "triplet":
        counts = "your own triplets are split, not the items"
    head = f"data report: {config.data.path or config.data.source}, {len(items.ids):,} items ({counts})"
    rows = [("condition", "kind", "values", "known", "possible triplets", "rarest values")]
    for row, condition in enumerate(items.conditions):
        own = [triplets.of_condition(row) for triplets in dataset.triplets.values()] if config.data.triplets else None
        rows.append(_row(items, condition, own))
    lines = [*_near_duplicates(dataset), *_crowded(config, items), *dataset.notes]
    return "\n".join([head, table(rows), *(f"- {_shown(line, 200)}" for line in lines)])


def _row(items: ItemSet, condition: Condition, own: list[Triplets] | None) -> tuple[str, ...]:
    """The line of a condition. `own`: its triplets, if people gave them."""
    name, kind = condition
    column = items.labels.get(name)
    given = f"{sum(len(triplets.anchor) for triplets in own):,} given" if own else ""
    if column is None:
        named = np.unique(np.concatenate([role for triplets in own for role in triplets[:3]]))
        return _shown(name), kind, "-", _share(len(named), len(items.ids)), given, "-"
    known = column[column != ""]
    if not own:
        possible = _large(sum(count_possible(column, kind, items.split == split) for split in SPLITS))
    members = known.tolist() if kind != "set" else (part for value in known.tolist() for part in value.split(";"))
    times = Counter(members)
    rarest, values = "-", f"{len(times):,}"
    if kind in GAPS:
        numbers = known.astype(float)
        values += f" ({numbers.min():g} to {numbers.max():g})"
    else:
        rare = sorted(((n, value) for value, n in times.items()), key=lambda pair: pair[0])
        seldom = sum(n <= RARE for n, _ in rare)
        shown = ", ".join(f"{_shown(value)} {n:,}" for n, value in rare[: min(3, max(1, seldom))])
        rarest = f"{seldom} seen once or twice: {shown}" if seldom else shown
    return _shown(name), kind, values, _share(len(known), len(column)), given or possible, rarest


def _share(n: int, total: int) -> str:
    """In per cent, rounded down: only all items are 100 %."""
    return f"{math.floor(1000 * n / total) / 1000:.1%}"


def count_possible(column: np.ndarray, kind: str, members: np.ndarray) -> int:
    """About how many triplets the items of one split, bool [N], allow; exact for few values."""
    known = members & (column != "")
    if kind in NUMBERS:
        scale = scale_of(column, kind)
        return count_by_gap(scale.values[known], scale.step)
    return (count_by_members if kind == "set" else count_by_value)(column[known])


def _crowded(config: Config, items: ItemSet) -> list[str]:
    """One line per condition with more values than the dimensions of its mask hold apart. Maps choose their size by the
    number of values."""
    if config.variant == "maps":
        return []
    shared_by = len(items.conditions) if config.variant == "fixed" else 1
    n_dims = config.backbone.embedding_dim // shared_by
    most = items.inputs.shape[1] if items.inputs.ndim == 2 else math.inf  # more add nothing to vectors
    lines = []
    for name, kind in items.conditions:
        if name not in items.labels or kind in NUMBERS:
            continue
        texts = np.unique(items.labels[name]).tolist()
        n_values = len({part for text in texts for part in (text.split(";") if kind == "set" else [text]) if part})
        needed = min(1 << max(0, math.ceil(math.log2(max(n_values, 1) / HELD))), most)
        if needed > n_dims:
            lines.append(
                f"{_shown(name)} has {n_values:,} values, more than {n_dims} dimensions hold apart; set "
                "--config.variant=maps, which chooses by the number of values, or "
                f"--config.backbone.embedding_dim={needed * shared_by}"
            )
    return lines


def _near_duplicates(dataset: Dataset) -> list[str]:
    """One line per pair of conditions that are nearly the same."""
    items = dataset.items
    codes = {name: _codes(items.labels[name], kind) for name, kind in items.conditions if name in items.labels}
    return [
        f"{_shown(a)} and {_shown(b)} are nearly the same condition (normalised mutual information {shared:.2f} of 1)"
        for a, b in combinations(codes, 2)
        if (shared := normalised_mutual_information(codes[a], codes[b])) >= ALIKE
    ]


def _codes(column: np.ndarray, kind: str) -> np.ndarray:
    """Labels as integers [N], -1 if missing; numbers by tenths of their range."""
    numbers = scale_of(column, kind).bins if kind in GAPS else np.unique(column, return_inverse=True)[1]
    return np.where(column == "", -1, numbers)


def normalised_mutual_information(x: np.ndarray, y: np.ndarray) -> float:
    """Mutual information over the mean of both entropies, from 0 to 1, over items whose codes [N] are both known
    (not -1)."""
    both = (x >= 0) & (y >= 0)
    if not both.any():
        return 0.0
    x, y = x[both], y[both]
    h_x, h_y, h_xy = (_entropy(np.unique(codes, return_counts=True)[1]) for codes in (x, y, x * (y.max() + 1) + y))
    return 2 * (h_x + h_y - h_xy) / (h_x + h_y) if h_x + h_y > 0 else 0.0


def _entropy(counts: np.ndarray) -> float:
    p = counts / counts.sum()
    return float(-(p * np.log(p)).sum())


def _large(n: int) -> str:
    """A number for people: exact below a million, then rounded."""
    for power, name in ((12, "trillion"), (9, "billion"), (6, "million")):
        if n >= 10**power:
            return f"{n / 10**power:,.{1 if n < 10 ** (power + 2) else 0}f} {name}"
    return f"{n:,}"


def _shown(text: str, width: int = WIDTH) -> str:
    """A user's text on one line, without control characters, cut to a width."""
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= width else text[: width - 1] + "…"
