"""The training step, from uint8 pixels to the new state, in images per second."""

import time
from collections.abc import Callable
from functools import partial

from csn_jax.benchmark.suites import Case

STEPS = 3  # in one measurement


def built(backbone: str, size: int, channels: int, triplets: int):
    """(network, config, shardings) on all local devices; bfloat16 on an accelerator."""
    import jax

    from csn_jax.config import BackboneConfig, Config, PreprocessConfig
    from csn_jax.model.network import build_network
    from csn_jax.runtime.sharding import make_shardings

    accelerator = jax.default_backend() != "cpu"
    config = Config(
        batch_size=triplets,
        backbone=BackboneConfig(name=backbone, dtype="bfloat16" if accelerator else "float32"),
        preprocess=PreprocessConfig(size=size, flip=channels == 3, mean=(0.5,) * channels, std=(0.3,) * channels),
    )
    return build_network(config, (size, size, channels), 4, 100_000), config, make_shardings()


def training(backbone: str, size: int, channels: int, triplets: int, together: bool = False):
    """(train step, first state, shardings). `together`: one forward pass for the three roles."""
    import jax

    from csn_jax.core.steps import make_train_step
    from csn_jax.runtime.compiler import jit

    network, config, shardings = built(backbone, size, channels, triplets)
    parts = (network.backbone, network.preprocess, network.optimizer)
    step = make_train_step(*parts, config.loss, train_masks=True, seed=0, shared_statistics=together)
    return jit(step, donate_argnums=0), jax.device_put(network.state, shardings.state), shardings


def make(
    tiny: bool, *, backbone: str, size: int, channels: int, triplets: int, together: bool = False
) -> Callable[[], float]:
    """Steps over one batch of random pixels."""
    import jax
    import numpy as np

    from csn_jax.core.steps import Batch

    backbone, size, triplets = ("small", 16, 4) if tiny else (backbone, size, triplets)
    step, state, shardings = training(backbone, size, channels, triplets, together)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (triplets, size, size, channels), np.uint8) for _ in range(3)]
    conditions = rng.integers(0, 4, triplets, np.int32)
    batch = jax.device_put(Batch(*images, condition=conditions, valid=np.ones(triplets, bool)), shardings.batch)
    state, _ = step(state, batch)
    jax.block_until_ready(state)

    def measure() -> float:
        nonlocal state
        began = time.perf_counter()
        for _ in range(STEPS):
            state, _ = step(state, batch)
        jax.block_until_ready(state)
        return STEPS * 3 * triplets / (time.perf_counter() - began)

    return measure


def case(backbone: str, size: int, channels: int, triplets: int) -> Case:
    words = ("step", backbone, size, channels, triplets)
    ours = partial(make, backbone=backbone, size=size, channels=channels, triplets=triplets)
    theirs = {"PyTorch, the reference's way": (*words, "reference"), "PyTorch, best effort": (*words, "best")}
    return Case(f"{backbone}, {size} px, {triplets} triplets", ours, theirs, "images/s", more=True)


CASES = (case("resnet18_csn", 112, 3, 32), case("small", 32, 1, 128), case("small", 64, 3, 128))
