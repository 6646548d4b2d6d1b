"""Train on your own product table: CSV or Parquet, one row per item, a column of image paths, one column per condition.

    csn_jax train --config=table --config.data.path=products.csv \
        --config.data.conditions category closure heel

- The column `image` holds paths relative to the table. --config.data.image=COLUMN names another column.
- --check prints the data report and stops.
- --config.data.split_by=COLUMN keeps all photos of one product in one split.
"""

from csn_jax.config import Config, DataConfig, PreprocessConfig, brief

_IMAGES = PreprocessConfig(size=64, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def default() -> Config:
    """The small network on colour images of 64x64. Takes about ten minutes on two CPU cores.

    Measured on the 9,222 photos of shoes in the public set Fashion Product Images (Small), with four conditions
    (docs/RESULTS.md has five conditions at 32 pixels). Test triplet errors in %:

                                    category   gender   colour   season
        learned masks                   11.2     20.0     19.2     39.2
        --config.variant=standard       16.1     22.3     26.7     42.2

    With --config.batch_size=64 --config.steps=800 the overall error was 23.9 %, and 26.8 % with
    batch_statistics=by_role.

    If you plan to add conditions later with csn_jax adapt, a wider embedding can help. The condition `usage`, absent in
    training and learned later from its labels, had an error of 18.5 % with 64 dimensions and of 17.8 % with
    --config.backbone.embedding_dim=256. Trained with the others it had 14.3 and 15.3 %.
    """
    return Config(batch_statistics="shared", data=DataConfig(source="table"), preprocess=_IMAGES)


def tiny() -> Config:
    """A run of seconds, for tests and for a first look."""
    return brief(default(), size=32)
