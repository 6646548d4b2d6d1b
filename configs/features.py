"""Train a map per condition on feature vectors that you already have (CLIP, DINO, SigLIP, ...).

    csn_jax train --config=features --config.data.path=products.parquet \
        --config.data.conditions category closure heel

The vectors are in the column `vector`, as lists or as text. With --config.data.vectors=FILE.npz they are in a file
beside the table, with an array of the items' `ids`. Training also prints the error of the raw vectors and of linear
probes on the same test triplets, and a verdict per condition.
"""

from csn_jax.config import BackboneConfig, Config, DataConfig, brief


def default() -> Config:
    """A map per condition over the vectors as they are. --config.variant=learned trains one linear layer and a mask
    per condition instead."""
    return Config(
        variant="maps",
        batch_size=256,
        steps=3_000,
        learning_rate=2e-3,
        feed="device",
        eval_every=100,
        checkpoint_every=500,
        patience=10,
        backbone=BackboneConfig(name="projection"),
        data=DataConfig(source="table", vectors="vector"),
    )


def tiny() -> Config:
    """A run of seconds, for tests and for a first look."""
    return brief(default())
