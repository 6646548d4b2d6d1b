"""Every backbone inside an NNX program: `flax.nnx.bridge.ToNNX` gives what our wrapper gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from csn_jax import backbones
from csn_jax.backbones.efficientnet import EfficientNetLite0
from csn_jax.backbones.plain import VGG, Projection, Small
from csn_jax.backbones.resnet import ResNet, resnet50
from csn_jax.backbones.vit import VisionTransformer
from csn_jax.config import VitShape

TINY = VitShape("dinov2", 8, 16, 2, 2, 24, registers=1)
MODULES = {
    "small": pytest.param(Small(8), (16, 16, 3), marks=pytest.mark.slow),
    "vgg": pytest.param(VGG(8), (16, 16, 1), marks=pytest.mark.slow),
    "projection": (Projection(8), (5,)),
    "resnet": pytest.param(ResNet(8, depths=(1, 1)), (16, 16, 3), marks=pytest.mark.slow),
    "vit": pytest.param(VisionTransformer(8, shape=TINY), (16, 16, 3), marks=pytest.mark.slow),
    "bottleneck": pytest.param(resnet50(8, depths=(1, 1)), (16, 16, 3), marks=pytest.mark.slow),
    "efficientnet_lite0": pytest.param(EfficientNetLite0(8), (32, 32, 3), marks=pytest.mark.slow),
}


@pytest.mark.parametrize(("module", "shape"), MODULES.values(), ids=MODULES)
def test_nnx(module, shape):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32))
    model = nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0))
    model.lazy_init(x, train=False)
    found = model(x, train=False)
    state = nnx.to_pure_dict(nnx.state(model))
    state.pop("rngs", None)
    statistics, params = {}, {}

    def split(tree, into_params, into_statistics):
        for name, leaf in tree.items():
            if isinstance(leaf, dict):
                split(leaf, into_params.setdefault(name, {}), into_statistics.setdefault(name, {}))
            else:
                (into_statistics if name in ("mean", "var") else into_params)[name] = leaf

    split(state, params, statistics)
    expected, _ = jax.jit(backbones.from_module(module).apply, static_argnames="train")(
        params, statistics, x, train=False
    )
    assert found.shape == (2, 8)
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)
