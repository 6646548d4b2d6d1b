"""Groups that answers on several screens make. The oracle is the true value of each item."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from csn_jax.adapt import forms
from csn_jax.adapt.lesson import Items
from csn_jax.adapt.linked import linked
from csn_jax.adapt.people import from_triplets
from csn_jax.core.maps import MapsPlan
from csn_jax.data.columns import Columns
from csn_jax.data.triplets import Triplets

VALUES = np.array(list("aaaaaabbbbbbcccc"))
SCREENS = [
    (0, (1, 2, 6, 12)),
    (2, (3, 7, 13)),
    (4, (5, 0, 8)),
    (6, (7, 8, 0)),
    (8, (9, 10, 2)),
    (12, (13, 3, 9)),
    (14, (15, 6)),
]


def answered(screens, slips=()):
    """The rows that the page saves: anchor, positive, negative, and the item that the screen is about."""
    rows = []
    for item, shown in screens:
        alike = [other for other in shown if (VALUES[other] == VALUES[item]) != ((item, other) in slips)]
        for a, p in itertools.permutations([item, *alike], 2):
            rows += [(a, p, n, item) for n in shown if n not in alike]
    return np.array(rows, np.int32)


def as_triplets(rows):
    return Triplets(*rows.T[:3], np.zeros(len(rows), np.int32))


def test_what_screens_say_together_is_right_and_more_than_each_says():
    given = as_triplets(np.tile(answered(SCREENS), (20, 1)))
    anchor, positive, negative, condition = linked(given)
    assert len(anchor) == len(given.anchor) and anchor.dtype == np.int32 and not condition.any()
    assert (VALUES[anchor] == VALUES[positive]).all() and (VALUES[anchor] != VALUES[negative]).all()
    assert (anchor != positive).all()
    pairs = {*zip(anchor.tolist(), positive.tolist(), strict=True)}
    assert not pairs <= {*zip(given.anchor.tolist(), given.positive.tolist(), strict=True)}
    # 11 was never shown; 14 and 15 are a group of their own, and only 6, and so all of b, is unlike them.
    assert {*anchor.tolist()} == {*range(16)} - {11}
    assert {*negative[anchor >= 14].tolist()} == {6, 7, 8, 9, 10}
    counts = np.bincount(anchor)
    assert counts.max() < 4 * counts[counts > 0].min()  # an item as often as another, whatever its screen's size


def test_answers_that_contradict_each_other_stay_as_they_are():
    given = as_triplets(answered(SCREENS, slips={(2, 7), (8, 2)}))
    assert linked(given) is given


def test_pairs_that_are_given_one_way_join_nothing():
    rows = answered(SCREENS)
    given = as_triplets(rows[rows[:, 0] == rows[:, 3]])
    assert linked(given) is given


@pytest.mark.parametrize("screens", [True, False])
def test_only_answers_on_screens_are_linked(screens, monkeypatch):
    rng, seen = np.random.default_rng(0), []
    monkeypatch.setattr(forms, "linked", lambda given: seen.append(len(given.anchor)) or given)
    monkeypatch.setattr(forms, "train_maps", lambda *_: np.eye(2, 4, dtype=np.float32)[None])
    rows, names = answered(SCREENS), ("anchor", "positive", "negative", *(("screen",) if screens else ()))
    text = dict(zip(names, rows.astype(str).T.tolist(), strict=False))
    points = rng.normal(0, 1, (len(VALUES), 4)).astype(np.float32)
    items = Items(np.arange(len(VALUES)).astype(str), None, "", points)
    lesson = from_triplets(Columns(Path("triplets.csv"), text, None, None), "look", items, None)
    forms.choose(points, points, lesson.triplets, lesson.groups, MapsPlan(4, 2, (0.0,)), False, None, lesson.screens)
    assert bool(seen) == screens
