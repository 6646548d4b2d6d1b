"""Any data set of TensorFlow Datasets that has an image and labels.

    python -m csn_jax.train --config=configs/tfds.py --config.data.name=celeb_a --config.data.conditions Male Smiling

TFDS downloads and prepares the set the first time, and its own splits for train, validation and test are kept. A set
prepared elsewhere is found by --config.data.path=FOLDER. Add --check to see first what it could teach.

Batch norm takes the three roles of a batch together here, as conditions may have few values (see batch_statistics).
For grey pictures give one mean and one deviation: --config.preprocess.mean 0.5 --config.preprocess.std 0.25
"""

from csn_jax.config import Config, DataConfig, PreprocessConfig, brief

_IMAGES = PreprocessConfig(size=64, flip=True, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def default() -> Config:
    """The small network on colour pictures of 64x64, flipped at random: turn preprocess.flip off where sides matter."""
    return Config(batch_statistics="shared", data=DataConfig(source="tfds"), preprocess=_IMAGES)


def tiny() -> Config:
    """Seconds, for tests and for a first look."""
    return brief(default(), size=16)
