"""Train on your own folder of fonts, rendered to 64x64. The conditions are character and font.

    csn_jax train --config=fonts --config.data.path=FOLDER

Rendering runs once. The cache is $CSN_JAX_CACHE (default ~/.cache/csn_jax).
"""

from dataclasses import replace

from csn_jax.config import BackboneConfig, Config, DataConfig, PreprocessConfig, brief

_IMAGES = PreprocessConfig(size=64, mean=(0.10,), std=(0.29,))


def default() -> Config:
    """The small network, for a CPU."""
    return Config(data=DataConfig(source="fonts"), preprocess=_IMAGES)


def tiny() -> Config:
    """A run of seconds, for tests."""
    return brief(default(), size=32)


def paper() -> Config:
    """The paper's font network and recipe (section 4.2): 200 epochs at 5e-5, times 0.985 per epoch. Needs a GPU.

        csn_jax train --config=fonts:paper --config.data.path=FOLDER

    Not run by us: 312,600 steps need a GPU, and the paper's 50,000 fonts were never published. docs/RESULTS.md has
    results of a smaller network on other fonts.
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
