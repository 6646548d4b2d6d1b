"""A product table of your own: a CSV or Parquet file with one row an item, its picture, and a notion in every column.

    python -m csn_jax.train --config=configs/table.py --config.data.path=products.csv \
        --config.data.conditions category closure heel

The column `image` holds paths relative to the table; name another with --config.data.image. Add --check to stop after
the data report. Photos of one product stay in one split with --config.data.split_by=COLUMN.
"""

from csn_jax.config import Config, DataConfig, PreprocessConfig, brief

_IMAGES = PreprocessConfig(size=64, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def default() -> Config:
    """The small network on colour pictures of 64x64; about ten minutes on two CPU cores.

    On the 9,222 photos of shoes in the public set Fashion Product Images (Small), with four conditions (docs/RESULTS.md
    has five, and 32 pixels), test triplet errors of learned masks and of --config.variant=standard: category 11.2 and
    16.1 %, gender 20.0 and 22.3, colour 19.2 and 26.7, season 39.2 and 42.2. With --config.batch_size=64
    --config.steps=800, all conditions together: 23.9 %, and 26.8 % where batch_statistics is by_role.

    A notion that csn_jax.adapt teaches later needs dimensions that can carry it, and a wide embedding has more of them.
    `usage`, unknown in training, then learned from its labels: 18.5 % with 64 dimensions and 17.8 % with
    --config.backbone.embedding_dim=256; trained with it, 14.3 and 15.3 %.
    """
    return Config(batch_statistics="shared", data=DataConfig(source="table"), preprocess=_IMAGES)


def tiny() -> Config:
    """Seconds, for tests and for a first look."""
    return brief(default(), size=32)
