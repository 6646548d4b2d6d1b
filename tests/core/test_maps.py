"""Maps: loss and training step against naive PyTorch in float64, views and axes against loops in NumPy."""

import jax
import numpy as np
import pytest
import torch
from oracles import assert_close

from csn_jax.config import BackboneConfig, Config, LossConfig, MapsConfig
from csn_jax.core import maps
from csn_jax.core.losses import csn_loss, maps_loss
from csn_jax.core.maps import FEW, PULLS, Axes, Maps, initial_maps, plan_maps, principal_axes, stacked, with_raw
from csn_jax.core.steps import Batch, initial_state, make_train_step
from csn_jax.model.network import build_network
from csn_jax.runtime.compiler import jit

B, P, C, R, D = 9, 2, 3, 4, 6
EXACT = 1e-10
PULL = (0.05, 0.0)
ROLES = ("anchor", "positive", "negative")
WEIGHTS = {"margin": 0.5, "embedding_weight": 5e-3}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def case(seed: int = 0) -> dict[str, np.ndarray]:
    """Roles [B, D], maps [P, C, r, D] and conditions; the last two rows are padding, and condition 2 is only there."""
    rng = np.random.default_rng(seed)
    roles = {role: rng.normal(0, 0.4, (B, D)) for role in ROLES}
    matrix = np.eye(R, D) + rng.normal(0, 0.3, (P, C, R, D))
    valid = np.arange(B) < B - 2
    condition = np.where(valid, np.arange(B) % 2, 2).astype(np.int32)
    return roles | {"maps": matrix, "condition": condition, "valid": valid}


def naive_loss(anchor, positive, negative, maps, condition, valid, *, margin, embedding_weight, pulls):
    """The terms by name in PyTorch, a triplet and a set of maps at a time. Roles, maps: tensors."""
    rows = [b for b in range(len(valid)) if valid[b]]
    hinges, pulled, right = [], [], 0
    for matrix, weight in zip(maps, pulls, strict=True):
        for b in rows:
            own = matrix[int(condition[b])]
            d_p, d_n = ((own @ (anchor[b] - other) + 1e-6).norm() for other in (positive[b], negative[b]))
            hinges.append(torch.clamp(d_p - d_n + margin, min=0))
            right += int(d_n > d_p)
        pulled.append(weight * sum(((own - torch.eye(*own.shape)) ** 2).sum() for own in matrix))
    triplet = sum(hinges) / len(rows)  # over all sets
    norms = sum((role[rows] ** 2).sum().sqrt() for role in (anchor, positive, negative))
    embedding = norms / 3 / len(rows) ** 0.5
    total = triplet + sum(pulled) + embedding_weight * embedding
    means = {"triplet": triplet / len(maps), "mask": sum(pulled) / len(maps)}
    return {"total": total, **means, "embedding": embedding, "accuracy": torch.tensor(right / len(hinges))}


def as_arrays(terms):
    return {name: np.asarray(value.detach()) for name, value in terms.items()}


def test_the_loss_and_its_gradients_equal_a_naive_loop(x64):
    """Values of all terms, and gradients by the roles and by both sets of maps. Padding has no gradient."""
    torch.set_default_dtype(torch.float64)
    try:
        given = case()
        leaves = {name: torch.tensor(given[name], requires_grad=True) for name in (*ROLES, "maps")}
        theirs = naive_loss(**(given | leaves), **WEIGHTS, pulls=PULL)
        theirs["total"].backward()
    finally:
        torch.set_default_dtype(torch.float32)

    def ours(values):
        loss = maps_loss(**(given | values), **WEIGHTS, pulls=PULL)
        return loss.total, loss

    gradient, loss = jax.grad(ours, has_aux=True)({name: given[name] for name in leaves})
    assert 0 < float(loss.accuracy) < 1 and 0 < float(loss.triplet)
    found = {name: np.asarray(value) for name, value in loss._asdict().items()}
    assert_close(found, as_arrays(theirs), EXACT)
    expected = {name: leaf.grad.numpy() for name, leaf in leaves.items()}
    assert_close({name: np.asarray(value) for name, value in gradient.items()}, expected, EXACT)
    assert not np.any(gradient["anchor"][~given["valid"]]) and np.any(gradient["maps"][:, :2])
    assert not np.any(gradient["maps"][1, 2]) and np.any(gradient["maps"][0, 2])  # a pull alone moves what is absent


def test_a_mask_is_the_diagonal_case(x64):
    """The same distances, hence the same triplet term as csn_loss, with square maps that are masks."""
    given, rng = case(), np.random.default_rng(1)
    masks = rng.uniform(0, 1, (C, D))
    roles = {role: given[role] for role in ROLES}
    diagonal = np.stack([np.diag(mask) for mask in masks])[None]
    shared = {"valid": given["valid"], **WEIGHTS}
    ours = maps_loss(**roles, maps=diagonal, condition=given["condition"], pulls=(0.0,), **shared)
    theirs = csn_loss(**roles, mask=masks[given["condition"]], mask_weight=0.0, **shared)
    for term in ("triplet", "embedding", "accuracy"):
        np.testing.assert_allclose(getattr(ours, term), getattr(theirs, term), rtol=1e-12)


def test_gradients_are_finite_where_distances_are_zero(x64):
    """Identical items, and maps of zeros."""
    given = case()
    given |= {"positive": given["anchor"], "negative": given["anchor"], "maps": given["maps"] * [[[[1]]], [[[0]]]]}

    def total(matrix):
        return maps_loss(**(given | {"maps": matrix}), **WEIGHTS, pulls=PULL).total

    assert np.isfinite(jax.grad(total)(given["maps"])).all() and np.isfinite(total(given["maps"]))


def test_training_steps_equal_pytorch(x64):
    """Four steps of the real step, with Adam, its schedule, a short batch, and a condition that is absent in half of
    them. The items' positions are in the batch."""
    config = Config(
        variant="maps",
        batch_size=B,
        learning_rate=1e-2,
        schedule="exponential",
        schedule_decay=0.9,
        backbone=BackboneConfig("projection"),
        loss=LossConfig(margin=WEIGHTS["margin"], embedding_weight=WEIGHTS["embedding_weight"]),
        maps=MapsConfig(pulls=PULL),
    )
    network = build_network(config, (D,), C, 2 * B, maps.MapsPlan(D, R, PULL))  # two batches in an epoch
    settings = {"train_masks": True, "seed": 0, "pulls": PULL}
    step = jit(make_train_step(network.backbone, network.preprocess, network.optimizer, config.loss, **settings))
    state = initial_state({}, network.state.statistics, np.float64(network.masks.beta), network.optimizer)
    rng = np.random.default_rng(3)
    items = rng.normal(0, 0.5, (20, D))
    parameter = torch.tensor(np.array(state.params["beta"]), requires_grad=True)
    np.testing.assert_array_equal(parameter.detach()[1, 2], np.eye(R, D))
    adam = torch.optim.Adam([parameter], lr=1.0, betas=(0.9, 0.999), eps=1e-8)
    torch.set_default_dtype(torch.float64)
    try:
        for i in range(4):
            rows = rng.integers(0, 20, (3, B))
            valid = np.arange(B) < (B if i % 2 == 0 else B - 3)
            condition = (np.arange(B) % (C if i % 2 == 0 else C - 1)).astype(np.int32)
            state, metrics = step(state, Batch(*np.int32(rows), condition, valid), items)
            adam.param_groups[0]["lr"] = 1e-2 * 0.9 ** (1 + i // 2)
            adam.zero_grad()
            terms = naive_loss(*torch.tensor(items[rows]), parameter, condition, valid, **WEIGHTS, pulls=PULL)
            terms["total"].backward()
            adam.step()
            ours = {name: np.asarray(metrics[name]) for name in ("loss", "triplet", "embedding", "mask", "accuracy")}
            theirs = as_arrays(terms)
            assert_close(ours, {"loss": theirs.pop("total"), **theirs}, EXACT)
            after = {"beta": np.asarray(state.params["beta"])}
            assert_close(after, {"beta": parameter.detach().numpy()}, EXACT)
    finally:
        torch.set_default_dtype(torch.float32)
    assert np.abs(after["beta"] - network.masks.beta).max() > 0.01 and int(state.step) == 4
    for name, value in network.state.statistics.items():
        np.testing.assert_array_equal(state.statistics[name], value)


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("given", [np.float16, np.float32])
def test_views_equal_a_naive_loop(unit, given, monkeypatch):
    """In pieces of a few vectors; of some columns; a vector of zeros has views of zeros."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 2, (11, D)).astype(given)
    vectors[4] = 0
    applied = Maps(rng.normal(size=(7, D)).astype(np.float32), unit)
    expected = np.zeros((11, 7))
    for n, x in enumerate(vectors.astype(np.float64)):
        length = np.sqrt((x**2).sum())
        for v, row in enumerate(applied.matrix.astype(np.float64)):
            expected[n, v] = sum(row * x) / (length if unit and length else 1)
    monkeypatch.setattr(maps, "PIECE", 4 * D)
    assert applied.views(vectors).dtype == np.float32
    np.testing.assert_allclose(applied.views(vectors), expected, atol=2e-6)
    np.testing.assert_allclose(applied.views(vectors, dtype=np.float64), expected, rtol=1e-12, atol=1e-14)
    rows = np.array([5, 0])
    np.testing.assert_allclose(applied.views(vectors, rows), expected[:, rows], atol=2e-6)
    assert applied.views(vectors[:0]).shape == (0, 7)


@pytest.mark.parametrize("n", [40, 5])
@pytest.mark.parametrize("unit", [True, False])
def test_principal_axes_are_those_of_the_covariance(n, unit):
    """Against an SVD of the centred members: more items than numbers, and fewer. The mean squared norm of a rotated
    member is 1, and items that are no members count for nothing."""
    rng, k = np.random.default_rng(n), 3
    vectors = (rng.normal(size=(50, D)) * [5, 3, 2, 1, 0.5, 0.2] + 4).astype(np.float32)
    members = rng.permutation(50)[:n]
    found = principal_axes(vectors, members, k, unit)
    x = vectors[members].astype(np.float64)
    if unit:
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    _, _, axes = np.linalg.svd(x - x.mean(axis=0))
    np.testing.assert_allclose(found.mean, x.mean(axis=0), rtol=1e-5)
    lengths = np.linalg.norm(found.rows, axis=1)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-4)
    cosines = (found.rows / lengths[:, None]) @ axes[:k].T
    np.testing.assert_allclose(np.abs(cosines), np.eye(k), atol=2e-3)
    places = maps.rotated(found, vectors[members], unit)
    np.testing.assert_allclose(places, (x - x.mean(axis=0)) @ found.rows.T.astype(np.float64), atol=1e-4)
    np.testing.assert_allclose((places.astype(np.float64) ** 2).sum(axis=1).mean(), 1, rtol=1e-4)
    again = principal_axes(-vectors, members, k, unit)  # the sign of an axis follows from the axis
    np.testing.assert_allclose(again.rows, found.rows, rtol=1e-4, atol=1e-6)
    half = principal_axes(vectors.astype(np.float16), members, k, unit)
    assert isinstance(half, Axes) and half.rows.dtype == half.mean.dtype == np.float32


def test_step_0_is_the_raw_geometry():
    """With as many axes as numbers, and as many rows of a map as axes."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, D)).astype(np.float32)
    axes = principal_axes(vectors, np.arange(30), D, True)
    first = initial_maps(plan_maps(D, 30, 4), C, D)
    assert first.shape == (3, C, D, D) and first.dtype == np.float32
    applied, masks = stacked([own @ axes.rows for own in first[0]], True)
    views = applied.views(vectors) * masks[1]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    ours, raw = (np.linalg.norm(x[:1] - x[1:], axis=1) for x in (views, unit))
    np.testing.assert_allclose(ours / raw, (ours / raw).mean(), rtol=1e-4)


def test_a_plan_follows_the_numbers():
    assert plan_maps(1280, 6_000, 30) == (256, 32, (0.0,))
    assert plan_maps(1280, FEW - 1, 300) == (256, 64, PULLS)
    assert plan_maps(1280, 6_000, 2_000) == (256, 128, (0.0,))
    assert plan_maps(1280, 85, 3) == (84, 32, PULLS)
    assert plan_maps(12, 85, 3) == (12, 12, PULLS)
    assert plan_maps(1280, 6_000, 30, axes=100, rank=200, pulls=(0.1,)) == (100, 100, (0.1,))
    assert plan_maps(8, 1, 1) == (1, 1, PULLS)


def test_stacked_blocks_have_their_own_widths():
    """Rows of zeros, with which a checkpoint fills up, are left out."""
    rng = np.random.default_rng(0)
    own = [rng.normal(size=(r, D)).astype(np.float32) for r in (2, 4, 1)]
    filled = [np.concatenate([own[0], np.zeros((2, D), np.float32)]), own[1], own[2]]
    applied, masks = stacked(filled, True)
    assert applied.unit and np.array_equal(applied.matrix, np.concatenate(own))
    expected = [[1, 1, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 1]]
    assert np.array_equal(masks, expected) and masks.dtype == np.float32


def test_raw_conditions_share_the_vector_itself():
    """Distances of the others stay bit for bit; those of raw ones are scaled distances of (unit) vectors."""
    rng = np.random.default_rng(0)
    own = [rng.normal(size=(r, D)).astype(np.float32) for r in (2, 3, 2)]
    vectors = rng.normal(size=(5, D)).astype(np.float32)
    applied, masks = stacked(own, True)
    raw = np.array([True, False, True])
    wider, blocks = with_raw(applied, masks, raw, 1.5)
    assert wider.matrix.shape == (3 + D, D) and blocks.shape == (3, 3 + D) and wider.unit
    assert blocks.dtype == wider.matrix.dtype == np.float32
    before, after = applied.views(vectors)[:, masks[1] > 0], wider.views(vectors)[:, blocks[1] > 0]
    np.testing.assert_allclose(after, before, rtol=1e-6)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row in (0, 2):
        ours = np.linalg.norm((wider.views(vectors) * blocks[row])[0] - (wider.views(vectors) * blocks[row])[1])
        np.testing.assert_allclose(ours, 1.5 * np.linalg.norm(unit[0] - unit[1]), rtol=1e-5)
    everything, blocks = with_raw(applied, masks, np.ones(3, bool), 1.0)
    assert np.array_equal(everything.matrix, np.eye(D)) and np.array_equal(blocks, np.ones((3, D)))
