"""Encoders that people take pretrained, against timm: the training step and embedding, in images per second."""

import time
from collections.abc import Callable
from functools import partial

from csn_jax.benchmark.suites import Case, step

PEER = "timm in PyTorch"


def make_embed(tiny: bool, *, backbone: str, size: int, images: int) -> Callable[[], float]:
    """Embedding of one batch of random pixels."""
    import jax
    import numpy as np

    from csn_jax.core.steps import make_embed_step
    from csn_jax.runtime.compiler import jit

    backbone, size, images = ("small", 16, 4) if tiny else (backbone, size, images)
    network, _, shardings = step.built(backbone, size, 3, images)
    embed, state = jit(make_embed_step(network.backbone, network.preprocess)), network.state
    params, statistics = jax.device_put((state.params, state.statistics), shardings.state)
    pixels = np.random.default_rng(0).integers(0, 256, (images, size, size, 3), np.uint8)
    pixels = jax.device_put(pixels, shardings.batch)
    jax.block_until_ready(embed(params, statistics, pixels))

    def measure() -> float:
        began = time.perf_counter()
        for _ in range(step.STEPS):
            jax.block_until_ready(embed(params, statistics, pixels))
        return step.STEPS * images / (time.perf_counter() - began)

    return measure


def cases(backbone: str, size: int, triplets: int, images: int) -> tuple[Case, Case]:
    train = partial(step.make, backbone=backbone, size=size, channels=3, triplets=triplets, together=True)
    theirs = {PEER: ("step", backbone, size, 3, triplets, "best")}
    training = Case(
        f"training step of {backbone}, {size} px, {3 * triplets} images", train, theirs, "images/s", more=True
    )
    embed = partial(make_embed, backbone=backbone, size=size, images=images)
    theirs = {PEER: ("encoders", backbone, size, images)}
    return training, Case(f"embedding by {backbone}, {size} px, {images} images", embed, theirs, "images/s", more=True)


CASES = (*cases("vit_small_16", 224, 2, 8), *cases("efficientnet_lite0", 224, 8, 32))
