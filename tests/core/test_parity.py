"""Our training step against PyTorch: losses, every gradient, four optimizer steps, running statistics, embeddings.

The step under test is the real one, jitted. Its gradients are computed from Adam's first moment, m' = 0.9 m + 0.1 g,
so that only the training step is compiled. The batches include a short one (rows of garbage as padding on our side,
fewer rows in PyTorch), partly active hinges, and a condition that is missing in every second batch.
"""

from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch_reference as reference
from oracles import assert_close, flat
from torch import nn

from csn_jax import backbones
from csn_jax.config import BackboneConfig, Config, LossConfig
from csn_jax.core.losses import distance
from csn_jax.core.masks import initial_masks, rectify
from csn_jax.core.optim import make_optimizer
from csn_jax.core.preprocess import make_preprocess
from csn_jax.core.steps import Batch, initial_state, make_embed_step, make_train_step
from csn_jax.runtime.compiler import jit

B = 6  # triplets per batch; ten triplets per epoch make batches of 6, 4, 6, 4 in epochs 1, 1, 2, 2
VALID = (6, 4, 6, 4)
STEPS_PER_EPOCH = 2
NETWORKS = {"resnet18_csn": reference.ResNet18CSN, "small": reference.Small}
TORCH = {np.float32: torch.float32, np.float64: torch.float64}
EXACT = 1e-10  # of the largest magnitude in an array, in float64


class Case(NamedTuple):
    """The settings of a training run on both sides."""

    backbone: str
    variant: str
    n_conditions: int = 4
    size: int = 16
    dtype: Any = np.float64
    shared: bool = False

    def __str__(self):
        return f"{self.backbone}-{self.variant}-{self.n_conditions}" + "-shared" * self.shared

    @property
    def trains_masks(self):
        return self.variant in ("learned", "learned_disjoint")


@contextmanager
def precise(dtype):
    """Products at full precision; in float64 if that is the dtype."""
    with jax.enable_x64(dtype == np.float64), jax.default_matmul_precision("highest"):
        yield


def make_config(case):
    return Config(
        backbone=BackboneConfig(name=case.backbone),
        batch_size=B,
        learning_rate=1e-3,
        schedule="exponential",
        schedule_decay=0.985,
        # The small network's distances are a fifth of the reference's: a margin of 0.2 would leave no hinge inactive.
        loss=LossConfig(margin=0.04 if case.backbone == "small" else 0.2),
    )


def make_batches(case):
    """Four batches of normalised images: roles [B, H, W, 3], condition [B], valid [B].

    The images of a triplet share a coarse pattern. Whether the positive or the negative is nearer to the anchor, and by
    how much, differs between rows.
    """
    rng = np.random.default_rng(7)
    batches = []
    for step, n in enumerate(VALID):
        coarse = rng.normal(0, 1, (3, B, 4, 4, 3)).repeat(case.size // 4, axis=2).repeat(case.size // 4, axis=3)
        fine = rng.normal(0, 0.5, (3, B, case.size, case.size, 3))
        share = np.where(np.arange(B) % 2, 0.1, 0.9)[:, None, None, None]  # of the anchor's pattern in the positive
        anchor = coarse[0] + fine[0]
        positive = share * coarse[0] + (1 - share) * coarse[1] + fine[1]
        negative = (1 - share) * coarse[0] + share * coarse[2] + fine[2]
        present = case.n_conditions if step % 2 == 0 else case.n_conditions - 1
        condition = np.arange(B) % present
        valid = np.arange(B) < n
        condition[~valid] = case.n_conditions - 1  # if padding leaked, the missing condition would get a gradient
        roles = [np.asarray(x, case.dtype) for x in (anchor, positive, negative)]
        batches.append(Batch(*roles, condition=condition.astype(np.int32), valid=valid))
    return batches


def initial(case):
    """(params, statistics, beta) before training, from our own code."""
    params, statistics = backbones.build(BackboneConfig(name=case.backbone)).init(3, (case.size, case.size, 3))
    beta = initial_masks(case.variant, case.n_conditions, 64, seed=5).beta
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, case.dtype), (params, statistics, beta))


@lru_cache
def compiled(backbone, trains_masks, shared):
    """(optimizer, train step, embed step). Variants of equal shapes share the programs."""
    config, functions = make_config(Case(backbone, "")), backbones.build(BackboneConfig(name=backbone))
    optimizer, preprocess = make_optimizer(config, STEPS_PER_EPOCH), make_preprocess(config.preprocess)
    options = {"train_masks": trains_masks, "seed": 0} | ({"shared_statistics": True} if shared else {})
    train_step = make_train_step(functions, preprocess, optimizer, config.loss, **options)
    return optimizer, jit(train_step, donate_argnums=0), jit(make_embed_step(functions, preprocess))


def train_ours(case, batches):
    """(records, embeddings of the last batch before and after). A record holds the arrays of one step by name."""
    with precise(case.dtype):
        optimizer, train_step, embed_step = compiled(case.backbone, case.trains_masks, case.shared)
        state, records = initial_state(*initial(case), optimizer), []
        embedded = [np.asarray(embed_step(state.params, state.statistics, batches[-1].anchor))]
        moment = flat(jax.device_get(state.opt_state[0].mu))
        for batch in batches:
            state, metrics = train_step(state, batch)
            new, params, statistics, metrics = jax.device_get(
                (state.opt_state[0].mu, state.params, state.statistics, metrics)
            )
            new = flat(new)
            gradient = {name: (new[name] - case.dtype(0.9) * moment[name]) / case.dtype(0.1) for name in new}
            moment = new
            records.append(named(metrics, gradient, flat(params), flat(statistics)))
        embedded.append(np.asarray(embed_step(state.params, state.statistics, batches[-1].anchor)))
    return records, embedded


def make_reference(case, kind=reference.Reference, network=None, **arguments):
    """The PyTorch side with the same initial values."""
    with precise(case.dtype):
        params, statistics, beta = initial(case)
    config = make_config(case)
    module = (network or NETWORKS[case.backbone])(64, case.size, **arguments).to(TORCH[case.dtype])
    reference.load(module, flat(params) | flat(statistics))
    return kind(
        module,
        beta,
        case.trains_masks,
        learning_rate=config.learning_rate,
        decay=config.schedule_decay,
        steps_per_epoch=STEPS_PER_EPOCH,
        margin=config.loss.margin,
        embedding_weight=config.loss.embedding_weight,
        mask_weight=config.loss.mask_weight,
    )


def train_theirs(model, batches):
    """The same from PyTorch, which gets only the valid rows; and the hinges before their rectifier."""
    records, hinges, embedded = [], [], [embed_theirs(model, batches[-1].anchor)]
    for batch in batches:
        roles = [reference.images(role[batch.valid]) for role in batch[:3]]
        terms, gradient = model.step(*roles, torch.tensor(batch.condition[batch.valid], dtype=torch.int64))
        hinges.append(terms["d_positive"] - terms["d_negative"] + model.margin)
        squares = sum(float((value.double() ** 2).sum()) for value in gradient.values())
        terms["gradient_norm"] = np.sqrt(squares).astype(terms["loss"].dtype)
        mask_gradient = gradient.pop("beta", torch.zeros_like(model.beta.weight))
        state = reference.to_flax(model.network.state_dict())
        statistics = {name: value for name, value in state.items() if name.endswith(("/mean", "/var"))}
        params = {name: value for name, value in state.items() if name not in statistics}
        gradient = prefixed("backbone/", reference.to_flax(gradient)) | {"beta": mask_gradient.numpy()}
        params = prefixed("backbone/", params) | {"beta": reference.to_numpy(model.beta.weight)}
        terms = {name: value for name, value in terms.items() if not name.startswith("d_")}
        records.append(named(terms, gradient, params, statistics))
    embedded.append(embed_theirs(model, batches[-1].anchor))
    return records, embedded, hinges


def embed_theirs(model, x):
    model.network.eval()
    with torch.no_grad():
        return reference.to_numpy(model.network(reference.images(x)))


def prefixed(prefix, leaves):
    return {prefix + name: value for name, value in leaves.items()}


def named(terms, gradient, params, statistics):
    return (
        prefixed("loss/", terms)
        | prefixed("gradient/", gradient)
        | prefixed("parameter/", params)
        | prefixed("statistics/", statistics)
    )


def joined(records):
    return {
        name: value for step, record in enumerate(records, 1) for name, value in prefixed(f"{step}/", record).items()
    }


def part(record, *names):
    return {name: value for name, value in record.items() if name.startswith(names)}


class Run(NamedTuple):
    """Both sides of one training run."""

    case: Case
    ours: list
    theirs: list
    hinges: list
    embedded: tuple  # (ours, theirs), each before and after


@lru_cache
def run(case, steps=4):
    batches = make_batches(case)[:steps]
    ours, embedded = train_ours(case, batches)
    kind = JointBatchNorm if case.shared else reference.Reference
    theirs, expected, hinges = train_theirs(make_reference(case, kind), batches)
    return Run(case, ours, theirs, hinges, (embedded, expected))


RESNET, FIXED_3 = Case("resnet18_csn", "learned", 4, 32), Case("small", "fixed", 3)
SMALL = [
    Case("small", variant, n) for variant, n in [("learned", 4), ("learned_disjoint", 4), ("fixed", 4), ("standard", 4)]
] + [Case("small", "learned", 4, shared=True)]


# Each of these two compiles programs of its own. tests/backbones has the network in float64, test_masks.py the masks.
DEAR = [pytest.param(case, marks=pytest.mark.slow) for case in (RESNET, FIXED_3)]


@pytest.fixture(scope="module", params=[*DEAR, *SMALL], ids=str)
def trained(request):
    return run(request.param)


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("kind", ["loss", "gradient", "parameter", "statistics"])
def test_training_equals_torch(trained, kind, step):
    """Loss terms, every gradient, every parameter and every running statistic of each of four steps."""
    assert_close(part(trained.ours[step], kind), part(trained.theirs[step], kind), EXACT)


def test_evaluation_equals_torch(trained):
    """Embeddings with running statistics, before training and after four steps."""
    for ours, theirs in zip(*trained.embedded, strict=True):
        assert_close({"embedding": ours}, {"embedding": theirs}, EXACT)


def test_batches_are_demanding(trained):
    """Every batch above has active and inactive hinges, none near a tie, and all trained arrays move."""
    for hinge in trained.hinges:
        assert (hinge > 0).any() and (hinge < 0).any()
        assert np.abs(hinge).min() > 1e-4
    first, last = trained.ours[0], trained.ours[3]
    for name in part(first, "parameter", "statistics"):
        moves = name != "parameter/beta" or trained.case.trains_masks
        assert np.any(first[name] != last[name]) == moves, name


def test_a_missing_condition_keeps_its_momentum(trained):
    """A condition without triplets in the batch gets no gradient, but Adam still moves its mask."""
    first, second = trained.ours[0], trained.ours[1]
    assert np.all(second["gradient/beta"][-1] == 0)
    moved = np.any(first["parameter/beta"][-1] != second["parameter/beta"][-1])
    assert moved == trained.case.trains_masks


@pytest.fixture(scope="module")
def in_float32():
    """One step of the reference's network in float32, on images so large that one ReLU matters little."""
    return run(Case("resnet18_csn", "learned", 4, 64, np.float32), steps=1)


def float32_tolerance(name):
    """Measured noise. A ReLU whose sign differs between libraries affects the gradients of all layers before it. In the
    last bias the halves of the triplet loss cancel, which leaves noise of the size of each half."""
    if name.startswith("statistics/"):
        return 1.5e-4
    if name.startswith("loss/"):
        return 1e-3 if name == "loss/gradient_norm" else 2e-5
    return {"gradient/beta": 3e-5, "gradient/backbone/fc/kernel": 3e-5, "gradient/backbone/fc/bias": 1e-4}.get(
        name, 6e-2
    )


@pytest.mark.slow
def test_float32_step_equals_torch(in_float32):
    """Losses, gradients and running statistics of one step within the noise of float32."""
    kinds = "loss", "gradient", "statistics"
    assert_close(part(in_float32.ours[0], *kinds), part(in_float32.theirs[0], *kinds), float32_tolerance)


@pytest.mark.slow
def test_float32_embeddings_and_distances_equal_torch(in_float32):
    """Embeddings, and distances under each condition, within the noise of float32."""
    ours, theirs = (side[0] for side in in_float32.embedded)
    assert_close({"embedding": ours}, {"embedding": theirs}, 6e-6)
    model = make_reference(in_float32.case)
    for c in range(4):
        mask = np.asarray(rectify(initial(in_float32.case)[2][c]))
        actual = distance(ours[:-1], ours[1:], np.broadcast_to(mask, ours[1:].shape))
        x, y = torch.tensor(theirs[:-1]), torch.tensor(theirs[1:])
        expected = model.distance(x, y, model.mask(torch.tensor(c)))
        assert_close({"distance": actual}, {"distance": reference.to_numpy(expected)}, 6e-6)


# Below, PyTorch gets one mistake that ports often make, and the comparison must fail at the named place.


class EpsilonOutsideNorm(reference.Reference):
    def distance(self, x, y, mask):
        return torch.linalg.vector_norm(x * mask - y * mask, dim=1) + 1e-6


class EpsilonAfterAbsolute(reference.Reference):
    def distance(self, x, y, mask):
        return torch.linalg.vector_norm((x * mask - y * mask).abs() + 1e-6, dim=1)


class MeanOverActive(reference.Reference):
    def triplet_loss(self, d_positive, d_negative):
        hinge = F.relu(d_positive - d_negative + self.margin)
        return hinge.sum() / (hinge > 0).sum()


class RolesSwapped(reference.Reference):
    def triplet_loss(self, d_positive, d_negative):
        return super().triplet_loss(d_negative, d_positive)


class NormPerExample(reference.Reference):
    def embedding_loss(self, embeddings, mask):
        return sum(torch.linalg.vector_norm(e, dim=1).mean() for e in embeddings) / 3


class NormOfMasked(reference.Reference):
    def embedding_loss(self, embeddings, mask):
        return super().embedding_loss([e * mask for e in embeddings], mask)


class NormOverOneAxis(reference.Reference):
    def embedding_loss(self, embeddings, mask):
        return sum(torch.linalg.vector_norm(e, dim=0).mean() for e in embeddings) / 3


class NormDividedByBatch(reference.Reference):
    def embedding_loss(self, embeddings, mask):
        return super().embedding_loss(embeddings, mask) / np.sqrt(len(mask))


class MaskLossOfTable(reference.Reference):
    def mask_loss(self, mask):
        return F.relu(self.beta.weight).sum() / len(self.beta.weight)


class MaskNotRectified(reference.Reference):
    def mask(self, condition):
        return self.beta(condition)


class Normalised(reference.Reference):
    def embed(self, *roles):
        return [F.normalize(e) for e in super().embed(*roles)]


class JointBatchNorm(reference.Reference):
    def embed(self, anchor, positive, negative):
        return self.network(torch.cat([anchor, positive, negative])).chunk(3)


class PositiveBeforeNegative(reference.Reference):
    def embed(self, anchor, positive, negative):
        return self.network(anchor), self.network(positive), self.network(negative)


class AdamEpsilon(reference.Reference):
    adam = {"betas": (0.9, 0.999), "eps": 1e-7}


class AdamBeta(reference.Reference):
    adam = {"betas": (0.9, 0.99), "eps": 1e-8}


class WeightDecay(reference.Reference):
    adam = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-6}


class EpochFromZero(reference.Reference):
    def rate(self):
        return self.base_rate * self.decay ** (self.steps // self.steps_per_epoch)


class EpochStuck(reference.Reference):
    def rate(self):
        return self.base_rate * self.decay


class AbsentConditionsRest(reference.Reference):
    def update(self, condition):
        before = self.beta.weight.detach().clone()
        super().update(condition)
        absent = [c for c in range(len(before)) if c not in condition]
        with torch.no_grad():
            self.beta.weight[absent] = before[absent]


class PaddedOnOneSide(reference.Small):
    """'SAME' at stride 2 pads one row and column less, and more on the far side."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        for conv in self.layers:
            if isinstance(conv, nn.Conv2d):
                near = conv.padding[0] - 1
                conv.padding = (0, 0)
                conv.register_forward_pre_hook(lambda _, x, n=near: F.pad(x[0], (n, n + 1, n, n + 1)))


@pytest.mark.parametrize(
    "kind, place",
    [
        (EpsilonOutsideNorm, "1/loss/triplet"),
        (EpsilonAfterAbsolute, "1/loss/triplet"),
        (MeanOverActive, "1/loss/triplet"),
        (RolesSwapped, "1/loss/triplet"),
        (NormPerExample, "1/loss/embedding"),
        (NormOfMasked, "1/loss/embedding"),
        (NormOverOneAxis, "1/loss/embedding"),
        (NormDividedByBatch, "1/loss/embedding"),
        (MaskLossOfTable, "1/loss/mask"),
        (MaskNotRectified, "1/loss/mask"),
        (Normalised, "1/loss/embedding"),
        (JointBatchNorm, "1/loss/embedding"),
        (PositiveBeforeNegative, "1/statistics/bn0/mean"),
        (AdamEpsilon, "1/parameter/backbone/bn0/scale"),
        (AdamBeta, "2/parameter/beta"),
        (WeightDecay, "1/parameter/beta"),
        (EpochFromZero, "1/parameter/beta"),
        (EpochStuck, "3/parameter/beta"),
        (AbsentConditionsRest, "2/parameter/beta"),
    ],
)
def test_the_comparison_detects(kind, place):
    """A mistake in the mathematics of the step shows first where it is made."""
    case = SMALL[0]
    theirs, _, _ = train_theirs(make_reference(case, kind), make_batches(case))
    with pytest.raises(AssertionError, match=f"(^|; ){place} is off"):
        assert_close(joined(run(case).ours), joined(theirs), EXACT)
    clean = [name for name in joined(theirs) if int(name[0]) < int(place[0])]
    assert_close(*({name: joined(side)[name] for name in clean} for side in (run(case).ours, theirs)), EXACT)


def test_the_comparison_detects_a_biased_running_variance():
    """The running variance is unbiased. In training, nothing else depends on it."""
    case = SMALL[0]
    theirs, expected, _ = train_theirs(make_reference(case, norm=reference.BiasedBatchNorm2d), make_batches(case))
    ours, theirs = joined(run(case).ours), joined(theirs)
    with pytest.raises(AssertionError, match="^1/statistics/bn0/var is off"):
        assert_close(ours, theirs, EXACT)
    others = [name for name in theirs if not name.endswith("/var")]
    assert_close({name: ours[name] for name in others}, {name: theirs[name] for name in others}, EXACT)
    with pytest.raises(AssertionError):
        assert_close({"embedding": run(case).embedded[0][1]}, {"embedding": expected[1]}, EXACT)


def test_the_comparison_detects_padding_on_one_side():
    """A convolution of stride 2 with 'SAME' padding is another function."""
    case = SMALL[0]
    theirs, _, _ = train_theirs(make_reference(case, network=PaddedOnOneSide), make_batches(case)[:1])
    with pytest.raises(AssertionError, match="gradient/backbone/conv0/kernel is off"):
        assert_close(run(case).ours[0], theirs[0], EXACT)


def test_the_comparison_detects_padded_rows():
    """If PyTorch takes padding rows as triplets, all loss terms, statistics and gradients differ."""
    case = SMALL[0]
    batches = [batch._replace(valid=np.ones(B, bool)) for batch in make_batches(case)]
    theirs, _, _ = train_theirs(make_reference(case), batches)
    assert_close(run(case).ours[0], theirs[0], EXACT)  # the first batch is full
    for name in ("loss/triplet", "loss/embedding", "loss/mask", "statistics/bn0/var", "gradient/beta"):
        with pytest.raises(AssertionError):
            assert_close(part(run(case).ours[1], name), part(theirs[1], name), EXACT)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [NormPerExample, RolesSwapped, MeanOverActive, MaskNotRectified, NormDividedByBatch])
def test_the_float32_comparison_detects(in_float32, kind):
    """The wider tolerances of float32 still detect mistakes in the loss."""
    case = in_float32.case
    theirs, _, _ = train_theirs(make_reference(case, kind), make_batches(case)[:1])
    with pytest.raises(AssertionError):
        assert_close(part(in_float32.ours[0], "loss"), part(theirs[0], "loss"), float32_tolerance)


@pytest.mark.slow
def test_the_float32_comparison_detects_a_biased_running_variance(in_float32):
    """The wider tolerances of float32 still distinguish the biased from the unbiased variance."""
    case = in_float32.case
    theirs, _, _ = train_theirs(make_reference(case, norm=reference.BiasedBatchNorm2d), make_batches(case)[:1])
    with pytest.raises(AssertionError, match="layer3_0/bn1/var"):
        assert_close(part(in_float32.ours[0], "statistics"), part(theirs[0], "statistics"), float32_tolerance)
