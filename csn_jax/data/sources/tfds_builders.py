"""TFDS builders of two sources: `Fonts` and `Zappos50k`. Importing this module registers them.

    tfds build fonts --imports=csn_jax.data.sources.tfds_builders --config=64 --manual_dir=FOLDER
    tfds build zappos50k --imports=csn_jax.data.sources.tfds_builders --manual_dir=FOLDER

The command `tfds` needs Apache Beam, which the extra `beam` of this package installs. Python needs none:

    import tensorflow_datasets as tfds, csn_jax.data.sources.tfds_builders
    tfds.builder("fonts/64").download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=FOLDER))

FOLDER holds the font files, or the two unpacked archives of UT-Zappos50K. A data set has one split, `train`, with all
items; csn_jax splits them by item, font or product. The metadata holds the digest of the source files.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from csn_jax.data.cache import file_digest
from csn_jax.data.sources import fonts, zappos50k
from csn_jax.data.sources.font_faces import Face, faces_in
from csn_jax.data.sources.tfds import ALL_DIFFER

Examples = Iterator[tuple[str, dict[str, Any]]]
FONTS_AT_A_TIME = 64  # per element of a Beam pipeline: each element starts a worker process
KINDS = dict((*zappos50k.CONDITIONS, *zappos50k.OTHERS))

CITATION = """
@inproceedings{veit2017conditional, title = {Conditional Similarity Networks}, year = {2017},
  author = {Veit, Andreas and Belongie, Serge and Karaletsos, Theofanis},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)}}
"""
ZAPPOS_CITATION = """
@inproceedings{yu2014fine, title = {Fine-Grained Visual Comparisons with Local Learning}, year = {2014},
  author = {Yu, Aron and Grauman, Kristen},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition (CVPR)}}
"""


@dataclasses.dataclass(kw_only=True)
class FontsConfig(tfds.core.BuilderConfig):
    """size: height and width of an image in pixels. beam: render in an Apache Beam pipeline, for many fonts."""

    size: int = 64
    beam: bool = False


class Fonts(tfds.core.GeneratorBasedBuilder):
    """Font files rendered to one grey image for each of 62 characters."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "As source `fonts` of csn_jax 0.1 renders them."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put font files (ttf, otf, ttc, woff or woff2), in any folders, below manual_dir."
    BUILDER_CONFIGS = [
        FontsConfig(name="64", description="64 x 64 pixels."),
        FontsConfig(name="64_beam", description="The same, rendered by Beam (extra `beam`).", beam=True),
        FontsConfig(name="32", description="32 x 32 pixels.", size=32),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size
        return tfds.core.DatasetInfo(
            builder=self,
            description="62 characters of every font, white on black, each glyph whole and centred by its ink.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(size, size, 1), encoding_format="png"),
                    "character": tfds.features.ClassLabel(names=list(fonts.CHARACTERS)),
                    "font": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "character"),
            citation=CITATION,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        files = fonts.font_files(Path(dl_manager.manual_dir))
        self.info.metadata["sha256"] = _digest_of(files)
        self.info.metadata[ALL_DIFFER] = True  # fonts that draw the same pixels are left out
        return {"train": self._generate_examples(faces_in(files))}

    def _generate_examples(self, faces: dict[str, Face]) -> Any:
        size = self.builder_config.size
        return render_on_beam(faces, size) if self.builder_config.beam else render_here(faces, size)


def render_here(faces: dict[str, Face], size: int) -> Examples:
    """The characters of all usable fonts, rendered on this machine."""
    for images, (name, fault, twin) in fonts.render_all(faces, size):
        fonts.say_left_out(name, fault, twin)
        if images is not None:
            yield from glyph_examples(name, images)


def render_on_beam(faces: dict[str, Face], size: int) -> Any:
    """The same as a Beam transform. The first of the fonts that draw the same pixels is kept."""
    import apache_beam as beam

    numbered = [(number, name, face) for number, (name, face) in enumerate(faces.items())]
    batches = [(numbered[start : start + FONTS_AT_A_TIME], size) for start in range(0, len(faces), FONTS_AT_A_TIME)]
    return (
        beam.Create(batches)
        | "spread" >> beam.Reshuffle()
        | "render" >> beam.FlatMap(_render_batch)
        | "first of twins" >> beam.CombinePerKey(min)  # the smallest number
        | "characters" >> beam.FlatMapTuple(lambda _, face: glyph_examples(face[1], face[2]))
    )


def _render_batch(batch: tuple[list[tuple[int, str, Face]], int]) -> Iterator[tuple[bytes, tuple[int, str, bytes]]]:
    """(digest of the pixels, (number, name, pixels)) of each usable font of a batch."""
    numbered, size = batch
    rendered = fonts.render_faces({name: face for _, name, face in numbered}, size, workers=1)
    for (number, _, _), (name, images, _) in zip(numbered, rendered, strict=True):
        if images is not None:
            pixels = images.tobytes()
            yield hashlib.sha256(pixels).digest(), (number, name, pixels)


def glyph_examples(name: str, images: np.ndarray | bytes) -> Examples:
    """(id, example) of each character of a font, from its images uint8 [62, S, S] or their bytes."""
    if isinstance(images, bytes):
        side = round((len(images) / len(fonts.CHARACTERS)) ** 0.5)
        images = np.frombuffer(images, np.uint8).reshape(-1, side, side)
    rows = fonts.glyph_rows(images[None], [name])
    for i, name in enumerate(rows.ids.tolist()):
        labels = {label: str(column[i]) for label, column in rows.labels.items()}
        yield name, {"id": name, "image": rows.inputs[i], **labels}


class Zappos50k(tfds.core.GeneratorBasedBuilder):
    """UT-Zappos50K with its labels."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "As source `zappos50k` of csn_jax 0.1 reads it."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Unpack the two archives of vision.cs.utexas.edu/projects/finegrained/utzap50k, for academic use only, so that "
        f"manual_dir holds {zappos50k.IMAGES} and {zappos50k.TABLE}."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        text, image = tfds.features.Text(), tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
        labels = {name: tfds.features.Sequence(text) if kind == "set" else text for name, kind in KINDS.items()}
        return tfds.core.DatasetInfo(
            builder=self,
            description="Catalogue pictures of shoes. Unknown labels are empty; the heel is a level from 0 to 6.",
            features=tfds.features.FeaturesDict({"id": text, "image": image, **labels}),
            homepage="https://vision.cs.utexas.edu/projects/finegrained/utzap50k",
            citation=ZAPPOS_CITATION + CITATION,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        folder = Path(dl_manager.manual_dir)
        shoes, _ = zappos50k.read_catalogue(folder)
        files = {shoe.id: shoe.path for shoe in shoes}
        self.info.metadata["sha256"] = _digest_of(files | {zappos50k.TABLE: folder / zappos50k.TABLE})
        return {"train": self._generate_examples(shoes)}

    def _generate_examples(self, shoes: list[zappos50k.Shoe]) -> Examples:
        for shoe in shoes:
            labels = {
                name: [member for member in value.split(";") if member] if KINDS[name] == "set" else value
                for name, value in shoe.labels.items()
            }
            yield shoe.id, {"id": shoe.id, "image": str(shoe.path), **labels}


def _digest_of(files: dict[str, Path]) -> str:
    """SHA-256, in hex, of the names and contents of source files."""
    hasher = hashlib.sha256()
    for name, path in files.items():
        hasher.update(f"{name}\0{file_digest(path)}\n".encode())
    return hasher.hexdigest()
