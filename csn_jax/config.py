"""Config: every setting of a run and the one home of its default. The defaults are the quickstart. Imports no JAX."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from csn_jax.errors import UserError
from csn_jax.text import did_you_mean
from csn_jax.typed import check_types, from_object

VARIANTS = ("standard", "specialists", "fixed", "learned", "learned_disjoint")
# What backbone.freeze can name, from the input on; every backbone knows `all` besides.
STAGES = {
    "resnet18_csn": ("stem", "layer1", "layer2", "layer3"),
    "resnet18": ("stem", "layer1", "layer2", "layer3", "layer4"),
    "resnet50": ("stem", "layer1", "layer2", "layer3", "layer4"),
}


@dataclass(frozen=True)
class BackboneConfig:
    """The network from one input to one embedding."""

    name: Literal["small", "vgg", "resnet18_csn", "resnet18", "resnet50", "projection"] = "small"
    """small: the quickstart's; vgg: the paper's font network; resnet18_csn: the reference's, ResNet-18 without its
    fourth stage; resnet18 and resnet50: torchvision's; projection: one or two layers on data.vectors."""
    embedding_dim: int = 64
    """D, the number of embedding dimensions."""
    hidden: int = 0
    """Projection: width of a hidden layer; 0: linear."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What convolutions compute in. Masks, distances, norms, statistics and optimizer stay float32."""
    init: str = ""
    """Pretrained weights to start from: a .safetensors, .pth, .pt or .pth.tar file with torchvision's or timm's names,
    or hf:OWNER/NAME on the Hugging Face hub. Set preprocess.mean and std to what the weights were trained with."""
    freeze: str = ""
    """Keep this part as it starts: stem, layer1.. (a ResNet's stages up to that one) or all (everything but the last
    linear layer). Frozen batch norms normalise by their running statistics and do not move them. Masks still train."""
    learning_rate_ratio: float = 1.0
    """Factor on the learning rate of the backbone but for its last linear layer, to fine-tune what init gave."""


@dataclass(frozen=True)
class DataConfig:
    """Which items, and how triplets are drawn from them."""

    source: Literal["glyphs", "fonts", "table", "zappos50k", "tfds", "imported"] = "glyphs"
    """glyphs: the pack inside this package; fonts: a folder of font files, given by data.path; table: a CSV or Parquet
    file, one row an item, given by data.path; zappos50k: the folder, given by data.path, into which UT-Zappos50K is
    unpacked; tfds: a set of TensorFlow Datasets, given by data.name; imported: no data, as in the runs that
    csn_jax.port import makes."""
    path: str = ""
    """The folder or file that the source reads; the embedded glyphs need none, and tfds has its own (TFDS_DATA_DIR)."""
    name: str = ""
    """Tfds: the set, as celeb_a, NAME/CONFIG or NAME:VERSION."""
    conditions: tuple[str, ...] = ()
    """The notions of similarity to learn, in order; empty takes all that the source has."""
    split_by: str = ""
    """A label whose values stay together in one split (font: all test fonts are new); empty: each item on its own."""
    image: str = "image"
    """Table: the column of image paths, which are relative to the table's folder and stay inside it. Tfds: the feature
    that holds the image, where there are several."""
    id: str = "id"
    """Table and tfds: the column that names each item; without it, items are named by their image, or by their row."""
    vectors: str = ""
    """Table: the column of feature vectors (Parquet), or an .npy or .npz file beside the table; empty: images."""
    kinds: tuple[str, ...] = ()
    """Table and tfds: NAME=KIND for columns whose kind should not be inferred: categorical, numeric, ordinal or set."""
    skip_bad: bool = False
    """Table and zappos50k: leave out rows whose image cannot be read, instead of refusing them all."""
    triplets: str = ""
    """Triplets of your own instead of drawn ones: a CSV or Parquet file with columns anchor, positive, negative and
    condition, or a folder of the reference's integer lists with filenames.json. All of them are used."""
    train_triplets: int = 200_000
    """Training triplets per condition."""
    validation_triplets: int = 5_000
    """Validation triplets per condition."""
    test_triplets: int = 20_000
    """Test triplets per condition."""
    seed: int = 0
    """Seeds the split and the triplets, apart from `seed`, so that several training seeds share one test."""


@dataclass(frozen=True)
class PreprocessConfig:
    """From an image file to what the backbone sees. Used alike by training, embed and search."""

    size: int = 32
    """Height and width in pixels."""
    flip: bool = False
    """Flip each training image left to right with probability one half. Wrong for characters."""
    mean: tuple[float, ...] = (0.10,)
    """Mean of each channel, on the scale 0 to 1."""
    std: tuple[float, ...] = (0.29,)
    """Standard deviation of each channel, on the scale 0 to 1."""


@dataclass(frozen=True)
class LossConfig:
    """L = L_T + embedding_weight * L_W + mask_weight * L_M (paper, section 3.2)."""

    name: Literal["triplet", "batch_all", "batch_hard"] = "triplet"
    """triplet: L_T over drawn triplets, as in the paper. Over batches of labelled items, all their labels used at once:
    batch_all: the mean over all active triplets inside the batch; batch_hard: over each item's farthest positive with
    its nearest negative, by condition."""
    margin: float = 0.2
    """h of the triplet hinge."""
    embedding_weight: float = 5e-3
    """lambda 1, on the norm of the unmasked embeddings."""
    mask_weight: float = 5e-4
    """lambda 2, on the L1 norm of the masks."""


@dataclass(frozen=True)
class Config:
    """One run. `python -m csn_jax.train` without flags trains exactly these defaults."""

    variant: Literal["standard", "specialists", "fixed", "learned", "learned_disjoint"] = "learned"
    """How masks start and whether they are trained (paper, section 4)."""
    seed: int = 0
    """Seeds initial weights, initial masks, the order or draw of batches, and the augmentation."""
    batch_size: int = 128
    """Triplets in a step, over all devices together; with the loss batch_all or batch_hard, items in a step."""
    steps: int = 1_200
    """Length of training. Counted in steps, so the result does not depend on the machine's speed."""
    learning_rate: float = 2e-3
    """Adam's, before the schedule."""
    schedule: Literal["exponential", "cosine"] = "cosine"
    """exponential: the reference's, times schedule_decay^epoch, epochs from 1; cosine: to 0 at the last step."""
    schedule_decay: float = 0.985
    """Factor of the exponential schedule for each epoch."""
    batch_statistics: Literal["by_role", "shared"] = "by_role"
    """Batch norm of a batch of triplets. by_role: anchors, positives and negatives apart, as in the reference; shared:
    over the three as one batch. By role, the statistics give the negatives away where conditions have few values, and
    training learns that instead; take shared there."""
    feed: Literal["tfdata", "device", "auto"] = "tfdata"
    """tfdata: tf.data gathers rows on the host, ahead; device: all items lie on the accelerator; auto: device where
    they take at most a quarter of its memory. Same batches."""
    log_every: int = 50
    """Steps between two lines of training metrics."""
    eval_every: int = 200
    """Steps between two measurements of the validation triplet error; the last step is always measured."""
    checkpoint_every: int = 200
    """Steps between two saves of the latest state; the best on validation is saved besides."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    data: DataConfig = field(default_factory=DataConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    def validate(self) -> None:
        """Refuse a value outside its type, choices or range.

        Raises:
            UserError: naming the field, the value and the valid choices.
        """
        check_types(self, "config")
        for name, least in {
            "batch_size": 1,
            "steps": 1,
            "log_every": 1,
            "eval_every": 1,
            "checkpoint_every": 1,
            "seed": 0,
            "data.seed": 0,
            "data.train_triplets": 1,
            "data.validation_triplets": 1,
            "data.test_triplets": 1,
            "preprocess.size": 8,
            "backbone.embedding_dim": 1,
            "backbone.hidden": 0,
        }.items():
            value = self
            for part in name.split("."):
                value = getattr(value, part)
            if value < least:
                raise UserError(f"config.{name} is {value}; give a whole number of at least {least}.")
            if name.endswith("seed") and value >= 1 << 32:
                raise UserError(f"config.{name} is {value}; give a whole number below {1 << 32}.")
        for name, value in {
            "learning_rate": self.learning_rate,
            "schedule_decay": self.schedule_decay,
            "loss.margin": self.loss.margin,
            "backbone.learning_rate_ratio": self.backbone.learning_rate_ratio,
        }.items():
            if not 0 < value < float("inf"):
                raise UserError(f"config.{name} is {value}; give a number above 0.")
        for name in ("embedding_weight", "mask_weight"):
            if not 0 <= getattr(self.loss, name) < float("inf"):
                raise UserError(f"config.loss.{name} is {getattr(self.loss, name)}; give a number of at least 0.")
        if self.loss.name != "triplet" and self.data.triplets:
            raise UserError(
                f"config.loss.name is {self.loss.name}, which learns from labels, and config.data.triplets names "
                "triplets of your own; use --config.loss.name=triplet for these, or leave config.data.triplets empty."
            )
        if self.backbone.name == "projection" and self.backbone.freeze:
            raise UserError(
                f"config.backbone.freeze is {self.backbone.freeze!r} and a projection starts from nothing worth "
                "keeping; leave it empty."
            )
        parts = (*STAGES.get(self.backbone.name, ()), "all")
        if self.backbone.freeze not in ("", *parts):
            near = did_you_mean(self.backbone.freeze, parts)
            raise UserError(
                f"config.backbone.freeze is {self.backbone.freeze!r}{near}; {self.backbone.name} can freeze "
                f"{', '.join(parts)}, or nothing when it is empty."
            )
        channels = len(self.preprocess.mean)
        if channels not in (1, 3) or len(self.preprocess.std) != channels:
            raise UserError(
                f"config.preprocess.mean has {channels} values and config.preprocess.std {len(self.preprocess.std)}; "
                "give one of each for grey images or three of each for colour."
            )
        if not all(map(math.isfinite, self.preprocess.mean)):
            raise UserError(f"config.preprocess.mean is {self.preprocess.mean}; give finite numbers.")
        if not all(0 < one < math.inf for one in self.preprocess.std):
            raise UserError(f"config.preprocess.std is {self.preprocess.std}; give finite numbers above 0.")

    def to_json(self) -> str:
        """The whole config as indented JSON with sorted keys; `from_json` reads it back exactly."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str, where: str = "config.json") -> "Config":
        """Read what `to_json` wrote; fields that are not there take their defaults.

        Raises:
            UserError: when the text is no JSON object, or a field is unknown or of another type.
        """
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not JSON ({error}); restore the file or start in a new workdir.") from None
        config = from_object(Config, raw, where, "config")
        try:
            config.validate()
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        return config

    def digest(self) -> str:
        """SHA-256 of the JSON form, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def differences(old: Config, new: Config) -> list[str]:
    """The fields in which two configs differ, each as `config.field: old, now new`."""
    before, after = _flat(dataclasses.asdict(old)), _flat(dataclasses.asdict(new))
    return [f"config.{name}: {before[name]!r}, now {after[name]!r}" for name in before if before[name] != after[name]]


def flags(config: Config) -> list[str]:
    """The words of a command line that make a config of the defaults."""
    before, after = (_flat(dataclasses.asdict(one)) for one in (Config(), config))
    words = []
    for name, value in after.items():
        if value != before[name]:
            flag = f"--config.{name}"
            words += [flag, *map(str, value)] if isinstance(value, tuple) else [f"{flag}={value}"]
    return words


def brief(config: Config, size: int | None = None) -> Config:
    """The config at a size of seconds, for tests and for a first look; size: that of its pictures, in pixels."""
    return replace(
        config,
        batch_size=16,
        steps=6,
        log_every=2,
        eval_every=3,
        checkpoint_every=3,
        data=replace(config.data, train_triplets=200, validation_triplets=100, test_triplets=100),
        preprocess=replace(config.preprocess, size=size or config.preprocess.size),
    )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
