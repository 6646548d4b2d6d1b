"""UT-Zappos50K, the paper's shoes: class, closure, gender, heel.

    python -m csn_jax.train --config=configs/zappos50k.py --config.data.path=FOLDER

FOLDER holds the two unpacked archives of vision.cs.utexas.edu/projects/finegrained/utzap50k, ut-zap50k-images and
ut-zap50k-data (for academic, non-commercial use only). 50,025 pictures are decoded once and cached. The brand is a
label that no condition is made of: `python -m csn_jax.evaluate --workdir=DIR --full` asks a linear probe for it.

The triplets that the authors published are gone from the web. Ours are drawn with data.seed, their digests stand in the
workdir's data.json, and --write_triplets=DIR writes them as the reference's lists:

    python -m csn_jax.train --config=configs/zappos50k.py:paper --config.data.path=FOLDER --write_triplets=DIR

Not run by us, none of the three, for want of the data and of a GPU. The reader is tested on a tree in this form.
"""

from dataclasses import replace

from csn_jax.config import BackboneConfig, Config, DataConfig, PreprocessConfig, brief

_IMAGENET = PreprocessConfig(size=112, flip=True, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def default() -> Config:
    """The small network on pictures of 64x64, for a CPU; batch norm over the three roles together, as gender and class
    have few values (see batch_statistics)."""
    images = replace(_IMAGENET, size=64)
    return Config(batch_statistics="shared", data=DataConfig(source="zappos50k"), preprocess=images)


def tiny() -> Config:
    """Seconds once the pictures are decoded, for tests and for a first look."""
    return brief(default(), size=32)


def paper() -> Config:
    """The paper's recipe (section 4): ResNet-18 without its last stage, from ImageNet weights, at 112x112; 200,000
    triplets a condition; Adam at 5e-5 * 0.985^epoch, batches of 256, 200 epochs, the best on validation kept.

    The paper reports triplet errors of 23.72 % (standard), 11.35 % (specialists), 10.79 % (fixed) and 10.73 %
    (learned). An epoch here is every triplet once, 3,125 steps; the released code picks 100,000 of them when it starts
    and calls these an epoch. The weights come by huggingface_hub (extra `hub`); or give a file as
    --config.backbone.init.

        python -m csn_jax.train --config=configs/zappos50k.py:paper --config.data.path=FOLDER

    Not run by us: 625,000 steps want a GPU, and the catalogue is for academic use only.
    The parts of the recipe are held to a PyTorch model one by one in the tests.
    """
    triplets, batch, epochs = 200_000, 256, 200
    epoch = -(-4 * triplets // batch)  # four conditions
    return Config(
        batch_size=batch,
        steps=epochs * epoch,
        learning_rate=5e-5,
        schedule="exponential",
        eval_every=epoch,
        checkpoint_every=1_000,
        backbone=BackboneConfig(name="resnet18_csn", init="hf:timm/resnet18.tv_in1k"),
        data=DataConfig(source="zappos50k", train_triplets=triplets, validation_triplets=20_000, test_triplets=40_000),
        preprocess=_IMAGENET,
    )
