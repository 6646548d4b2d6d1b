"""The embedded glyphs: which character, which font?

    python -m csn_jax.train --config=configs/glyphs.py

The same as no --config at all. For time and result see the README's first table.
"""

from csn_jax.config import Config, DataConfig, LossConfig


def default() -> Config:
    """The quickstart; every default of Config."""
    return Config()


def in_batch() -> Config:
    """The quickstart with in-batch learning.

    A step sees 384 images, as do 128 triplets, and learns from every triplet among them.
    """
    return Config(batch_size=384, loss=LossConfig(name="batch_all"))


def tiny() -> Config:
    """Seconds; for tests, and to see every part run."""
    return Config(
        batch_size=32,
        steps=20,
        log_every=5,
        eval_every=10,
        checkpoint_every=5,
        data=DataConfig(train_triplets=1_000, validation_triplets=500, test_triplets=500),
    )
