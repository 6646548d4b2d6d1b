"""In-batch losses under conditions of all kinds, from labels as text, against loops over anchors, positives and
negatives with PyTorch's gradients."""

from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from oracles import assert_close

from csn_jax.core import in_batch
from csn_jax.core.masks import rectify
from csn_jax.data import order
from csn_jax.data.item_set import Condition, ItemSet
from csn_jax.data.triplets import scale_of

N, B, D = 34, 33, 6  # B: one more than a word of bits has
WEIGHTS = {"embedding_weight": 5e-3, "mask_weight": 5e-4}
EXACT = 1e-12
MIXED = {"price": "numeric", "tags": "set", "colour": "categorical", "heel": "ordinal", "views": "rank", "sizes": "set"}
CASES = {"mixed": MIXED, "one set": {"tags": "set"}, "two": {"price": "numeric", "tags": "set"}}
names = pytest.mark.parametrize("name", ["batch_all", "batch_hard"])


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def make(kinds):
    """N items, of which the batch takes B in another order, the last 3 as padding. A fifth of the labels is missing.
    Many gaps are equal, and many differ by exactly the clear difference."""
    rng = np.random.default_rng(0)
    sets = [";".join(sorted(rng.choice(list("abcdefg"), rng.integers(1, 4), replace=False))) for _ in range(N)]
    labels = {
        "price": (rng.integers(0, 21, N) / 20).astype(str),  # the clear difference is 0.1, which is no float
        "tags": np.array(sets),
        "colour": rng.choice(list("rgb"), N),
        "heel": rng.choice(["1", "2.5", "7"], N),
        "views": rng.integers(0, 30, N).astype(str),
        "sizes": np.array(sets[::-1]),
    }
    labels = {name: np.where(rng.uniform(size=N) < 0.2, "", labels[name]) for name in kinds}
    conditions = tuple(Condition(*pair) for pair in kinds.items())
    items = ItemSet(np.zeros((N, 1)), np.arange(N).astype(str), labels, np.full(N, "train"), conditions)
    values = {
        "embeddings": rng.normal(0.3, 0.2, (B, D)),
        "beta": rng.normal(0.9, 0.7, (len(kinds), D)),
        "valid": np.arange(B) < B - 3,
        "margin": 0.05,
    }
    return items, rng.permutation(N)[:B], values


def ours(name, items, rows, values, kinds, gradients=True):
    labels = order.labels_at(order.label_items(items), rows)
    assert labels.dtype == np.int32
    options = {"name": name, "margin": values["margin"], "kinds": kinds, **WEIGHTS}

    def objective(embeddings, beta):
        terms = in_batch.in_batch_loss(embeddings, rectify(beta), labels, values["valid"], **options)
        return terms.total, terms

    if not gradients:  # these take most of the compilation
        _, terms = jax.jit(objective)(values["embeddings"], values["beta"])
        return terms._asdict()
    differentiated = jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))
    (_, terms), gradient = differentiated(values["embeddings"], values["beta"])
    return terms._asdict() | {"gradient": gradient[0], "gradient of masks": gradient[1]}


def gap_of(labels, kind):
    """gap(i, j) of two labelled items, and the least difference of the gaps of negative and positive."""
    if kind == "set":
        return lambda i, j: float(set(labels[i].split(";")).isdisjoint(labels[j].split(";"))), 1
    if kind == "categorical":
        return lambda i, j: float(labels[i] != labels[j]), 1
    scale = scale_of(labels, kind)
    return lambda i, j: abs(scale.values[i] - scale.values[j]), scale.step * (1 - 1e-9)


@cache
def theirs(name, case):
    items, rows, values = make(CASES[case])
    embeddings, beta = (torch.tensor(values[key], requires_grad=True) for key in ("embeddings", "beta"))
    masks, hinges, l1 = torch.relu(beta), [], []
    valid = np.flatnonzero(values["valid"])
    for c, (condition, kind) in enumerate(items.conditions):
        labels = items.labels[condition]
        gap, step = gap_of(labels, kind)
        known = [i for i in valid if labels[rows[i]]]
        for a in known:
            l1.append(masks[c].sum())
            d = torch.linalg.vector_norm((embeddings[a] - embeddings) * masks[c] + 1e-6, dim=1)
            gaps = {j: gap(rows[a], rows[j]) for j in known}
            pairs = [(p, n) for p, n in product(known, known) if p != a and gaps[n] - gaps[p] >= step]
            if pairs:
                of_anchor = torch.relu(d[[p for p, _ in pairs]] - d[[n for _, n in pairs]] + values["margin"])
                hinges += [of_anchor] if name == "batch_all" else [of_anchor.max()[None]]
    hinges = torch.cat(hinges)
    active = int((hinges > 0).sum())
    terms = {
        "triplet": hinges.sum() / (active if name == "batch_all" else len(hinges)),
        "embedding": torch.linalg.vector_norm(embeddings[valid]) / len(valid) ** 0.5,
        "mask": torch.stack(l1).mean(),
    }
    total = terms["triplet"] + sum(WEIGHTS[f"{key}_weight"] * terms[key] for key in ("embedding", "mask"))
    gradient = torch.autograd.grad(total, (embeddings, beta))
    assert 0.1 < active / len(hinges) < (1 if name == "batch_all" else 1.1)
    found = terms | {"total": total, "gradient": gradient[0], "gradient of masks": gradient[1]}
    return {key: value.detach().numpy() for key, value in found.items()} | {"active": np.array(active / len(hinges))}


@names
@pytest.mark.parametrize("case", CASES)
def test_equals_a_triple_loop(name, case):
    """Value and gradients, with missing labels, padding and equal gaps."""
    assert_close(ours(name, *make(CASES[case]), tuple(CASES[case].values())), theirs(name, case), EXACT)


# Each mistake below must fail the comparison.

MISTAKES = {
    "unknown is a value": ("_known", lambda code: (code[:, None] == code[None]) | True),
    "bits of another word": ("_shared", lambda words, shared=in_batch._shared: shared(words[:, ::-1])),
    "any difference": ("least_difference", lambda kind: 1),
    "whole steps are lost to rounding": ("least_difference", lambda kind: (1 << 20) + 1),
    "an item is its own positive": ("_negatives_gap", lambda gap, step: jnp.where(gap >= 0, gap + step, 1 << 30)),
    "gaps with a sign": ("_gaps", lambda code: jnp.where((code >= 0)[:, None], code[:, None] - code[None], -1)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_comparison_detects(monkeypatch, mistake):
    monkeypatch.setattr(in_batch, *MISTAKES[mistake])
    broken = ours("batch_all", *make(CASES["two"]), ("numeric", "set"), gradients=False)
    expected = {key: value for key, value in theirs("batch_all", "two").items() if key in broken}
    with pytest.raises(AssertionError, match="is off"):
        assert_close(broken, expected, EXACT)


@pytest.mark.slow
def test_memory_grows_with_the_square_of_the_batch():
    """B = 1,024, sets and numbers: less than 150 MB for loss and gradients. B^3 floats would take 4.3 GB."""
    shapes = [((1024, 64), np.float32), ((3, 64), np.float32), ((1024, 3 + 32), np.int32), ((1024,), bool)]
    for name in ("batch_all", "batch_hard"):

        def objective(x, masks, labels, valid, name=name):
            kinds = ("set", "numeric", "categorical")
            return in_batch.in_batch_loss(x, masks, labels, valid, name=name, margin=0.2, kinds=kinds, **WEIGHTS).total

        compiled = (
            jax.jit(jax.grad(objective, (0, 1))).lower(*(jax.ShapeDtypeStruct(*shape) for shape in shapes)).compile()
        )
        assert 4e6 < compiled.memory_analysis().temp_size_in_bytes < 150e6
