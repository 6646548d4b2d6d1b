"""The embedded glyphs: which character, which font?

    python -m csn_jax.train --config=configs/glyphs.py

The same as no --config at all. For time and result see *Train* in the README.
"""

from csn_jax.config import Config, DataConfig, LossConfig


def default() -> Config:
    """The quickstart; every default of Config."""
    return Config()


def in_batch() -> Config:
    """The quickstart with in-batch learning.

        python -m csn_jax.train --config=configs/glyphs.py:in_batch

    A step embeds 384 images, as many as 128 triplets hold, and learns from every triplet among them. Side by side on 2
    CPU cores: 2.27 % overall after 68 s of training, where the quickstart has 4.52 % after 84 s.
    """
    return Config(batch_size=384, steps=800, loss=LossConfig(name="batch_all"))


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
