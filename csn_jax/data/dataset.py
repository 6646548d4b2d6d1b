"""Config -> the items and triplets of a run, with the record that a workdir keeps of them."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import features

from csn_jax.config import Config, DataConfig, did_you_mean
from csn_jax.data import glyphs
from csn_jax.data.cache import cached, file_digest
from csn_jax.data.fonts import CHARACTERS, font_files, render_files
from csn_jax.data.item_set import SPLITS, Condition, ItemSet, choose_conditions, split_items
from csn_jax.data.triplets import Triplets, draw_triplets
from csn_jax.errors import UserError
from csn_jax.runtime.writer import Progress, say


class Dataset(NamedTuple):
    """Items, the triplets of each split, and the record for data.json."""

    items: ItemSet
    triplets: dict[str, Triplets]
    record: dict


def load_dataset(config: Config) -> Dataset:
    """Read or render the items that a config names, split them, and draw the triplets of every split.

    Raises:
        UserError: for a missing or unusable source, an unknown condition or label, a condition without triplets.
    """
    data = config.data
    images, faces = read_glyphs(config) if data.source == "glyphs" else read_fonts(data, config.preprocess.size)
    items = glyph_items(images, faces, data)
    if items.inputs.shape[-1] != len(config.preprocess.mean):
        raise UserError(
            f"config.preprocess.mean has {len(config.preprocess.mean)} values and images of source {data.source} have "
            f"{items.inputs.shape[-1]} channel; give one value for each channel, in mean and in std."
        )
    counts = (data.train_triplets, data.validation_triplets, data.test_triplets)
    triplets = {
        split: draw_triplets(items, split, count, data.seed) for split, count in zip(SPLITS, counts, strict=True)
    }
    n_train = len(triplets["train"].anchor)
    if config.batch_size > n_train:
        raise UserError(
            f"config.batch_size is {config.batch_size} and there are {n_train} training triplets; give a batch of at "
            "most that size, or more data.train_triplets."
        )
    return Dataset(items, triplets, _record(config, items, triplets))


def _record(config: Config, items: ItemSet, triplets: dict[str, Triplets]) -> dict:
    return {
        "source": config.data.source,
        "conditions": [condition._asdict() for condition in items.conditions],
        "split_unit": config.data.split_by or "item",
        "input_shape": list(items.inputs.shape[1:]),
        "items": {split: int((items.split == split).sum()) for split in SPLITS},
        "triplets": {split: len(triplets[split].anchor) for split in SPLITS},
        "items_sha256": items.digest(),
        "triplets_sha256": {split: triplets[split].digest() for split in SPLITS},
    }


def glyph_items(images: np.ndarray, faces: list[str], data: DataConfig) -> ItemSet:
    """Images [faces, 62, S, S] as items with the conditions character and font; an id is `face/character`."""
    n_faces, n_characters, size, _ = images.shape
    labels = {
        "character": np.tile(np.array(list(CHARACTERS)), n_faces),
        "font": np.repeat(np.array(faces), n_characters),
    }
    conditions = choose_conditions(tuple(Condition(name, "categorical") for name in labels), data.conditions)
    if data.split_by and data.split_by not in labels:
        raise UserError(
            f"config.data.split_by names {data.split_by!r}{did_you_mean(data.split_by, labels)}; "
            f"this source has {', '.join(labels)}."
        )
    n = n_faces * n_characters
    return ItemSet(
        inputs=images.reshape(n, size, size, 1),
        ids=np.char.add(np.char.add(labels["font"], "/"), labels["character"]),
        labels=labels,
        split=split_items(n, labels[data.split_by] if data.split_by else None, data.seed),
        conditions=conditions,
    )


def read_glyphs(config: Config) -> tuple[np.ndarray, list[str]]:
    """The embedded pack: images [faces, 62, 32, 32] and the faces' names."""
    if config.preprocess.size != glyphs.SIZE:
        raise UserError(
            f"config.preprocess.size is {config.preprocess.size} and the embedded glyphs are {glyphs.SIZE} pixels; use "
            f"--config.preprocess.size={glyphs.SIZE}, or render fonts with --config=configs/fonts.py."
        )
    faces, images = glyphs.read_pack()
    return images, faces


def read_fonts(data: DataConfig, size: int) -> tuple[np.ndarray, list[str]]:
    """Render a folder of fonts, or open the cache of an earlier rendering: images [faces, 62, S, S] and their names.

    Fonts that cannot serve are left out, each told with its reason.
    """
    folder = Path(data.path).expanduser()
    if not data.path or not folder.is_dir():
        raise UserError(f"config.data.path is {data.path!r}, which is no folder; give a folder of font files.")
    files = font_files(folder)
    if not files:
        raise UserError(f"config.data.path={folder} holds no font file; give a folder of .ttf, .otf, .woff or .woff2.")
    # FreeType's version is part of the key: another one may draw other pixels.
    versions = ["fonts-2", features.version("freetype2")]
    key = [versions, [[name, _digest_or_error(path)] for name, path in files.items()]]
    images, notes = cached(key, (len(files), len(CHARACTERS), size, size), partial(_render, files, size))
    faults = {name: fault for name, fault, _ in notes if fault}
    twins = {name: twin for name, _, twin in notes if twin}
    for name, fault in faults.items():
        say(f"left out font {name}: {fault}")
    for name, twin in twins.items():
        say(f"left out font {name}: draws the same pixels as {twin}")
    say(
        f"{len(files) - len(faults)} of {len(files)} fonts in {folder} are usable; {len(twins)} of these draw the same "
        f"pixels as another, which leaves {len(images)} different faces"
    )
    if len(images) < 2:
        kinds = Counter(fault.split(" (")[0] for fault in faults.values())
        told = "; ".join(f"{count} {'font' if count == 1 else 'fonts'}: {kind}" for kind, count in kinds.items())
        raise UserError(
            f"config.data.path={folder} has {len(images)} different usable faces in {len(files)} fonts and training "
            f"needs 2{f' ({told})' if told else ''}; give other fonts."
        )
    return images, [name for name, fault, twin in notes if not (fault or twin)]


def _render(files: dict[str, Path], size: int) -> Iterator[tuple[np.ndarray | None, list[str | None]]]:
    """(images or None, [name, fault, twin]) of each font. A twin is an earlier font that draws the same pixels, as when
    one file lies there twice: the images are taken once, since no network could tell the two labels apart."""
    progress = Progress("rendering fonts", len(files), unit="font")
    first: dict[bytes, str] = {}
    for face in render_files(files, size, workers=min(len(files), _usable_cores())):
        progress.advance(1)
        images, twin = face.images, None
        if images is not None:
            twin = first.setdefault(hashlib.sha256(images).digest(), face.name)
            images, twin = (images, None) if twin == face.name else (None, twin)
        yield images, [face.name, face.fault, twin]
    progress.close()


def _digest_or_error(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:  # its rendering fails too and says so; when the file can be read, the key is another
        return str(error)


def _usable_cores() -> int:
    """Cores that this process may use, which on a shared machine are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
