"""A folder of fonts of your own, rendered to 64x64: which character, which font?

    python -m csn_jax.train --config=configs/fonts.py --config.data.path=FOLDER

Rendering runs once and is cached in ~/.cache/csn_jax, or in $CSN_JAX_CACHE.
"""

from dataclasses import replace

from csn_jax.config import BackboneConfig, Config, DataConfig, PreprocessConfig, brief

_IMAGES = PreprocessConfig(size=64, mean=(0.10,), std=(0.29,))


def default() -> Config:
    """The small network on CPU."""
    return Config(data=DataConfig(source="fonts"), preprocess=_IMAGES)


def tiny() -> Config:
    """Seconds, for tests."""
    return brief(default(), size=32)


def paper() -> Config:
    """The paper's font network and recipe (section 4.2): 200 epochs at 5e-5, decayed by 0.985 an epoch. Wants a GPU.

        python -m csn_jax.train --config=configs/fonts.py:paper --config.data.path=FOLDER

    Not run by us: 312,600 steps want a GPU, and the paper's 50,000 fonts were never published. What a
    smaller network and other fonts give is in docs/RESULTS.md.
    """
    triplets, batch, epochs = 200_000, 256, 200
    return replace(
        default(),
        batch_size=batch,
        steps=epochs * -(-2 * triplets // batch),  # two conditions
        learning_rate=5e-5,
        schedule="exponential",
        eval_every=-(-2 * triplets // batch),
        checkpoint_every=1_000,
        backbone=BackboneConfig(name="vgg"),
        data=DataConfig(source="fonts", train_triplets=triplets, validation_triplets=20_000, test_triplets=40_000),
    )
