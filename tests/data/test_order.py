"""The batch of a step is a function of (seed, step)."""

import numpy as np
import pytest

from csn_jax.data.item_set import Condition, ItemSet
from csn_jax.data.order import batch_rows, check_labelled, label_items, labelled_rows, labels_at, steps_per_epoch
from csn_jax.errors import UserError


@pytest.mark.parametrize(
    "n, batch, steps, last", [(100, 16, 7, 4), (96, 16, 6, 16), (5, 5, 1, 5), (100_000, 256, 391, 160)]
)
def test_an_epoch_holds_every_triplet_once(n, batch, steps, last):
    """An epoch is a permutation in batches. The short last batch is kept."""
    assert steps_per_epoch(n, batch) == steps
    for epoch in (0, 1, 5):
        batches = [batch_rows(0, epoch * steps + i, n, batch) for i in range(steps)]
        assert [len(rows) for rows in batches] == [batch] * (steps - 1) + [last]
        np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(n))


def test_a_batch_is_a_pure_function_of_seed_and_step():
    """Earlier calls do not matter: backwards, with leaps, with other seeds."""
    forwards = [batch_rows(7, step, 50, 8) for step in range(30)]
    for step in (*reversed(range(30)), 29, 3, 17):
        batch_rows(8, step, 50, 8)
        batch_rows(7, step, 49, 8)
        np.testing.assert_array_equal(batch_rows(7, step, 50, 8), forwards[step])


def test_epochs_and_seeds_differ_and_are_shuffled():
    """Each epoch and each seed has its own order, which is not the order of the triplets."""
    orders = [tuple(batch_rows(seed, epoch, 1000, 1000)) for seed in range(3) for epoch in range(4)]
    assert len({*orders, tuple(range(1000))}) == 13


def test_batches_are_random_samples():
    """Over epochs, each triplet comes at each position about equally often."""
    places = np.zeros((10, 10), int)
    for epoch in range(2000):
        rows = np.concatenate([batch_rows(1, epoch * 4 + i, 10, 3) for i in range(4)])
        places[rows, np.arange(10)] += 1
    assert places.min() > 140 and places.max() < 260  # mean 200, standard deviation 13.4


# Batches of labelled items.

N, BATCH = 200, 24


def items_of(kind="categorical", **columns):
    """Items with conditions of these labels. Every fifth item is in another split than training."""
    labels = {name: np.asarray(column, str) for name, column in columns.items()}
    n = len(next(iter(labels.values())))
    split = np.where(np.arange(n) % 5 == 4, "test", "train")
    conditions = tuple(Condition(name, kind) for name in labels)
    return ItemSet(np.zeros((n, 2), np.float32), np.arange(n).astype(str), labels, split, conditions)


@pytest.fixture(scope="module")
def mixed():
    """A large class, many small classes, unique values, and a column with a third missing."""
    rng = np.random.default_rng(0)
    return items_of(
        giant=np.where(rng.uniform(size=N) < 0.9, "most", rng.choice(["a", "b"], N)),
        small=rng.integers(60, size=N),
        half=np.where(rng.uniform(size=N) < 0.3, "", rng.choice(["x", "y", "z"], N)),
    )


def pairs(codes):
    """(alike, different) per condition and pair of rows: bool [C, B, B] each."""
    known, alike = (codes >= 0).T, codes.T[:, :, None] == codes.T[:, None, :]
    known = known[:, :, None] & known[:, None, :]
    return known & alike & ~np.eye(len(codes), dtype=bool), known & ~alike


@pytest.mark.parametrize("batch", [12, BATCH, 100, 160])
def test_a_labelled_batch_has_triplets_in_every_condition(mixed, batch):
    """Its items are different training items. At 160 they are all items."""
    labelled = label_items(mixed)
    for step in range(50):
        rows = labelled_rows(0, step, labelled, batch)
        assert rows.dtype == np.int64 and len(np.unique(rows)) == len(rows) == batch
        assert (mixed.split[rows] == "train").all()
        alike, differ = pairs(labelled.codes[rows])
        assert (alike.any(axis=2) & differ.any(axis=2)).any(axis=1).all()  # [C]: some anchor has both


@pytest.mark.parametrize("columns", [["a"] * 8 + ["b"] * 8, ["a"] * 30 + list("bcdefg"), list("aabcdefghi")])
def test_few_values_still_leave_negatives(columns):
    """Two values; a value of nearly all items; one pair among unique values."""
    labelled = label_items(items_of(label=columns))
    for batch in (4, 6, 8):
        for step in range(100):
            alike, differ = pairs(labelled.codes[labelled_rows(0, step, labelled, batch)])
            assert (alike.any(axis=2) & differ.any(axis=2)).any()


def test_codes_are_equal_where_labels_are(mixed):
    """A missing label has code -1."""
    codes = label_items(mixed).codes
    assert codes.dtype == np.int32 and codes.shape == (N, 3)
    for column, condition in zip(codes.T, mixed.conditions, strict=True):
        labels = mixed.labels[condition.name]
        np.testing.assert_array_equal(column[:, None] == column[None], labels[:, None] == labels[None])
        np.testing.assert_array_equal(column == -1, labels == "")


def test_a_labelled_batch_is_a_pure_function_of_seed_and_step(mixed):
    """Backwards, with other seeds, and with a new index of the same items."""
    labelled = label_items(mixed)
    forwards = [labelled_rows(7, step, labelled, BATCH) for step in range(20)]
    for step in (*reversed(range(20)), 3, 17):
        labelled_rows(8, step, labelled, BATCH)
        np.testing.assert_array_equal(labelled_rows(7, step, label_items(mixed), BATCH), forwards[step])
    drawn = {tuple(labelled_rows(seed, step, labelled, BATCH)) for seed in range(3) for step in range(20)}
    assert len(drawn) == 60


def test_a_large_class_does_not_fill_the_batch(mixed):
    """It has 90 % of the items, and a third of what its condition draws, as the two other classes have."""
    only = items_of(giant=mixed.labels["giant"])
    labelled = label_items(only)
    shares = [(only.labels["giant"][labelled_rows(0, step, labelled, 12)] == "most").mean() for step in range(300)]
    assert 0.3 < np.mean(shares) < 0.4


def test_items_and_values_are_drawn_with_equal_chances():
    """Each value comes equally often (all unique values count as one), and so does each item of a value."""
    labels = np.repeat(list("abcdefgh"), 10).astype("<U6")
    labels[60:70] = [f"once{i}" for i in range(10)]
    labelled = label_items(items_of(label=labels))
    drawn = np.zeros(80, int)
    for step in range(3000):
        drawn[labelled_rows(0, step, labelled, 8)] += 1
    often = drawn[np.arange(80) % 5 != 4]
    assert drawn.sum() == often.sum() == 24_000
    assert often.min() > 0.8 * often.mean() and often.max() < 1.2 * often.mean()  # standard deviation 0.05


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (7, ["config.batch_size is 7", "4 items", "2 conditions", "from 8 to 32"]),
        (33, ["config.batch_size is 33", "32 labelled items", "train split"]),
    ],
)
def test_a_batch_that_cannot_be_drawn_is_refused(batch, words):
    columns = {"first": ["a", "b", ""] * 20, "second": ["c", "d", ""] * 20}
    with pytest.raises(UserError) as error:
        check_labelled(items_of(**columns), batch)
    assert [word for word in words if word not in str(error.value)] == []
    check_labelled(items_of(**columns), 8)


# Sets and numbers.


@pytest.fixture(scope="module")
def kinds():
    """Sets of which one member is in nearly all, prices of which most lie at one end, and levels."""
    rng = np.random.default_rng(0)
    labels = {
        "tags": [";".join(["all", *rng.choice(list("abcdef"), rng.integers(0, 3), replace=False)]) for _ in range(N)],
        "price": np.append(rng.uniform(0, 1, N - 20), rng.uniform(1, 10, 20)).round(2),
        "level": rng.choice(["1", "2.5", "40"], N),
    }
    labels["tags"] = [text.removeprefix("all;") if i % 10 == 0 else text for i, text in enumerate(labels["tags"])]
    labels = {name: np.where(rng.uniform(size=N) < 0.2, "", np.asarray(column, str)) for name, column in labels.items()}
    items = items_of(**labels)
    conditions = tuple(map(Condition, labels, ("set", "numeric", "ordinal")))
    return ItemSet(items.inputs, items.ids, labels, items.split, conditions)


def test_codes_of_sets_and_numbers(kinds):
    """Bits say which items of the batch share a member, differences of codes are gaps, -1 is a missing label."""
    labelled, rows = label_items(kinds), np.random.default_rng(0).permutation(N)[:70]
    labels = labels_at(labelled, rows)
    assert labels.dtype == np.int32 and labels.shape == (70, 3 + 3)
    tags, price, level = (kinds.labels[name] for name in ("tags", "price", "level"))
    for i, row in enumerate(rows):
        for j, other in enumerate(rows):
            shares = bool(tags[row] and tags[other]) and not {*tags[row].split(";")}.isdisjoint(tags[other].split(";"))
            assert labels[i, 3 + j // 32] >> j % 32 & 1 == shares
    for column, values in zip(labels.T[:3], (tags, price, level), strict=True):
        np.testing.assert_array_equal(column == -1, values[rows] == "")
    known = np.flatnonzero(price != "")
    numbers, codes = price[known].astype(float), labelled.codes[known, 1]
    step = 0.1 * np.ptp(numbers)
    np.testing.assert_allclose((numbers - numbers.min()) / step * 2**20, codes, atol=0.501)
    np.testing.assert_array_equal(labelled.codes[:, 2], [{"": -1, "1": 0, "2.5": 1, "40": 2}[value] for value in level])


def test_batches_of_sets_and_numbers(kinds):
    """Different labelled training items; rare members and the thin end of the scale are drawn as often as others."""
    labelled = label_items(kinds)
    shares = []
    for step in range(50):
        rows = labelled_rows(0, step, labelled, 36)
        assert len(np.unique(rows)) == 36 and (kinds.split[rows] == "train").all()
        known = rows[kinds.labels["price"][rows] != ""]
        shares.append((kinds.labels["price"][known].astype(float) > 1).mean())
    assert 0.15 < np.mean(shares) < 0.5  # 10 % of all items
