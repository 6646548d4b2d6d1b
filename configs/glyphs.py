"""Train on the glyphs inside the package. The conditions are character and font.

    csn_jax train --config=glyphs

This preset equals the defaults, so it does the same as no --config. README (*Train*) has the time and the result.
"""

from csn_jax.config import Config, DataConfig, LossConfig


def default() -> Config:
    """The quickstart: every default of Config."""
    return Config()


def in_batch() -> Config:
    """The quickstart with in-batch learning.

        csn_jax train --config=glyphs:in_batch

    A step embeds 384 images (as many as 128 triplets hold) and learns from every triplet among them. On 2 CPU cores,
    the overall error was 2.27 % after 68 s of training. The quickstart, run side by side, reached 4.52 % after 84 s.
    """
    return Config(batch_size=384, steps=800, loss=LossConfig(name="batch_all"))


def tiny() -> Config:
    """A run of seconds, for tests and to see every part run."""
    return Config(
        batch_size=32,
        steps=20,
        log_every=5,
        eval_every=10,
        checkpoint_every=5,
        data=DataConfig(train_triplets=1_000, validation_triplets=500, test_triplets=500),
    )
