"""In-batch losses against loops over anchors, positives and negatives, with PyTorch's gradients of the loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from oracles import assert_close

from csn_jax.core import in_batch
from csn_jax.core.masks import rectify
from csn_jax.runtime.sharding import make_shardings

B, C, D = 13, 3, 6
WEIGHTS = {"embedding_weight": 5e-3, "mask_weight": 5e-4}
EXACT = 1e-12
NAMES = ("batch_all", "batch_hard")
names = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def ordinary(seed=0):
    """Random embeddings off the origin, some negative beta, a fifth of the labels missing, some values seen once."""
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.integers(0, n, B) for n in (2, 3, 5)], axis=1).astype(np.int32)
    return {
        "embeddings": rng.normal(0.3, 0.2, (B, D)),
        "beta": rng.normal(0.9, 0.7, (C, D)),
        "labels": np.where(rng.uniform(size=labels.shape) < 0.2, np.int32(-1), labels),
        "valid": np.ones(B, bool),
        "margin": 0.2,
    }


def padded():
    """Four rows of padding with labels and large embeddings that must not count."""
    case = ordinary(1)
    case["valid"] = np.arange(B) < B - 4
    case["embeddings"][~case["valid"]] *= 100
    return case


def scattered():
    """Padding in the middle."""
    case = ordinary(2)
    return case | {"valid": np.arange(B) % 3 != 1}


def all_active():
    return ordinary(3) | {"margin": 10.0}


def few_active():
    return ordinary(4) | {"margin": 1e-3}


def one_value():
    """A condition with a single value, and one without two equal values."""
    case = ordinary(5)
    case["labels"][:, 0] = 7
    case["labels"][:, 1] = np.arange(B)
    return case


def nothing_known():
    """A condition and an item without any label."""
    case = ordinary(6)
    case["labels"][:, 2] = -1
    case["labels"][-1] = -1
    return case


def no_triplet():
    """Only the norms contribute to the losses."""
    return ordinary() | {"labels": np.full((B, C), -1, np.int32)}


def all_right():
    """Every hinge is zero: values lie far apart, and equal ones together."""
    case = ordinary()
    case["labels"] = np.repeat(np.arange(B, dtype=np.int32)[:, None] % 2, C, axis=1)
    case["embeddings"] = np.random.default_rng(0).normal(0, 1e-3, (B, D)) + 5 * case["labels"][:, :1]
    return case | {"beta": np.ones((C, D))}


CASES = [ordinary, padded, scattered, all_active, few_active, one_value, nothing_known, no_triplet, all_right]
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)


def loss_and_gradient(embeddings, beta, labels, valid, margin, name):
    def objective(embeddings, beta):
        terms = in_batch.in_batch_loss(embeddings, rectify(beta), labels, valid, name=name, margin=margin, **WEIGHTS)
        return terms.total, terms

    return jax.value_and_grad(objective, (0, 1), has_aux=True)(embeddings, beta)


compiled = jax.jit(loss_and_gradient, static_argnames="name")


def ours(name, values, dtype=np.float64):
    """Terms and gradients by name."""
    inputs = [values[key].astype(dtype) for key in ("embeddings", "beta")]
    (_, terms), gradient = compiled(*inputs, values["labels"], values["valid"], dtype(values["margin"]), name)
    return named(terms._asdict(), gradient)


def theirs(name, values):
    """The same, triplet by triplet."""
    embeddings = torch.tensor(values["embeddings"], requires_grad=True)
    beta = torch.tensor(values["beta"], requires_grad=True)
    masks, labels, margin = torch.relu(beta), values["labels"], values["margin"]
    items = [i for i in range(B) if values["valid"][i]]
    hinges, l1 = [], []
    for c in range(C):
        for a in items:
            if labels[a, c] < 0:
                continue
            l1.append(masks[c].sum())

            def distance(j, a=a, c=c):
                return torch.linalg.vector_norm(embeddings[a] * masks[c] - embeddings[j] * masks[c] + 1e-6)

            positives = [distance(p) for p in items if p != a and labels[p, c] == labels[a, c]]
            negatives = [distance(n) for n in items if labels[n, c] >= 0 and labels[n, c] != labels[a, c]]
            if name == "batch_hard" and positives and negatives:
                hinges.append(torch.relu(max(positives) - min(negatives) + margin))
            elif name == "batch_all":
                hinges += [torch.relu(p - n + margin) for p in positives for n in negatives]
    active = sum(bool(hinge > 0) for hinge in hinges)
    zero = torch.zeros((), dtype=torch.float64)
    mean = sum(hinges, zero) / max(1, active if name == "batch_all" else len(hinges))
    frobenius = torch.sqrt(sum((embeddings[i] ** 2).sum() for i in items)) / len(items) ** 0.5
    mask_l1 = sum(l1, zero) / max(1, len(l1))
    total = mean + WEIGHTS["embedding_weight"] * frobenius + WEIGHTS["mask_weight"] * mask_l1
    gradient = torch.autograd.grad(total, (embeddings, beta), materialize_grads=True)
    share = torch.tensor(active / max(1, len(hinges)), dtype=torch.float64)
    terms = {"total": total, "triplet": mean, "embedding": frobenius, "mask": mask_l1, "active": share}
    return {key: value.detach().numpy() for key, value in named(terms, gradient).items()}


def named(terms, gradient):
    return {f"loss/{key}": value for key, value in terms.items()} | dict(
        zip(("gradient/embeddings", "gradient/beta"), gradient, strict=True)
    )


@names
@cases
def test_equals_a_triple_loop(x64, name, case):
    """All terms, and gradients with respect to embeddings and masks, with missing labels."""
    assert_close(ours(name, case()), theirs(name, case()), EXACT)


def test_the_cases_are_as_described():
    """No comparison is of zeros with zeros by accident."""
    share = {case.__name__: float(theirs("batch_all", case())["loss/active"]) for case in CASES}
    assert share["no_triplet"] == share["all_right"] == 0 and share["all_active"] == 1
    assert 0 < share["few_active"] < share["ordinary"] < 1
    assert all(0 < share[name] < 1 for name in ("padded", "scattered", "one_value", "nothing_known"))


@names
@pytest.mark.parametrize("seed", range(5))
def test_float32_agrees_within_its_noise(name, seed):
    """In the dtype of training, relative to the largest value. float32 resolves 1.2e-7."""
    expected = {key: value.astype(np.float32) for key, value in theirs(name, ordinary(seed)).items()}
    assert_close(ours(name, ordinary(seed), np.float32), expected, 3e-6)


@names
def test_order_and_codes_do_not_matter(x64, name):
    """Items in another order and values with other codes give the same result."""
    case, rng = ordinary(), np.random.default_rng(0)
    expected = ours(name, case)
    order = rng.permutation(B)
    codes = np.append(rng.permutation(100)[:9], -1).astype(np.int32)  # the last is for -1
    moved = case | {key: case[key][order] for key in ("embeddings", "valid")} | {"labels": codes[case["labels"][order]]}
    expected["gradient/embeddings"] = expected["gradient/embeddings"][order]
    assert_close(ours(name, moved), expected, EXACT)


# Zero distances.


@names
def test_gradients_are_finite_at_zero_distance(name):
    """Equal items, zero embeddings, a zero mask, and all of these at once."""
    twins = ordinary()
    twins["embeddings"][1::2] = twins["embeddings"][:-1:2]
    zeros = ordinary() | {"embeddings": np.zeros((B, D))}
    no_mask = ordinary()
    no_mask["beta"][1] = -1
    for case in (twins, zeros, no_mask, zeros | {"beta": -np.ones((C, D))}):
        actual = ours(name, case, np.float32)
        assert all(np.isfinite(value).all() for value in actual.values())


@names
def test_equal_items_have_the_smallest_distance(x64, name):
    """d = sqrt(D) * 1e-6. Squaring loses no more there than the root of the float's resolution."""
    case = ordinary()
    case["embeddings"][1::2] = case["embeddings"][:-1:2]
    actual, expected = ours(name, case), theirs(name, case)
    assert_close({"total": actual["loss/total"]}, {"total": expected["loss/total"]}, 1e-9)


def test_distances_equal_those_of_the_triplet_loss(x64):
    """core.losses.distance, whose 1e-6 makes d(x, y) and d(y, x) differ."""
    from csn_jax.core.losses import distance

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, D)), rng.normal(size=(7, D))
    x[0], y[0] = y[1] + 1e-4, 0
    expected = distance(x[:, None], y[None], np.ones((1, 1, D)))
    assert_close({"d": in_batch.pairwise_distance(x, y)}, {"d": expected}, EXACT)
    assert np.abs(expected[1:5, 0] - distance(y[:1], x[1:], np.ones((1, D)))).max() > 1e-7


@names
def test_a_hinge_of_exactly_zero_is_not_active(name):
    """Margin 0. Item 0 is as far from its positive as from the negative, item 1 is not, item 2 has no positive."""
    x, labels = np.array([[0.0], [3.0], [3.0]], np.float32), np.array([[0], [0], [1]], np.int32)
    loss, active = getattr(in_batch, name)(x, np.ones((1, 1), np.float32), labels, np.ones(3, bool), 0.0)
    assert active == 0.5
    # The mean over active triplets, or over anchors.
    np.testing.assert_allclose(loss, 3 if name == "batch_all" else 1.5, rtol=1e-5)


# Each mistake below must fail the comparison.


def broken_pairs(change):
    def pairs(code, other, item):
        known, alike = (code >= 0)[:, None] & (other >= 0)[None], code[:, None] == other[None]
        itself = jnp.arange(len(code))[:, None] == item[None]
        return change(known, alike, itself)

    return "_pairs", pairs


def broken_counts(change):
    def count(d, positive, negative, code, column_code, margin):
        hits = (d[:, :, None] + margin > d[:, None, :]) & positive[:, :, None] & negative[:, None, :]  # [a, p, n]
        return hits.sum((1, 2)).astype(d.dtype), change(hits.astype(d.dtype))

    return "_count_active", count


def broken_distance(change):
    return lambda x, y: jnp.sqrt(change(x[:, None] - y[None] + 1e-9))


MISTAKES = {
    "an item is its own positive": broken_pairs(lambda known, alike, itself: (known & alike, known & ~alike)),
    "unknown is a value": broken_pairs(lambda known, alike, itself: (alike & ~itself, ~alike)),
    "unknown is unlike all": broken_pairs(lambda known, alike, itself: (known & alike & ~itself, ~alike)),
    "roles swapped": broken_pairs(lambda known, alike, itself: (known & ~alike, known & alike & ~itself)),
    "positives counted only": broken_counts(lambda hits: hits.sum(2)),
    "counts of the other role": broken_counts(lambda hits: hits.sum(1) - hits.sum(2)),
    "counts of the other axis": broken_counts(lambda hits: (hits.sum(2) - hits.sum(1)).T),
    "epsilon forgotten": ("pairwise_distance", broken_distance(lambda x: jnp.sum(jnp.square(x - 1e-9), -1) + 1e-30)),
    "epsilon of the other sign": ("EPSILON", -1e-6),
    "squared distance": ("pairwise_distance", lambda x, y: jnp.sum(jnp.square(x[:, None] - y[None] + 1e-6), -1)),
    "sums, not means": ("_at_least_one", jnp.ones_like),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_comparison_detects(x64, monkeypatch, mistake):
    target, broken = MISTAKES[mistake]
    monkeypatch.setattr(in_batch, target, broken)
    for name in NAMES[:1] if target == "_count_active" else NAMES:
        with jax.disable_jit(), pytest.raises(AssertionError, match="is off"):
            assert_close(ours(name, padded()), theirs(name, padded()), EXACT)


def test_the_count_by_triplets_is_right_before_it_is_broken(x64, monkeypatch):
    monkeypatch.setattr(in_batch, *broken_counts(lambda hits: hits.sum(2) - hits.sum(1)))
    assert_close(ours("batch_all", padded()), theirs("batch_all", padded()), EXACT)


# Size and devices.


def at_size(name, batch, conditions, dimensions=64):
    """The compiled loss with its gradients, at the size of a real training."""

    def objective(embeddings, masks, labels, valid):
        loss = lambda x, m: in_batch.in_batch_loss(x, m, labels, valid, name=name, margin=0.2, **WEIGHTS).total  # noqa: E731
        return jax.value_and_grad(loss, (0, 1))(embeddings, masks)

    return (
        jax.jit(objective)
        .lower(
            jax.ShapeDtypeStruct((batch, dimensions), jnp.float32),
            jax.ShapeDtypeStruct((conditions, dimensions), jnp.float32),
            jax.ShapeDtypeStruct((batch, conditions), jnp.int32),
            jax.ShapeDtypeStruct((batch,), jnp.bool_),
        )
        .compile()
    )


@names
@pytest.mark.slow
def test_memory_grows_with_the_square_of_the_batch(name):
    """B = 1,024, C = 4: less than 150 MB for loss and gradients. B^3 floats would take 4.3 GB per condition. Twice the
    batch takes at most four times as much."""

    def megabytes(batch, conditions):
        memory = at_size(name, batch, conditions).memory_analysis()
        return (memory.temp_size_in_bytes + memory.output_size_in_bytes + memory.argument_size_in_bytes) / 1e6

    whole = megabytes(1024, 4)
    assert 4 < whole < 150
    assert whole < 4.2 * megabytes(512, 4)


@pytest.mark.slow
def test_more_active_triplets_than_an_int32_can_count():
    """2,200 equal items of two values: 2.7e9 triplets, and each hinge equals the margin."""
    n = 2200
    labels, masks = jnp.arange(n, dtype=jnp.int32)[:, None] % 2, jnp.ones((1, 4))
    loss, active = jax.jit(in_batch.batch_all)(jnp.zeros((n, 4)), masks, labels, jnp.ones(n, bool), 0.2)
    np.testing.assert_allclose([loss, active], [0.2, 1], rtol=1e-5)


@names
def test_one_device_equals_four(x64, name):
    """With rows over four devices, every anchor is compared with all items of the global batch."""
    case, shardings = scattered(), make_shardings()
    rows = 16  # 13 padded to a multiple of 4
    valid = np.zeros(rows, bool)
    valid[:B] = case["valid"]
    x = np.concatenate([case["embeddings"], np.repeat(case["embeddings"][:1], rows - B, axis=0)])
    labels = np.concatenate([case["labels"], np.repeat(case["labels"][:1], rows - B, axis=0)])

    def objective(x, masks, labels, valid):
        return in_batch.in_batch_loss(x, masks, labels, valid, name=name, margin=0.2, **WEIGHTS).total

    step = jax.jit(jax.value_and_grad(objective, (0, 1)))
    masks = np.maximum(case["beta"], 0)
    x, labels, valid = jax.device_put((x, labels, valid), shardings.batch)
    assert len(x.sharding.device_set) == 4
    value, (of_x, of_masks) = step(x, jax.device_put(masks, shardings.state), labels, valid)
    expected = theirs(name, case)
    assert_close({"loss": value}, {"loss": expected["loss/total"]}, EXACT)
    assert_close({"x": of_x[:B]}, {"x": expected["gradient/embeddings"]}, EXACT)
    assert np.all(np.asarray(of_x)[B:] == 0)
    assert_close({"masks": np.where(case["beta"] > 0, of_masks, 0)}, {"masks": expected["gradient/beta"]}, EXACT)
