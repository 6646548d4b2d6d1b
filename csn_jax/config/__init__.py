"""Config: all settings of a run with their defaults, which are those of the quickstart. Imports no JAX."""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from typing import Literal

from csn_jax.config.backbone import STAGES as STAGES
from csn_jax.config.backbone import VITS, BackboneConfig, FineTuneConfig
from csn_jax.config.backbone import VitShape as VitShape
from csn_jax.config.typed import check_types, flat, from_object
from csn_jax.errors import UserError
from csn_jax.text import did_you_mean

VARIANTS = ("standard", "specialists", "fixed", "learned", "learned_disjoint", "maps")
# Texts of an unknown value: of pandas, R, SQL, spreadsheets and people.
UNKNOWN = ("NA", "N/A", "n/a", "NULL", "Null", "null", "None", "NaN", "NAN", "nan", "-nan", "<NA>", "NaT", "-")
UNKNOWN += ("#N/A", "#NA", "#VALUE!", "#REF!", "#DIV/0!", "#NUM!", "#NAME?", "#NULL!", "\\N", "?", "--", "n.a.", "N.A.")
# The least value of each whole number.
LEAST = dict.fromkeys(("batch_size", "steps", "log_every", "eval_every", "checkpoint_every"), 1)
LEAST |= dict.fromkeys(("data.train_triplets", "data.validation_triplets", "data.test_triplets"), 1)
LEAST |= dict.fromkeys(("seed", "data.seed", "patience", "maps.rank", "maps.axes"), 0)
LEAST |= {"backbone.hidden": 0, "fine_tune.warmup": 0}
LEAST |= {"backbone.embedding_dim": 1, "preprocess.size": 8}


@dataclass(frozen=True)
class DataConfig:
    """Which items, and how triplets are drawn from them."""

    source: Literal["glyphs", "fonts", "table", "zappos50k", "tfds", "imported"] = "glyphs"
    """glyphs: data inside this package; fonts: a folder of font files; table: a CSV, Parquet or JSON-lines file, or a
    folder of Parquet files, with one row per item; zappos50k: the folder of the unpacked UT-Zappos50K; tfds: a
    TensorFlow dataset, named by data.name; imported: no data, as in runs made by csn_jax port import."""
    path: str = ""
    """The folder or file that the source reads. glyphs needs none; tfds reads TFDS_DATA_DIR instead."""
    name: str = ""
    """tfds: the dataset, as celeb_a, NAME/CONFIG or NAME:VERSION."""
    conditions: tuple[str, ...] = ()
    """The conditions to learn, in order; empty: all that the source has."""
    split_by: str = ""
    """A label whose values each stay in one split (font: all test fonts are new; family: also their bold and italic);
    empty: each item by itself, or each triplet of your own; item: each item by itself, also with own triplets."""
    image: str = "image"
    """table: the column of image paths, relative to the table's folder and inside it, or of the images' bytes; or a
    template of paths, as images/{id}.jpg. tfds: the feature that holds the image, if there are several."""
    id: str = "id"
    """table, tfds: the column that names each item. Without it, an item's name is its image or its row."""
    vectors: str = ""
    """table: the column of feature vectors, the beginning of the names of one column per dimension, or an .npy or .npz
    file beside the table; empty: images."""
    vector_ids: str = ""
    """table: the array of an .npz file that names its vectors by the table's ids; empty: the array ids."""
    kinds: tuple[str, ...] = ()
    """table, tfds: NAME=KIND for columns whose kind should not be inferred: categorical, numeric, rank (numbers
    compared by rank), ordinal or set."""
    unknown: tuple[str, ...] = UNKNOWN
    """table, tfds: the texts that mean, like an empty cell, that a value is unknown; '' alone: only the empty cell."""
    notations: Literal["common", "plain"] = "common"
    """table, tfds: common: money, percent, decimal commas, lists, codes and the texts in unknown are read for what they
    mean; plain: only numbers such as 1.5 and sets such as a;b, as for runs from before there was this setting."""
    encoding: str = ""
    """table: the encoding of a text file, such as cp1252 or latin-1; empty: found from the file."""
    skip_bad: bool = False
    """table, zappos50k: leave out rows whose image or vector cannot be used, or with too many or too few cells,
    instead of refusing the table."""
    triplets: str = ""
    """Your own triplets instead of drawn ones: a table with columns anchor, positive, negative and perhaps condition,
    or a folder of the reference's integer lists with filenames.json. All are used."""
    train_triplets: int = 200_000
    """Training triplets per condition."""
    validation_triplets: int = 5_000
    """Validation triplets per condition."""
    test_triplets: int = 20_000
    """Test triplets per condition."""
    seed: int = 0
    """Seed of the split and the triplets. Separate from `seed`, so that several training seeds share one test set."""


@dataclass(frozen=True)
class PreprocessConfig:
    """From an image file to the backbone's input, the same in training, embed and search."""

    size: int = 32
    """Height and width in pixels."""
    flip: bool = False
    """Flip each training image left to right with probability one half. Do not use it for characters."""
    mean: tuple[float, ...] = (0.10,)
    """Mean per channel, on the scale 0 to 1."""
    std: tuple[float, ...] = (0.29,)
    """Standard deviation per channel, on the scale 0 to 1."""
    fit: Literal["crop", "pad"] = "crop"
    """How a picture becomes square. crop: cut to its centre, as in the reference; pad: kept whole, with white beside
    it, for wide or tall products."""

    @property
    def form(self) -> tuple[int, int, str]:
        """The form of decoded pictures: (size, channels, fit)."""
        return self.size, len(self.mean), self.fit


@dataclass(frozen=True)
class LossConfig:
    """L = L_T + embedding_weight * L_W + mask_weight * L_M (paper, section 3.2)."""

    name: Literal["triplet", "batch_all", "batch_hard"] = "triplet"
    """triplet: L_T over drawn triplets, as in the paper. The others use batches of labelled items with all labels.
    batch_all: the mean over all active triplets in the batch; batch_hard: the mean over each item's hardest triplet per
    condition, which is that of its farthest positive and nearest negative if these are alike or not."""
    margin: float = 0.2
    """Margin of the triplet hinge, h."""
    embedding_weight: float = 5e-3
    """Weight of the norm of the unmasked embeddings, lambda 1."""
    mask_weight: float = 5e-4
    """Weight of the L1 norm of the masks, lambda 2."""


@dataclass(frozen=True)
class MapsConfig:
    """The variant maps."""

    rank: int = 0
    """Rows of each map, r; 0: 32, or more for a condition of many values."""
    axes: int = 0
    """Principal axes of data.vectors that maps weigh, k; 0: 256, or fewer if the training items are fewer."""
    pulls: tuple[float, ...] = ()
    """Weights of a pull of each map towards the raw geometry; validation chooses one per condition. Empty: 0.001,
    0.0001 and 0 for fewer than 2,000 training items, else 0."""


@dataclass(frozen=True)
class Config:
    """One run. `csn_jax train` without flags trains with these defaults."""

    variant: Literal["standard", "specialists", "fixed", "learned", "learned_disjoint", "maps"] = "learned"
    """How masks are initialised and whether they train (paper, section 4); maps: a matrix per condition instead of a
    mask, on data.vectors as they are or on the embedding of images."""
    seed: int = 0
    """Seed of initial weights and masks, order of batches, and augmentation."""
    batch_size: int = 128
    """Triplets per step, over all devices; items per step with the loss batch_all or batch_hard."""
    steps: int = 1_200
    """Length of training, in steps."""
    learning_rate: float = 2e-3
    """Learning rate of Adam, before the schedule."""
    schedule: Literal["exponential", "cosine"] = "cosine"
    """exponential: times schedule_decay^epoch, epochs from 1, as in the reference; cosine: to 0 at the last step."""
    schedule_decay: float = 0.985
    """Factor per epoch of the exponential schedule."""
    batch_statistics: Literal["by_role", "shared", "running"] = "by_role"
    """Batch norm over triplets. by_role: anchors, positives and negatives each by themselves, as in the reference;
    shared: all three as one batch. Use shared for conditions with few values: statistics by role leak which item is
    the negative, and training learns that instead. running: batch norms keep the statistics and parameters that
    backbone.init gave them, to fine-tune small batches."""
    feed: Literal["tfdata", "device", "auto"] = "tfdata"
    """tfdata: tf.data prepares batches on the host; device: all items lie on the accelerator; auto: device if they take
    at most a quarter of its memory. The batches are the same."""
    log_every: int = 50
    """Steps between lines of training metrics."""
    eval_every: int = 200
    """Steps between measurements of the validation triplet error. The last step is always measured."""
    checkpoint_every: int = 200
    """Steps between checkpoints. The best on validation is kept as well."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    data: DataConfig = field(default_factory=DataConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    maps: MapsConfig = field(default_factory=MapsConfig)
    fine_tune: FineTuneConfig = field(default_factory=FineTuneConfig)
    patience: int = 0
    """Measurements on validation without a new best, after which training ends; 0: training never ends early."""

    @property
    def maps_vectors(self) -> bool:
        """Whether the items' vectors themselves are the embeddings, under maps."""
        return self.variant == "maps" and self.backbone.name == "projection"

    def validate(self) -> None:
        """Check every value.

        Raises:
            UserError: naming a field outside its type, choices or range, the value and the valid choices.
        """
        check_types(self, "config")
        values = flat(dataclasses.asdict(self))
        for name, least in LEAST.items():
            if values[name] < least:
                raise UserError(f"config.{name} is {values[name]}; give a whole number of at least {least}.")
            if name.endswith("seed") and values[name] >= 1 << 32:
                raise UserError(f"config.{name} is {values[name]}; give a whole number below {1 << 32}.")
        positive = ("learning_rate", "schedule_decay", "loss.margin", "backbone.learning_rate_ratio")
        for name in (*positive, "fine_tune.layer_decay"):
            if not 0 < values[name] < math.inf:
                raise UserError(f"config.{name} is {values[name]}; give a number above 0.")
        for name in ("loss.embedding_weight", "loss.mask_weight", "fine_tune.weight_decay", "fine_tune.clip"):
            if not 0 <= values[name] < math.inf:
                raise UserError(f"config.{name} is {values[name]}; give a number of at least 0.")
        if self.loss.name != "triplet" and self.data.triplets:
            raise UserError(
                f"config.loss.name is {self.loss.name}, which learns from labels, and config.data.triplets names "
                "triplets of your own; use --config.loss.name=triplet, or leave config.data.triplets empty."
            )
        if not all(0 <= pull < math.inf for pull in self.maps.pulls):
            raise UserError(f"config.maps.pulls is {self.maps.pulls}; give numbers of at least 0.")
        if self.variant == "maps" and self.loss.name != "triplet":
            raise UserError(f"config.loss.name is {self.loss.name}, but maps learn from triplets; use triplet.")
        if self.maps_vectors and self.backbone.hidden:
            hidden = f"config.backbone.hidden is {self.backbone.hidden}"
            raise UserError(f"{hidden}, but maps take the vectors as they are; give 0, or another variant.")
        if self.backbone.name == "projection" and self.backbone.freeze:
            freeze = f"config.backbone.freeze is {self.backbone.freeze!r}"
            raise UserError(f"{freeze}, but a projection has no pretrained part; leave it empty.")
        parts = (*STAGES.get(self.backbone.name, ()), "all")
        if self.backbone.freeze not in ("", *parts):
            near = did_you_mean(self.backbone.freeze, parts)
            raise UserError(
                f"config.backbone.freeze is {self.backbone.freeze!r}{near}; {self.backbone.name} can freeze "
                f"{', '.join(parts)}, or nothing if it is empty."
            )
        if self.backbone.name in VITS:
            patch, size = VITS[self.backbone.name].patch, self.preprocess.size
            if size % patch:
                near = " or ".join(str(n * patch) for n in (size // patch, size // patch + 1) if n)
                taken = f"{self.backbone.name} takes multiples of {patch}"
                raise UserError(f"config.preprocess.size is {size}, but {taken}; give {near}.")
        elif self.backbone.rematerialise:
            raise UserError(
                f"config.backbone.rematerialise is for vision transformers, and config.backbone.name is "
                f"{self.backbone.name}; leave it False."
            )
        channels = len(self.preprocess.mean)
        if channels not in (1, 3) or len(self.preprocess.std) != channels:
            raise UserError(
                f"config.preprocess.mean has {channels} values and config.preprocess.std {len(self.preprocess.std)}; "
                "give one of each for grey images or three of each for colour images."
            )
        if not all(map(math.isfinite, self.preprocess.mean)):
            raise UserError(f"config.preprocess.mean is {self.preprocess.mean}; give finite numbers.")
        if not all(0 < deviation < math.inf for deviation in self.preprocess.std):
            raise UserError(f"config.preprocess.std is {self.preprocess.std}; give finite numbers above 0.")

    def to_json(self) -> str:
        """The config as indented JSON with sorted keys, which `from_json` reads back exactly."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str, where: str = "config.json") -> "Config":
        """Read the text of `to_json`. Missing fields take their defaults; a table of a run from before there were
        notations keeps its plain reading.

        Raises:
            UserError: when the text is not a JSON object, or a field is unknown or of another type.
        """
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is not JSON ({error}); restore the file or give a new --workdir.") from None
        data = raw.get("data") if isinstance(raw, dict) else None
        if isinstance(data, dict) and data.get("source") in ("table", "tfds"):
            data.setdefault("notations", "plain")
        config = from_object(Config, raw, where, "config")
        try:
            config.validate()
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        return config

    def digest(self) -> str:
        """SHA-256 of the JSON form, in hex."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def brief(config: Config, size: int | None = None) -> Config:
    """The config for a run of seconds, for tests and a first look. `size`: of its images, in pixels."""
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
