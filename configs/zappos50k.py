"""Train on UT-Zappos50K, the paper's shoes. The conditions are class, closure, gender and heel.

    csn_jax train --config=zappos50k --config.data.path=FOLDER

FOLDER holds two unpacked archives of vision.cs.utexas.edu/projects/finegrained/utzap50k: ut-zap50k-images and
ut-zap50k-data (for academic, non-commercial use only). The 50,025 images are decoded once and cached.

The brand is an attribute that is not a condition. `csn_jax evaluate --workdir=DIR --full` trains a linear
probe for it.

The triplets that the authors published are no longer on the web. Ours are drawn with data.seed. The workdir's data.json
has their digests, and --write_triplets=DIR writes them as the reference's lists:

    csn_jax train --config=zappos50k:paper --config.data.path=FOLDER --write_triplets=DIR

We ran none of the three presets, because we had neither the data nor a GPU. The reader is tested on a synthetic folder
of the same form.
"""

from dataclasses import replace

from csn_jax.config import BackboneConfig, Config, DataConfig, PreprocessConfig, brief

_IMAGENET = PreprocessConfig(size=112, flip=True, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def default() -> Config:
    """The small network on images of 64x64, for a CPU.

    Batch norm is shared by the three roles, because gender and class have few values (see batch_statistics).
    """
    images = replace(_IMAGENET, size=64)
    return Config(batch_statistics="shared", data=DataConfig(source="zappos50k"), preprocess=images)


def tiny() -> Config:
    """A run of seconds once the images are decoded, for tests and for a first look."""
    return brief(default(), size=32)


def paper() -> Config:
    """The paper's recipe (section 4): ResNet-18 without its last stage, from ImageNet weights, at 112x112; 200,000
    triplets per condition; Adam at 5e-5 * 0.985^epoch, batches of 256, 200 epochs, the best on validation kept.

        csn_jax train --config=zappos50k:paper --config.data.path=FOLDER

    - The paper reports triplet errors of 23.72 % (standard), 11.35 % (specialists), 10.79 % (fixed) and 10.73 %
      (learned).
    - An epoch here is every triplet once: 3,125 steps. The released code picks 100,000 triplets at start-up and calls
      these an epoch.
    - huggingface_hub (extra `hub`) downloads the weights. Or pass a file as --config.backbone.init.
    - Not run by us: 625,000 steps need a GPU, and the catalogue is for academic use only. The tests compare the parts
      of the recipe with a PyTorch model, one by one.
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
