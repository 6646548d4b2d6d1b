"""Network: what a config builds before training, and pretrained weights for it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import optax

from csn_jax import backbones
from csn_jax.backbones.tensors import for_backbone, from_tensors
from csn_jax.config import Config, DataConfig
from csn_jax.core.maps import MapsPlan, initial_maps
from csn_jax.core.masks import Masks, initial_masks
from csn_jax.core.optim import make_optimizer
from csn_jax.core.preprocess import Preprocess, make_preprocess
from csn_jax.core.steps import State, initial_state
from csn_jax.data.order import steps_per_epoch
from csn_jax.errors import UserError
from csn_jax.model.weight_files import read_weights, weights_path
from csn_jax.model.weights_config import advice
from csn_jax.runtime.record import Record


class Network(NamedTuple):
    """What a config builds before training: functions, and the state of step 0."""

    backbone: backbones.Backbone
    preprocess: Preprocess
    optimizer: optax.GradientTransformation
    masks: Masks
    state: State


def build_network(
    config: Config, input_shape: Sequence[int], n_conditions: int, n_examples: int, maps: MapsPlan | None = None
) -> Network:
    """Backbone, masks and optimizer of a config, with their seeded initial values. `examples` gives `n_examples`, an
    epoch of the learning rate schedule; `maps` is of the variant maps. A UserError if the embedding has fewer
    dimensions than there are conditions."""
    width = config.backbone.embedding_dim
    if width < n_conditions and not config.maps_vectors:
        raise UserError(
            f"config.backbone.embedding_dim is {width}, but there are {n_conditions} conditions; give at least one "
            "dimension per condition."
        )
    backbone = backbone_of(config)
    params, statistics = backbone.init(config.seed, tuple(input_shape))
    if maps is None:
        masks = initial_masks(config.variant, n_conditions, width, config.seed)
    else:
        masks = Masks(initial_maps(maps, n_conditions, maps.axes or width), trained=True)
    if config.maps_vectors:
        statistics = empty_statistics(maps, n_conditions, input_shape[0])
    of_any_data = replace(config, data=DataConfig())  # specialists differ in their data
    optimizer = make_optimizer(of_any_data, steps_per_epoch(n_examples, config.batch_size))
    state = initial_state(params, statistics, masks.beta, optimizer)
    return Network(backbone, make_preprocess(config.preprocess), optimizer, masks, state)


def backbone_of(config: Config) -> backbones.Backbone:
    """The backbone of a config; none where maps take the vectors themselves."""
    if config.maps_vectors:
        return backbones.untouched()
    return backbones.build(config.backbone, running=config.batch_statistics == "running")


def network_of(config: Config, record: Record) -> Network:
    """`build_network` for a run's data."""
    plan = record.maps and MapsPlan(record.maps["axes"], record.maps["rank"], tuple(record.maps["pulls"]))
    return build_network(config, record.input_shape, len(record.conditions), examples(config, record), plan)


def empty_statistics(plan: MapsPlan, n_conditions: int, width: int) -> dict[str, np.ndarray]:
    """What a checkpoint of maps over vectors holds beside the maps, before it is filled: the principal axes, whether
    vectors are scaled to length 1 before, and each condition's best map with its error on validation."""
    return {
        "mean": np.zeros(width, np.float32),
        "axes": np.zeros((plan.axes, width), np.float32),
        "unit": np.zeros((), bool),
        "kept": np.zeros((n_conditions, plan.rank, plan.axes), np.float32),
        "kept_error": np.ones(n_conditions, np.float32),
    }


def examples(config: Config, record: Record) -> int:
    """The size of an epoch by data.json: training triplets, or training items for an in-batch loss."""
    return (record.triplets if config.loss.name == "triplet" else record.items)["train"]


class Pretrained(NamedTuple):
    """A state of step 0 with pretrained weights, the SHA-256 of their file, and the names of its unused tensors."""

    state: State
    sha256: str
    left_out: list[str]
    advice: str  # where the file's own preprocessing is another than the config's


def pretrained(config: Config, network: Network) -> Pretrained:
    """Read `config.backbone.init` into a network's backbone. A last linear layer of another shape keeps its random
    initial values. A UserError if the file is damaged, or is of another network: it names the tensors that do not fit.
    """
    place, state = "config.backbone.init", network.state
    source = config.backbone.init
    weights, where = read_weights(source, place), f"{place}={source}"
    tensors = for_backbone(config.backbone.name, weights.tensors, config.preprocess.size, where)
    params, statistics, left_out = from_tensors(
        config.backbone.name, tensors, state.params["backbone"], state.statistics, where, new_task=True
    )
    state = initial_state(params, statistics, network.masks.beta, network.optimizer)
    return Pretrained(state, weights.sha256, left_out, advice(config.preprocess, weights_path(source, place)))
