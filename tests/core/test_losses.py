"""The loss alone, in float64: values and gradients against PyTorch, values against naive loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_reference as reference
from oracles import assert_close, csn_loss, distance

from csn_jax.core import losses
from csn_jax.core.masks import rectify

B, C, D = 7, 3, 8
WEIGHTS = {"margin": 0.2, "embedding_weight": 5e-3, "mask_weight": 5e-4}
EXACT = 1e-10


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def ordinary():
    """Random embeddings, masks with some negative beta, partly active hinges, all conditions."""
    rng = np.random.default_rng(0)
    return {
        "anchor": rng.normal(0, 0.2, (B, D)),
        "positive": rng.normal(0, 0.2, (B, D)),
        "negative": rng.normal(0, 0.2, (B, D)),
        "beta": rng.normal(0.9, 0.7, (C, D)),
        "condition": np.arange(B, dtype=np.int32) % C,
    }


def zero_embedding():
    """All embeddings are zero: Frobenius norm 0, all distances at their minimum."""
    return ordinary() | {role: np.zeros((B, D)) for role in ("anchor", "positive", "negative")}


def zero_anchor():
    return ordinary() | {"anchor": np.zeros((B, D))}


def identical_images():
    """Anchor, positive and negative are the same image: zero distance, a tie, hinge equal to the margin."""
    case = ordinary()
    return case | {"positive": case["anchor"], "negative": case["anchor"]}


def zero_mask():
    """A condition whose beta is negative, so that its mask is zero."""
    case = ordinary()
    case["beta"][1] = -np.abs(case["beta"][1])
    return case


def beta_exactly_zero():
    case = ordinary()
    case["beta"][:, ::2] = 0
    return case


def tiny(difference):
    """Positives differ so little from anchors that 1e-6 decides. At -1e-6, x - y + 1e-6 is exactly zero."""

    def case():
        values = ordinary()
        values["anchor"] = np.zeros((B, D))
        values["positive"] = np.full((B, D), -difference)
        values["beta"] = np.ones((C, D))
        values["beta"][:, 0] = 0.5  # never cancels here, so the distance keeps a direction
        return values

    case.__name__ = f"tiny_{difference:g}"
    return case


def tiny_everywhere():
    """x - y + 1e-6 is zero in all dimensions, so the norm is exactly zero."""
    return tiny(-1e-6)() | {"beta": np.ones((C, D))}


CASES = [
    ordinary,
    zero_embedding,
    zero_anchor,
    identical_images,
    zero_mask,
    beta_exactly_zero,
    tiny(-1e-6),
    tiny(1e-6),
    tiny(1e-7),
    tiny(-1e-7),
    tiny_everywhere,
]
cases = pytest.mark.parametrize("case", CASES, ids=lambda c: c.__name__)


def ours(values, valid=None, loss=None, dtype=np.float64):
    """Terms, distances and gradients by name. `loss` replaces csn_loss, to break it."""
    valid = np.ones(B, bool) if valid is None else valid
    inputs = {k: jnp.asarray(v, dtype) for k, v in values.items() if k != "condition"}
    condition, loss = jnp.asarray(values["condition"]), loss or losses.csn_loss

    def objective(x):
        mask = rectify(x["beta"])[condition]
        terms = loss(x["anchor"], x["positive"], x["negative"], mask, jnp.asarray(valid), **WEIGHTS)
        return terms.total, terms

    (_, terms), gradient = jax.value_and_grad(objective, has_aux=True)(inputs)
    return named(terms._asdict(), gradient)


def theirs(values, valid=None):
    """The same from PyTorch, which gets the valid rows. The gradient of padding is zero."""
    valid = np.ones(B, bool) if valid is None else valid
    model = reference.Reference(
        torch.nn.Identity(), values["beta"], True, learning_rate=0, decay=1, steps_per_epoch=1, **WEIGHTS
    )
    roles = [torch.tensor(values[role], requires_grad=True) for role in ("anchor", "positive", "negative")]
    total, terms = model.losses([r[valid] for r in roles], torch.tensor(values["condition"][valid], dtype=torch.int64))
    total.backward()
    gradient = dict(zip(("anchor", "positive", "negative"), (r.grad for r in roles), strict=True))
    gradient["beta"] = model.beta.weight.grad
    terms = {"total": total} | {name: terms[name] for name in ("triplet", "embedding", "mask", "accuracy")}
    return {name: value.detach().numpy() for name, value in named(terms, gradient).items()}


def named(terms, gradient):
    return {f"loss/{k}": v for k, v in terms.items()} | {f"gradient/{k}": v for k, v in gradient.items()}


@cases
def test_loss_equals_torch(x64, case):
    """Values and gradients of every term, also where a norm, a rectifier or the 1e-6 is at its limit."""
    actual = ours(case())
    assert_close(actual, theirs(case()), EXACT)
    assert all(np.isfinite(value).all() for value in actual.values())


@cases
def test_loss_equals_loops(x64, case):
    """Values of every term, row by row."""
    values = case()
    mask = np.maximum(values["beta"], 0)[values["condition"]]
    expected = csn_loss(*(values[k] for k in ("anchor", "positive", "negative")), mask, np.ones(B, bool), **WEIGHTS)
    actual = {k.removeprefix("loss/"): v for k, v in ours(values).items() if k.startswith("loss/")}
    assert_close(actual, expected, EXACT)
    x, y = values["anchor"], values["positive"]
    assert_close({"d": losses.distance(x, y, mask)}, {"d": distance(x, y, mask)}, EXACT)


@cases
def test_gradients_are_finite_in_float32(case):
    """The same cases in the dtype of training."""
    assert all(np.isfinite(value).all() for value in ours(case(), dtype=np.float32).values())


@pytest.mark.parametrize("n_valid", [1, 4])
def test_padding_does_not_count(x64, n_valid):
    """Invalid rows, whatever they hold, add to no term, no gradient and no denominator."""
    values, valid = ordinary(), np.arange(B) < n_valid
    for role in ("anchor", "positive", "negative"):
        values[role][~valid] *= 1e3
    actual = ours(values, valid)
    assert_close(actual, theirs(values, valid), EXACT)
    mask = np.maximum(values["beta"], 0)[values["condition"]]
    expected = csn_loss(*(values[k] for k in ("anchor", "positive", "negative")), mask, valid, **WEIGHTS)
    assert_close({k: actual[f"loss/{k}"] for k in expected}, expected, EXACT)
    assert np.all(actual["gradient/anchor"][~valid] == 0)


def test_zero_distance_and_its_gradient(x64):
    """d = sqrt(D) * 1e-6 with gradient m / sqrt(D) for x and the opposite for y."""
    x, mask = jnp.full((1, D), 0.3), jnp.linspace(0.1, 1, D)[None]
    d, (gx, gy) = jax.value_and_grad(lambda x, y: losses.distance(x, y, mask)[0], (0, 1))(x, x)
    expected = {"d": np.asarray(np.sqrt(D) * 1e-6), "x": mask / np.sqrt(D), "y": -mask / np.sqrt(D)}
    assert_close({"d": d, "x": gx, "y": gy}, expected, EXACT)


def test_norm_at_zero_has_zero_gradient(x64):
    """A plain square root gives NaN."""
    value, gradient = jax.value_and_grad(lambda x: losses.norm(x, axis=(0, 1)))(jnp.zeros((2, 3)))
    assert value == 0 and np.all(gradient == 0)


def test_masks_at_or_below_zero_get_no_gradient(x64):
    """Adam would turn the smallest gradient into a full step."""
    values = beta_exactly_zero()
    gradient = ours(values)["gradient/beta"]
    assert np.all(gradient[values["beta"] <= 0] == 0) and np.all(gradient[values["beta"] > 0] != 0)


def test_a_tie_is_wrong():
    assert ours(identical_images(), dtype=np.float32)["loss/accuracy"] == 0


# Below, csn_loss is broken by one mistake at a time, and the comparison must fail.


def rebuild(distance=losses.distance, hinge=losses.triplet_hinge, frobenius=None, mean_rows=None, leak=()):
    """csn_loss with parts replaced. `leak` names the terms that count padding too."""

    def loss(anchor, positive, negative, mask, valid, *, margin, embedding_weight, mask_weight):
        rows = {
            term: jnp.ones_like(valid, anchor.dtype) if term in leak else valid.astype(anchor.dtype)
            for term in ("triplet", "embedding", "mask")
        }
        n = {term: jnp.sum(value) for term, value in rows.items()}
        d_positive, d_negative = distance(anchor, positive, mask), distance(anchor, negative, mask)
        values = hinge(d_positive, d_negative, margin) * rows["triplet"]
        triplet = mean_rows(values) if mean_rows else jnp.sum(values) / n["triplet"]
        norms = [
            frobenius(e, rows["embedding"])
            if frobenius
            else losses.norm(e * rows["embedding"][:, None], (0, 1)) / jnp.sqrt(n["embedding"])
            for e in (anchor, positive, negative)
        ]
        embedding = sum(norms) / 3
        mask_l1 = jnp.sum(jnp.abs(mask) * rows["mask"][:, None]) / n["mask"]
        right = jnp.sum((d_negative > d_positive) * valid) / jnp.sum(valid)
        return losses.Loss(
            triplet + embedding_weight * embedding + mask_weight * mask_l1, triplet, embedding, mask_l1, right
        )

    return loss


def squared(x):
    return jnp.sum(jnp.square(x), axis=-1)


BREAKS = {
    "epsilon outside the norm": {"distance": lambda x, y, m: jnp.sqrt(squared(x * m - y * m) + 1e-30) + 1e-6},
    "epsilon under the root": {"distance": lambda x, y, m: jnp.sqrt(squared(x * m - y * m) + 1e-6)},
    "epsilon of the other sign": {"distance": lambda x, y, m: jnp.sqrt(squared(x * m - y * m - 1e-6))},
    "epsilon masked": {"distance": lambda x, y, m: jnp.sqrt(squared((x - y + 1e-6) * m))},
    "mask outside the square": {"distance": lambda x, y, m: jnp.sqrt(jnp.sum(m * (x - y + 1e-6) ** 2, axis=-1))},
    "squared distance": {"distance": lambda x, y, m: squared(x * m - y * m + 1e-6)},
    "distance over the batch": {
        "distance": lambda x, y, m: jnp.resize(jnp.sqrt(jnp.sum((x * m - y * m + 1e-6) ** 2, axis=0)), len(x))
    },
    "swapped roles": {"hinge": lambda p, n, h: jax.nn.relu(n - p + h)},
    "margin of the other sign": {"hinge": lambda p, n, h: jax.nn.relu(p - n - h)},
    "no hinge": {"hinge": lambda p, n, h: p - n + h},
    "mean over active triplets": {
        "mean_rows": lambda values: jnp.sum(values) / jnp.sum((values > 0).astype(values.dtype))
    },
    "sum over triplets": {"mean_rows": jnp.sum},
    "norm per example": {
        "frobenius": lambda e, rows: jnp.sum(losses.norm(e, -1) * rows) / jnp.sum(rows),
    },
    "norm per dimension": {"frobenius": lambda e, rows: jnp.mean(losses.norm(e * rows[:, None], 0))},
    "squared norm": {"frobenius": lambda e, rows: jnp.sum(squared(e) * rows) / jnp.sum(rows)},
    "norm not divided": {"frobenius": lambda e, rows: losses.norm(e * rows[:, None], (0, 1))},
    "padding in L_T": {"leak": ("triplet",)},
    "padding in L_W": {"leak": ("embedding",)},
    "padding in L_M": {"leak": ("mask",)},
}


def test_the_rebuilt_loss_is_right_before_it_is_broken(x64):
    """So each failure below comes from its one mistake."""
    valid = np.arange(B) < 5
    assert_close(ours(ordinary(), valid, rebuild()), theirs(ordinary(), valid), EXACT)


@pytest.mark.parametrize("mistake", BREAKS)
def test_the_comparison_detects(x64, mistake):
    """On ordinary values with padding."""
    valid = np.arange(B) < 5
    with pytest.raises(AssertionError, match="loss/total is off"):
        assert_close(ours(ordinary(), valid, rebuild(**BREAKS[mistake])), theirs(ordinary(), valid), EXACT)


@pytest.mark.parametrize("case", [tiny(-1e-6), tiny(1e-7)], ids=lambda c: c.__name__)
@pytest.mark.parametrize("mistake", [name for name in BREAKS if name.startswith("epsilon")])
def test_tiny_differences_detect_a_misplaced_epsilon(x64, case, mistake):
    """At tiny differences, a misplaced 1e-6 changes the first digits of the distance."""
    values = case()
    mask = np.maximum(values["beta"], 0)[values["condition"]]
    expected = {"d": distance(values["anchor"], values["positive"], mask)}
    actual = BREAKS[mistake]["distance"](*(jnp.asarray(v) for v in (values["anchor"], values["positive"], mask)))
    assert_close({"d": losses.distance(values["anchor"], values["positive"], mask)}, expected, EXACT)
    with pytest.raises(AssertionError):
        assert_close({"d": actual}, expected, 1e-2)


def test_the_comparison_detects_a_leaky_rectifier(x64, monkeypatch):
    """jnp.maximum gives beta half a gradient at exactly 0."""
    monkeypatch.setitem(globals(), "rectify", lambda beta: jnp.maximum(beta, 0))
    with pytest.raises(AssertionError, match="^gradient/beta is off"):
        assert_close(ours(beta_exactly_zero()), theirs(beta_exactly_zero()), EXACT)


def test_the_comparison_detects_a_plain_norm(x64, monkeypatch):
    """The gradient of a plain square root at zero is NaN, which fails every comparison."""
    monkeypatch.setattr(losses, "norm", lambda x, axis: jnp.sqrt(jnp.sum(jnp.square(x), axis=axis)))
    with pytest.raises(AssertionError, match="gradient/anchor is off by nan"):
        assert_close(ours(zero_embedding()), theirs(zero_embedding()), EXACT)
