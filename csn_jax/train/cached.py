"""Training on features that are computed once, where a part of the network is frozen."""

import dataclasses
from functools import partial

import jax
import numpy as np

from csn_jax.backbones import Backbone
from csn_jax.config import Config
from csn_jax.core.steps import State
from csn_jax.data.dataset import Dataset
from csn_jax.model.from_state import make_model, make_programs
from csn_jax.model.network import Network
from csn_jax.runtime.sharding import Shardings
from csn_jax.runtime.writer import say


def encoded_once(
    config: Config,
    network: Network,
    dataset: Dataset,
    state: State,
    shardings: Shardings,
    kept: dict[str, np.ndarray],
) -> tuple[Network, Dataset]:
    """The network and the data that training steps and looks at validation take.

    Where a part is frozen and no image is flipped, what that part makes of an item never changes. Each item of training
    and validation then goes through it once: the items become float32 [N, F], and the network its rest on these. Losses
    differ from those of images by rounding. Otherwise, and where these features take more memory than the images, both
    are returned as they are.

    kept: the features of the specialists before this one, whose frozen parts have the same values; new ones are added.
    """
    images = dataset.items.inputs
    if not config.backbone.freeze or config.preprocess.flip or images.ndim == 2:
        return network, dataset
    frozen = network._replace(backbone=network.backbone._replace(features=network.backbone.frozen))
    programs, record = make_programs(frozen), dataset.record
    one = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    made = jax.eval_shape(programs.features, state.params, state.statistics, one)
    if config.backbone.freeze != "all" and made.size * made.dtype.itemsize > images[:1].nbytes:
        return network, dataset
    rows = np.union1d(dataset.rows("train"), dataset.rows("validation"))
    if not kept:
        kept |= {"features": np.zeros((len(images), made.shape[1]), np.float32), "known": np.zeros(len(images), bool)}
    features, known = kept["features"], kept["known"]
    if len(rows := rows[~known[rows]]):
        say(f"frozen up to {config.backbone.freeze}: each of {len(rows):,} images is encoded once")
        model = make_model(config, record.names, record.input_shape, state, programs, shardings)
        features[rows], known[rows] = model.features(images, rows, progress=True), True
    rest = _rest_of(network.backbone, images.shape[1:])
    record = dataclasses.replace(record, input_shape=features.shape[1:])
    items = dataclasses.replace(dataset.items, inputs=features)
    return network._replace(backbone=rest), dataset._replace(items=items, record=record)


def _rest_of(backbone: Backbone, input_shape: tuple[int, ...]) -> Backbone:
    """What trains of a backbone, as a backbone over what its frozen part makes [B, F]. It has all parameters, in the
    same tree, so that states and checkpoints stay as they are."""
    whole = lambda params, statistics, x: x  # noqa: E731
    return Backbone(backbone.init, partial(backbone.rest, input_shape=input_shape), whole, whole, backbone.rest)
