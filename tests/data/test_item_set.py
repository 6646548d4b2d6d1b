"""Items and their split."""

import dataclasses

import numpy as np
import pytest

from csn_jax.data.item_set import SPLITS, ItemSet, choose_conditions, split_items
from csn_jax.errors import UserError
from csn_jax.runtime.record import Condition

AVAILABLE = (Condition("character", "categorical"), Condition("font", "categorical"))
LABELS = {name: np.array(["a", "b"]) for name, _ in AVAILABLE}


@pytest.mark.parametrize("n", [10, 20, 100, 1000, 12345, 19_716])
def test_shares_are_70_10_20(n):
    """Each split's size is its share of the items, to the item."""
    split = split_items(n, None, seed=0)
    counts = [int((split == name).sum()) for name in SPLITS]
    assert sum(counts) == n
    assert np.abs(np.array(counts) - n * np.array([0.7, 0.1, 0.2])).max() < 1
    if n % 10 == 0:
        assert counts == [7 * n // 10, n // 10, 2 * n // 10]


def test_seeded_and_shuffled():
    """The same seed gives the same split, another seed another; neighbours are spread."""
    first = split_items(1000, None, seed=3)
    np.testing.assert_array_equal(first, split_items(1000, None, seed=3))
    assert (first != split_items(1000, None, seed=4)).any()
    for part in np.split(first, 10):
        assert 40 < (part == "train").sum() < 95


def test_units_never_straddle_splits():
    """With a unit, all items of one value share a split, and the values are split 70 / 10 / 20."""
    rng = np.random.default_rng(0)
    unit = np.array([f"font {i}" for i in rng.integers(50, size=3000) ** 2 // 50])
    split = split_items(len(unit), unit, seed=0)
    values = np.unique(unit)
    homes = [np.unique(split[unit == value]) for value in values]
    assert all(len(home) == 1 for home in homes)
    shares = np.array([sum(home[0] == name for home in homes) for name in SPLITS]) / len(values)
    assert np.abs(shares - [0.7, 0.1, 0.2]).max() < 1 / len(values)
    assert any((split_items(len(unit), unit, seed=s) != split).any() for s in (1, 2))


@pytest.mark.parametrize("n", range(3, 30))
def test_few_units_still_fill_every_split(n):
    """From three units on, no split is empty, and training has the most."""
    split = split_items(n, np.array([str(i) for i in range(n)]), seed=0)
    train, validation, test = (int((split == name).sum()) for name in SPLITS)
    assert train >= test >= validation >= 1


def test_conditions_keep_the_wanted_order():
    """All conditions if none is named."""
    assert choose_conditions(LABELS, AVAILABLE, ()) == AVAILABLE
    assert choose_conditions(LABELS, AVAILABLE, ("font",)) == AVAILABLE[1:]
    assert choose_conditions(LABELS, AVAILABLE, ("font", "character")) == AVAILABLE[::-1]


def test_unknown_and_repeated_conditions_are_refused():
    """The message names the word and the choices."""
    with pytest.raises(UserError, match=r"'fnot'.*character, font"):
        choose_conditions(LABELS, AVAILABLE, ("fnot",))
    with pytest.raises(UserError, match="twice: font font"):
        choose_conditions(LABELS, AVAILABLE, ("font", "font"))


def items() -> ItemSet:
    return ItemSet(
        inputs=np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2, 1),
        ids=np.array(["a/1", "a/2", "b/1", "b/2", "c/1", "c/2"]),
        labels={"font": np.array(list("aabbcc")), "character": np.array(list("12121") + [""])},
        split=np.array(["train"] * 4 + ["validation", "test"]),
        conditions=(Condition("font", "categorical"), Condition("character", "categorical")),
    )


def altered(name, change):
    value = getattr(items(), name).copy()
    change(value)
    return dataclasses.replace(items(), **{name: value})


def relabelled(name, row, value):
    labels = {key: column.copy() for key, column in items().labels.items()}
    labels[name][row] = value
    return dataclasses.replace(items(), labels=labels)


OTHERS = {
    "one pixel": lambda: altered("inputs", lambda x: x.__setitem__((5, 1, 1, 0), 7)),
    "shape": lambda: dataclasses.replace(items(), inputs=items().inputs.reshape(6, 1, 4, 1)),
    "type": lambda: dataclasses.replace(items(), inputs=items().inputs.view(np.int8)),
    "an id": lambda: altered("ids", lambda x: x.__setitem__(5, "c/3")),
    "a font": lambda: relabelled("font", 5, "b"),
    "a character": lambda: relabelled("character", 5, "1"),
    "split": lambda: altered("split", lambda x: x.__setitem__(0, "test")),
    "order of conditions": lambda: dataclasses.replace(items(), conditions=items().conditions[::-1]),
    "fewer conditions": lambda: dataclasses.replace(items(), conditions=items().conditions[:1]),
    "kind": lambda: dataclasses.replace(items(), conditions=(Condition("font", "set"), items().conditions[1])),
    "ids across their border": lambda: dataclasses.replace(items(), ids=np.array(["a/", "1a/2", *items().ids[2:]])),
}


@pytest.mark.parametrize("part", OTHERS)
def test_a_change_in_any_part_changes_the_digest(part):
    """Any part that training or evaluation reads."""
    assert OTHERS[part]().digest() != items().digest()


def test_equal_content_has_an_equal_digest():
    """Memory layout, width of strings and other labels do not matter."""
    first = items()
    folded = dataclasses.replace(
        first,
        inputs=np.asfortranarray(first.inputs),
        ids=first.ids.astype("<U40"),
        labels=first.labels | {"unused": np.array(list("xyzxyz"))},
    )
    assert folded.digest() == first.digest()


def test_digest_of_a_memory_map(tmp_path):
    """The same digest on disk and in memory."""
    pixels = np.random.default_rng(0).integers(256, size=(9000, 2, 2, 1), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    many = {"ids": np.arange(9000).astype(str), "split": np.full(9000, "train")}
    many |= {"labels": {"font": np.full(9000, "a")}, "conditions": items().conditions[:1]}
    mapped = ItemSet(inputs=np.load(tmp_path / "pixels.npy", mmap_mode="r"), **many)
    assert mapped.digest() == ItemSet(inputs=pixels, **many).digest()


def test_a_digest_takes_any_file_name():
    """An id may be a file name that is not valid Unicode."""
    odd = altered("ids", lambda x: x.__setitem__(0, "\udcff"))
    odder = altered("ids", lambda x: x.__setitem__(0, "\ud800"))
    assert len({odd.digest(), odder.digest(), items().digest()}) == 3
