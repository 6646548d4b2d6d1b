"""Source `tfds`: any data set of TensorFlow Datasets with an image feature and label features.

Labels are flattened: `attributes/Male` of celeb_a is the condition `Male`, or `attributes.Male` if two features are
called `Male`. Class labels and booleans are categorical, sequences are sets; the kinds of numbers and texts are
inferred as for a table. A data set with splits for train, validation and test keeps them. Otherwise all its
items are split 70 / 10 / 20 %.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial, reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from csn_jax.config import Config, DataConfig
from csn_jax.data.cache import Made, cached
from csn_jax.data.columns import Columns
from csn_jax.data.duplicates import find_duplicates
from csn_jax.data.images import as_shown, to_square
from csn_jax.data.item_set import SPLITS, Rows
from csn_jax.data.notations import number_text, set_text
from csn_jax.data.sources.table import attributes, item_ids
from csn_jax.errors import UserError
from csn_jax.runtime.writer import say
from csn_jax.text import did_you_mean, first_sentence, listed

ALL_DIFFER = "all_differ"  # metadata of a data set whose equal-looking items are not duplicates: an l in two fonts
VALIDATION = ("validation", "val", "valid", "dev")  # names of this split in TFDS


class Label(NamedTuple):
    """A feature that can be a label: its path in an example, its value as text, its kind if the feature gives it."""

    name: str
    path: tuple[str, ...]
    text: Callable[[Any], str]
    kind: str | None


def read(config: Config) -> Rows:
    """The examples of a data set as items, resized and cached. TFDS prepares the set if needed."""
    data = config.data
    builder = _builder(data.name, data.path)
    import tensorflow as tf  # only now: _builder sets its options, and reports if it is missing

    say(f"reading {builder.info.full_name} from {builder.data_dir}")
    try:
        builder.download_and_prepare()
    except Exception as error:  # each data set fails in its own ways: networks, archives, licences
        raise UserError(
            f"TFDS cannot prepare config.data.name={data.name} ({type(error).__name__}: {first_sentence(error)}); "
            "prepare it as its page on tensorflow.org/datasets says, and give its folder as config.data.path if it is "
            "not the default."
        ) from None
    image, labels = _features(builder.info.features, data.image, data.name)
    given = _given_splits(builder.info.splits)
    splits = given or list(builder.info.splits) or ["train"]  # a mocked data set does not know its splits
    parts = {name: builder.as_dataset(split=name, shuffle_files=False) for name in splits}
    sizes = {name: int(part.cardinality()) for name, part in parts.items()}
    size, channels, fit = config.preprocess.form
    info = [builder.info.full_name, str(builder.data_dir), str(builder.info.splits), str(builder.info.metadata)]
    versions = [tf.__version__, Image.__version__]  # of the decoders: others may give other pixels
    key = ["tfds-1", versions, info, sizes, size, channels, fit, image, [label.path for label in labels]]
    shape = (sum(sizes.values()), size, size, channels)
    inputs, notes = cached(key, shape, partial(_decode_all, parts, (size, channels, fit), image, labels))
    texts = {label.name: [values[i] for _, values in notes] for i, label in enumerate(labels)}
    columns = Columns(Path(data.name), texts, None, None)
    own_split = [split for split, _ in notes]
    names = [f"{split}/{row}" for split in dict.fromkeys(own_split) for row in range(own_split.count(split))]
    own_ids = columns.text.get(data.id, [])
    if data.id == DataConfig.id and (len(set(own_ids)) < len(own_ids) or "" in own_ids):  # a feature `id` that repeats
        ids, id_column = names, ""
    else:
        ids, id_column = item_ids(columns, names, data)
    given_kinds = tuple(f"{label.name}={label.kind}" for label in labels if label.kind)
    data = dataclasses.replace(data, kinds=(*given_kinds, *data.kinds))  # the last setting counts: the user's
    labels_of, cells, conditions, others, kind_notes = attributes(columns, data, {id_column})
    return Rows(
        inputs=inputs,
        ids=np.array(ids),
        labels=labels_of,
        conditions=conditions,
        split=np.array([given[split] for split in own_split]) if given else None,
        together=None if given or (builder.info.metadata or {}).get(ALL_DIFFER) else find_duplicates(inputs).group,
        notes=kind_notes,
        others=others,
        cells=cells,
    )


def _tensorflow_datasets() -> Any:
    # Before the import: it prints a page of notices, and oneDNN is not needed.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"config.data.source is tfds and TensorFlow Datasets cannot be imported ({error}); install tensorflow and "
            "tensorflow-datasets."
        ) from None
    tf.config.set_visible_devices([], "GPU")  # the accelerator's memory belongs to JAX
    return tfds


def _builder(name: str, path: str) -> Any:
    tfds = _tensorflow_datasets()
    if not name:
        raise UserError("config.data.name is empty; give a TFDS data set, such as --config.data.name=celeb_a.")
    try:
        return tfds.builder(name, data_dir=os.path.expanduser(path) or None)  # a Path would spoil gs://
    except tfds.core.DatasetNotFoundError:
        near = did_you_mean(name, tfds.list_builders(with_community_datasets=False))
        raise UserError(
            f"config.data.name is {name!r}, which is not a TFDS data set{near}; see `tfds.list_builders()`."
        ) from None
    except Exception as error:  # a malformed name, a version, a config
        raise UserError(
            f"config.data.name is {name!r}, which TFDS cannot open ({first_sentence(error)}); give NAME, "
            "NAME/CONFIG or NAME:VERSION."
        ) from None


def _given_splits(splits: Any) -> dict[str, str]:
    """{split of the data set: split of ours} if it has all three, else {}."""
    validation = next((name for name in VALIDATION if name in splits), None)
    if validation and "train" in splits and "test" in splits:
        return dict(zip(("train", validation, "test"), SPLITS, strict=True))
    return {}


def _features(features: Any, wanted: str, name: str) -> tuple[tuple[str, ...], list[Label]]:
    """(path of the image, labels). A UserError says that one of the two is missing, or that the image must be named."""
    images, labels = {}, []
    for path, feature, many in _leaves(features):
        tfds = _tensorflow_datasets()
        if isinstance(feature, tfds.features.Image) and not many:
            images[".".join(path)] = path
        elif text := _reader(tfds, feature):
            is_name = isinstance(feature, tfds.features.ClassLabel) or feature.np_dtype == np.bool_
            kind = "set" if many else "categorical" if is_name else None
            if not (many and np.dtype(feature.np_dtype).kind == "f"):
                labels.append(Label(path[-1], path, partial(_members, text) if many else text, kind))
    if not images:
        raise UserError(f"TFDS data set {name} has no image feature; it has {listed(features)}.")
    if wanted not in images and len(images) > 1:
        raise UserError(f"TFDS data set {name} has several images; set --config.data.image to one of {listed(images)}.")
    if not labels:
        raise UserError(f"TFDS data set {name} has no feature that can be a label; it has {listed(features)}.")
    times = Counter(label.name for label in labels)
    labels = [label if times[label.name] == 1 else label._replace(name=".".join(label.path)) for label in labels]
    return images.get(wanted) or next(iter(images.values())), labels


def _leaves(feature: Any, path: tuple = (), many: bool = False) -> Iterator[tuple[tuple[str, ...], Any, bool]]:
    """(path, feature, whether it is a sequence) of each feature. Dicts are opened, and sequences once."""
    tfds = _tensorflow_datasets()
    if isinstance(feature, tfds.features.FeaturesDict):
        for name, inner in feature.items():
            yield from _leaves(inner, (*path, name), many)
    elif isinstance(feature, tfds.features.Sequence) and not isinstance(feature, tfds.features.Dataset) and not many:
        yield from _leaves(feature.feature, path, True)
    elif path:
        yield path, feature, many


def _reader(tfds: Any, feature: Any) -> Callable[[Any], str] | None:
    """A function from the value of a single feature to its text; None for a feature that cannot be a label."""
    if isinstance(feature, tfds.features.ClassLabel):
        names = feature.names if feature.num_classes is not None else None
        return lambda value: "" if value < 0 else names[value] if names else str(value)
    is_scalar = isinstance(feature, (tfds.features.Text, tfds.features.Tensor)) and feature.shape == ()
    return _plain_text if is_scalar and np.dtype(feature.np_dtype).kind in "biufOSU" else None


def _plain_text(value: Any) -> str:
    if isinstance(value, (bytes, str)):
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return text.replace("\0", "").strip()
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    value = value.item()
    return str(value) if isinstance(value, int) else "" if value != value else number_text(value)


def _members(text: Callable[[Any], str], values: Any) -> str:
    return set_text(text(value).replace(";", ",") for value in values)


def _decode_all(
    parts: dict[str, Any], form: tuple[int, int, str], image: tuple[str, ...], labels: list[Label], made: Made
) -> Iterator[tuple[np.ndarray, list[Any]]]:
    """(pixels, [split, texts of the labels]) of each example after those already made."""
    tfds = _tensorflow_datasets()
    before = len(made)
    for split, part in parts.items():
        skipped = max(0, min(before, int(part.cardinality())))  # some cardinalities are negative: unknown
        before -= skipped
        for example in tfds.as_numpy(part.skip(skipped)):
            pixels = reduce(getitem, image, example)
            if pixels.dtype not in (np.uint8, np.uint16):
                raise UserError(f"the images of this TFDS data set hold {pixels.dtype}; choose one of 8 or 16 bits.")
            if pixels.dtype == np.uint16:
                pixels = (pixels >> 8).astype(np.uint8)
            picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
            texts = [label.text(reduce(getitem, label.path, example)) for label in labels]
            yield to_square(as_shown(picture), *form), [split, texts]
