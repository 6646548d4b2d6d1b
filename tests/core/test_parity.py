"""Our training step against PyTorch: forward, losses, every gradient, four optimizer steps, running statistics.

The step under test is the real one, jitted. Its gradients are read off Adam's first moment, m' = 0.9 m + 0.1 g, so
that nothing is compiled apart from what trains. Batches hold a short last one (padding rows of garbage on our side,
fewer rows in PyTorch), partly active hinges and a condition that is absent from every second batch.
"""

from contextlib import contextmanager
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch_reference as reference
from oracles import assert_close, flat

from csn_jax import backbones
from csn_jax.config import BackboneConfig, Config
from csn_jax.core.masks import initial_masks
from csn_jax.core.optim import make_optimizer
from csn_jax.core.preprocess import make_preprocess
from csn_jax.core.steps import Batch, initial_state, make_embed_step, make_train_step
from csn_jax.runtime.compiler import jit

B = 6  # triplets in a batch; ten triplets an epoch make batches of 6, 4, 6, 4 in epochs 1, 1, 2, 2
VALID = (6, 4, 6, 4)
STEPS_PER_EPOCH = 2
SIZE = {"resnet18_csn": 32, "small": 16, "vgg": 16}
NETWORKS = {"resnet18_csn": reference.ResNet18CSN, "small": reference.Small, "vgg": reference.VGG}
EXACT = 1e-10  # of the largest magnitude in an array, in float64


@contextmanager
def precise(dtype):
    """Products at full precision, in float64 if dtype is that."""
    with jax.enable_x64(dtype == np.float64), jax.default_matmul_precision("highest"):
        yield


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def make_config(backbone):
    return Config(
        backbone=BackboneConfig(name=backbone),
        batch_size=B,
        learning_rate=1e-3,
        schedule="exponential",
        schedule_decay=0.985,
    )


def make_batches(n_conditions, size, dtype):
    """Four batches of normalised images: roles [B, H, W, 3], condition [B], valid [B].

    Images of a triplet share a coarse pattern; whether the positive or the negative is nearer to the anchor, and by
    how much, changes from row to row.
    """
    rng = np.random.default_rng(7)
    batches = []
    for step, n in enumerate(VALID):
        coarse = rng.normal(0, 1, (3, B, 4, 4, 3)).repeat(size // 4, axis=2).repeat(size // 4, axis=3)
        fine = rng.normal(0, 0.5, (3, B, size, size, 3))
        share = np.where(np.arange(B) % 2, 0.1, 0.9)[:, None, None, None]  # of the anchor's pattern in the positive
        anchor = coarse[0] + fine[0]
        positive = share * coarse[0] + (1 - share) * coarse[1] + fine[1]
        negative = (1 - share) * coarse[0] + share * coarse[2] + fine[2]
        present = n_conditions if step % 2 == 0 else n_conditions - 1
        condition = np.arange(B) % present
        valid = np.arange(B) < n
        condition[~valid] = n_conditions - 1  # padding would give the absent condition a gradient if it leaked
        roles = [np.asarray(x, dtype) for x in (anchor, positive, negative)]
        batches.append(Batch(*roles, condition=condition.astype(np.int32), valid=valid))
    return batches


def initial(backbone, variant, n_conditions, dtype):
    """(params, statistics, masks) before training, in dtype."""
    params, statistics = backbones.build(BackboneConfig(name=backbone)).init(3, (SIZE[backbone], SIZE[backbone], 3))
    masks = initial_masks(variant, n_conditions, 64, seed=5)
    return cast(params, dtype), cast(statistics, dtype), masks._replace(beta=cast(masks.beta, dtype))


def make_reference(backbone, variant, n_conditions, dtype, kind=reference.Reference, **network):
    """The PyTorch side with the very same initial values."""
    params, statistics, masks = initial(backbone, variant, n_conditions, dtype)
    config = make_config(backbone)
    module = NETWORKS[backbone](64, size=SIZE[backbone], channels=3, **network).to(
        {np.float64: torch.float64, np.float32: torch.float32}[dtype]
    )
    reference.load(module, flat(params) | flat(statistics))
    return kind(
        module,
        masks.beta,
        masks.trained,
        learning_rate=config.learning_rate,
        decay=config.schedule_decay,
        steps_per_epoch=STEPS_PER_EPOCH,
    )


@lru_cache
def compiled(backbone, train_masks):
    """(optimizer, train step, embed step); variants with the same shapes share the programs."""
    config, functions = make_config(backbone), backbones.build(BackboneConfig(name=backbone))
    optimizer, preprocess = make_optimizer(config, STEPS_PER_EPOCH), make_preprocess(config.preprocess)
    train_step = make_train_step(functions, preprocess, optimizer, config.loss, train_masks=train_masks, seed=0)
    return optimizer, jit(train_step, donate_argnums=0), jit(make_embed_step(functions, preprocess))


def train_ours(backbone, variant, n_conditions, dtype, steps):
    """A record of `steps` steps, flat dicts of arrays by name, and the embeddings of the last batch's anchors after."""
    params, statistics, masks = initial(backbone, variant, n_conditions, dtype)
    optimizer, train_step, embed_step = compiled(backbone, masks.trained)
    state, records = initial_state(params, statistics, masks.beta, optimizer), []
    before = flat(jax.device_get(state.opt_state[0].mu))
    for batch in make_batches(n_conditions, SIZE[backbone], dtype)[:steps]:
        state, metrics = train_step(state, batch)
        moments, params, statistics, metrics = jax.device_get(
            (state.opt_state[0].mu, state.params, state.statistics, metrics)
        )
        after = flat(moments)
        gradient = {name: (after[name] - dtype(0.9) * before[name]) / dtype(0.1) for name in after}
        before = after
        records.append(named(metrics, gradient, flat(params), flat(statistics)))
    return records, np.asarray(embed_step(state.params, state.statistics, batch.anchor))


def train_theirs(model, batches):
    """The same record from PyTorch, which gets the valid rows alone."""
    records, hinges = [], []
    for batch in batches:
        rows = batch.valid
        roles = [reference.images(role[rows]) for role in batch[:3]]
        terms, gradient = model.step(*roles, torch.tensor(batch.condition[rows], dtype=torch.int64))
        d_positive, d_negative = terms.pop("d_positive"), terms.pop("d_negative")
        hinges.append(d_positive - d_negative + model.margin)
        squares = sum(float((value.double() ** 2).sum()) for value in gradient.values())
        terms["gradient_norm"] = np.sqrt(squares).astype(d_positive.dtype)
        mask_gradient = gradient.pop("beta", torch.zeros_like(model.beta.weight))
        state = reference.to_flax(model.network.state_dict())
        statistics = {name: value for name, value in state.items() if name.endswith(("/mean", "/var"))}
        params = {name: value for name, value in state.items() if name not in statistics}
        gradient = prefixed("backbone/", reference.to_flax(gradient)) | {"beta": mask_gradient.numpy()}
        params = prefixed("backbone/", params) | {"beta": reference.to_numpy(model.beta.weight)}
        records.append(named(terms, gradient, params, statistics))
    return records, hinges


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
    return {f"step{i}/{name}": value for i, record in enumerate(records, 1) for name, value in record.items()}


def run(backbone, variant, n_conditions, dtype=np.float64, steps=4):
    """Both sides of one training run, and both embeddings of the last batch's anchors after it."""
    with precise(dtype):
        ours, embedded = train_ours(backbone, variant, n_conditions, dtype, steps)
        batches = make_batches(n_conditions, SIZE[backbone], dtype)[:steps]
        model = make_reference(backbone, variant, n_conditions, dtype)
    theirs, hinges = train_theirs(model, batches)
    model.network.eval()
    with torch.no_grad():
        expected = reference.to_numpy(model.network(reference.images(batches[-1].anchor)))
    return {
        "ours": ours,
        "theirs": theirs,
        "hinges": hinges,
        "embedded": ({"embedding": embedded}, {"embedding": expected}),
    }


RUNS = [
    ("resnet18_csn", "learned", 4),
    ("small", "learned", 4),
    ("small", "learned_disjoint", 4),
    ("small", "fixed", 3),
    ("small", "fixed", 4),
    ("small", "standard", 4),
]


@pytest.fixture(scope="session", params=RUNS, ids=lambda r: "-".join(map(str, r)))
def trained(request):
    """A training run of both sides in float64."""
    return run(*request.param) | {"variant": request.param[1]}


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("part", ["loss", "gradient", "parameter", "statistics"])
def test_training_equals_torch(trained, part, step):
    """Loss terms, every gradient, every parameter and every running statistic after each of four steps."""
    pick = lambda record: {name: value for name, value in record.items() if name.startswith(part)}  # noqa: E731
    assert_close(pick(trained["ours"][step]), pick(trained["theirs"][step]), EXACT)


def test_evaluation_equals_torch(trained):
    """Embeddings by running statistics, after they and the parameters have moved four times."""
    assert_close(*trained["embedded"], EXACT)


def test_batches_are_demanding(trained):
    """The runs above see active and inactive hinges in every batch, none near a tie, and parameters that move."""
    for hinge in trained["hinges"]:
        assert (hinge > 0).any() and (hinge < 0).any()
        assert np.abs(hinge).min() > 1e-3
    first, last = trained["ours"][0], trained["ours"][3]
    for name in first:
        moves = name != "parameter/beta" or trained["variant"] in ("learned", "learned_disjoint")
        if name.startswith(("parameter", "statistics")):
            assert (np.abs(first[name] - last[name]).max() > 0) == moves, name


def test_absent_condition_keeps_its_momentum(trained):
    """A condition that no triplet of the batch has gets no gradient, and Adam still moves its mask if masks learn."""
    first, second = trained["ours"][0], trained["ours"][1]
    assert np.all(second["gradient/beta"][-1] == 0)
    moved = np.any(first["parameter/beta"][-1] != second["parameter/beta"][-1])
    assert moved == (trained["variant"] in ("learned", "learned_disjoint"))
