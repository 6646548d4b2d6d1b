"""Leakage against a naive loop, and on data with a known answer."""

import dataclasses
import json
import math

import numpy as np
import pytest

from csn_jax.data.item_set import Condition, ItemSet
from csn_jax.evaluate import leakage as module
from csn_jax.evaluate.leakage import outcomes, results
from csn_jax.evaluate.table import results_table
from csn_jax.runtime.record import Results


def leakage(*arguments) -> dict[str, tuple[float, int]]:
    """{"condition/attribute": (sum over queries of right - chance, number of queries)}."""
    return {
        f"{name}/{attribute}": (math.fsum(right - chance), len(right))
        for name, attributes in outcomes(*arguments).items()
        for attribute, (right, chance) in attributes.items()
    }


def world(n: int = 300, seed: int = 0):
    """Three dimensions encode the shape, three the colour, one neither. Brand, tags and id are not conditions."""
    rng = np.random.default_rng(seed)
    shape, colour, brand = rng.integers(3, size=n), rng.integers(4, size=n), rng.integers(5, size=n)
    embeddings = np.stack([shape] * 3 + [colour] * 3 + [np.zeros(n)], axis=1) + rng.normal(size=(n, 7)) * 0.1
    labels = {
        "shape": shape.astype(str),
        "colour": colour.astype(str),
        "brand": brand.astype(str),
        "tags": np.array([f"t{brand[i]};u{i}" for i in range(n)]),
        "id": np.arange(n).astype(str),
    }
    labels["brand"][rng.random(n) < 0.2] = ""
    conditions = tuple(Condition(name, "categorical") for name in ("shape", "colour"))
    attributes = (*conditions, Condition("brand", "categorical"), Condition("tags", "set"))
    items = ItemSet(np.zeros((n, 1)), labels["id"], labels, np.full(n, "test"), conditions, attributes)
    return embeddings.astype(np.float32), np.repeat(np.eye(2, 3, dtype=np.float32), (3, 3, 1), axis=1), items


def naive(embeddings, mask, alike) -> list[tuple[bool, float]]:
    """(right, chance) per counted query. alike(i, j) is None if a label is unknown. A tie is wrong."""
    measured = []
    for i in range(len(embeddings)):
        others = [(j, alike(i, j)) for j in range(len(embeddings)) if j != i and alike(i, j) is not None]
        if not any(like for _, like in others):
            continue
        distance = {j: np.linalg.norm((embeddings[i].astype(float) - embeddings[j]) * mask) for j, _ in others}
        near = min(distance[j] for j, like in others if like)
        right = all(distance[j] > near for j, like in others if not like)
        measured.append((right, sum(like for _, like in others) / len(others)))
    return measured


def test_equals_a_naive_loop():
    """Each condition against each attribute: unknown labels, sets, and the condition's own attribute."""
    _, _, items = world(n=80)
    rng = np.random.default_rng(1)
    embeddings, masks = rng.normal(size=(80, 4)).astype(np.float32), rng.random((2, 4)).astype(np.float32)
    measured, sums = outcomes(embeddings, masks, items, "test"), leakage(embeddings, masks, items, "test")

    def same(name):
        column = items.labels[name].tolist()
        return lambda i, j: None if not (column[i] and column[j]) else column[i] == column[j]

    tags = [set(text.split(";")) for text in items.labels["tags"].tolist()]
    attributes = {name: same(name) for name in ("shape", "colour", "brand")}
    attributes["tags"] = lambda i, j: bool(tags[i] & tags[j])
    assert set(measured) == {"shape", "colour"} and len(sums) == 8
    for row, name in enumerate(measured):
        assert set(measured[name]) == set(attributes)  # an id has nothing alike
        for attribute, alike in attributes.items():
            right, chance = zip(*naive(embeddings, masks[row], alike), strict=True)
            np.testing.assert_array_equal(measured[name][attribute][0], right)
            np.testing.assert_allclose(measured[name][attribute][1], chance, rtol=1e-12)
            total, count = sums[f"{name}/{attribute}"]
            assert count == len(right) and total == pytest.approx(sum(right) - sum(chance))


def test_a_masked_space_shows_only_what_its_mask_keeps():
    """Its own attribute fully, the others at chance. A mask that keeps both shows both."""
    embeddings, masks, items = world(n=600)
    measured = results(embeddings, masks, items, "test")
    chance = measured["chance"]["by_attribute"]
    assert chance["shape"] == pytest.approx(1 / 3, abs=0.02) and chance["tags"] == pytest.approx(1 / 5, abs=0.02)
    for own, other in (("shape", "colour"), ("colour", "shape")):
        row, ranges = measured["by_condition"][own], measured["ci95"]["by_condition"][own]
        assert row[own] == pytest.approx(1 - chance[own])
        assert abs(row[other]) < 0.07 and abs(row["brand"]) < 0.07
        for attribute in row:
            assert ranges[attribute][0] <= row[attribute] <= ranges[attribute][1]
        assert ranges[other][0] < 0 < ranges[other][1] or abs(row[other]) < 0.04
    both = results(embeddings, np.ones((2, 7), np.float32), items, "test")["by_condition"]["shape"]
    assert both["shape"] == pytest.approx(1 - chance["shape"]) and both["colour"] == pytest.approx(1 - chance["colour"])
    none = results(embeddings, np.zeros((2, 7), np.float32), items, "test")["by_condition"]["shape"]
    assert none["shape"] == pytest.approx(-chance["shape"])  # every tie is wrong


def test_queries_are_sampled_but_the_gallery_is_not(monkeypatch):
    """At most QUERIES queries, with the same neighbours as without a limit."""
    embeddings, masks, items = world()
    whole = outcomes(embeddings, masks, items, "test")["shape"]["colour"]
    monkeypatch.setattr(module, "QUERIES", 50)
    right, chance = outcomes(embeddings, masks, items, "test")["shape"]["colour"]
    assert len(right) == 50 and set(chance) <= set(whole[1])


def test_one_condition_of_one_split():
    """C = 1. Only items of the split count. A condition without labels is measured against the other attributes."""
    embeddings, masks, items = world()
    split = np.where(np.arange(300) % 2 == 0, "test", "train")
    embeddings[split == "train"] = np.nan
    single = dataclasses.replace(items, conditions=items.conditions[:1], split=split)
    measured = results(embeddings, masks[:1], single, "test")
    assert list(measured["by_condition"]) == ["shape"] and measured["n_queries"]["by_attribute"]["shape"] == 150
    assert measured["by_condition"]["shape"]["shape"] > 0.6
    people = dataclasses.replace(single, conditions=(Condition("people", "categorical"),))
    assert set(results(embeddings, masks[:1], people, "test")["by_condition"]["people"]) >= {"shape", "colour"}
    bare = dataclasses.replace(people, labels={}, attributes=())
    measured = results(embeddings, masks[:1], bare, "test")
    assert measured["by_condition"] == {"people": {}} and measured["n_queries"] == {"by_attribute": {}}


def test_results_are_plain_json_and_a_table():
    """The cells of the table are accuracies; the last row is chance."""
    embeddings, masks, items = world()
    measured = results(embeddings, masks, items, "test")
    assert json.loads(json.dumps(measured)) == measured
    nothing = {"by_condition": {}}
    head = {"variant": "learned", "conditions": [], "split": "test", "step": 1}
    head |= {name: {"overall": value} | nothing for name, value in (("triplet_error", 0), ("ci95", [0, 0]))}
    lines = results_table(
        Results.from_object(head | {"n_triplets": {"overall": 1} | nothing, "leakage": measured})
    ).splitlines()
    assert lines[-5].split() == ["nearest", "is", "alike", "in", "shape", "colour", "brand", "tags"]
    assert lines[-3].startswith("by shape    ") and " 100.0%  " in lines[-3]
    assert lines[-1].split()[2] == f"{measured['chance']['by_attribute']['shape']:.1%}"
