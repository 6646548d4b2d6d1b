"""Network: what a config builds before training, and pretrained weights for it."""

from collections.abc import Sequence
from typing import NamedTuple

import optax

from csn_jax import backbones
from csn_jax.backbones.tensors import from_tensors, plain_names
from csn_jax.config import Config
from csn_jax.core.masks import Masks, initial_masks
from csn_jax.core.optim import make_optimizer
from csn_jax.core.preprocess import Preprocess, make_preprocess
from csn_jax.core.steps import State, initial_state
from csn_jax.data.order import steps_per_epoch
from csn_jax.errors import UserError
from csn_jax.model.weight_files import read_weights
from csn_jax.runtime.record import Record


class Network(NamedTuple):
    """What a config builds before training: functions, and the state of step 0."""

    backbone: backbones.Backbone
    preprocess: Preprocess
    optimizer: optax.GradientTransformation
    masks: Masks
    state: State


def build_network(config: Config, input_shape: Sequence[int], n_conditions: int, n_examples: int) -> Network:
    """Backbone, masks and optimizer of a config, with their seeded initial values. `examples` gives `n_examples`, an
    epoch of the learning rate schedule. A UserError if the embedding has fewer dimensions than there are conditions."""
    if config.backbone.embedding_dim < n_conditions:
        raise UserError(
            f"config.backbone.embedding_dim is {config.backbone.embedding_dim}, but there are {n_conditions} "
            "conditions; give at least one dimension per condition."
        )
    backbone = backbones.build(config.backbone)
    params, statistics = backbone.init(config.seed, tuple(input_shape))
    masks = initial_masks(config.variant, n_conditions, config.backbone.embedding_dim, config.seed)
    optimizer = make_optimizer(config, steps_per_epoch(n_examples, config.batch_size))
    state = initial_state(params, statistics, masks.beta, optimizer)
    return Network(backbone, make_preprocess(config.preprocess), optimizer, masks, state)


def examples(config: Config, record: Record) -> int:
    """The size of an epoch by data.json: training triplets, or training items for an in-batch loss."""
    return (record.triplets if config.loss.name == "triplet" else record.items)["train"]


class Pretrained(NamedTuple):
    """A state of step 0 with pretrained weights, the SHA-256 of their file, and the names of its unused tensors."""

    state: State
    sha256: str
    left_out: list[str]


def pretrained(config: Config, network: Network) -> Pretrained:
    """Read `config.backbone.init` into a network's backbone. A last linear layer of another shape keeps its random
    initial values. A UserError if the file is damaged, or is of another network: it names the tensors that do not fit.
    """
    place, state = "config.backbone.init", network.state
    weights, where = read_weights(config.backbone.init, place), f"{place}={config.backbone.init}"
    tensors = plain_names(weights.tensors, where)
    params, statistics, left_out = from_tensors(
        config.backbone.name, tensors, state.params["backbone"], state.statistics, where, new_task=True
    )
    state = initial_state(params, statistics, network.masks.beta, network.optimizer)
    return Pretrained(state, weights.sha256, left_out)
