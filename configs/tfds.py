"""Train on any data set of TensorFlow Datasets that has an image and labels.

    csn_jax train --config=tfds --config.data.name=celeb_a --config.data.conditions Male Smiling

- TFDS downloads and prepares the set the first time. Its own train, validation and test splits are kept.
- --config.data.path=FOLDER names a set that is already prepared elsewhere.
- --check prints the data report and stops, so you see which conditions the set offers.
- Batch norm is shared by the three roles of a batch, because conditions may have few values (see batch_statistics).
- For grey images give one mean and one deviation: --config.preprocess.mean 0.5 --config.preprocess.std 0.25
"""

from csn_jax.config import Config, DataConfig, PreprocessConfig, brief

_IMAGES = PreprocessConfig(size=64, flip=True, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def default() -> Config:
    """The small network on colour images of 64x64. Random flips: turn preprocess.flip off if left and right differ."""
    return Config(batch_statistics="shared", data=DataConfig(source="tfds"), preprocess=_IMAGES)


def tiny() -> Config:
    """A run of seconds, for tests and for a first look."""
    return brief(default(), size=16)
