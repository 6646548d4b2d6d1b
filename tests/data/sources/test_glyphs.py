"""The typefaces inside the package."""

import csv
import io
import subprocess
import sys
import zipfile
from importlib import resources

import numpy as np
import pytest

from csn_jax.data.sources import glyphs
from csn_jax.data.sources.fonts import CHARACTERS
from experiments.make_glyph_pack import LICENCE_NAMES


@pytest.fixture(scope="module")
def pack() -> tuple[list[str], np.ndarray]:
    return glyphs.read_pack()


def test_faces_and_shape(pack):
    """At least 300 faces with different names; 62 characters of 32x32 pixels with 16 grey levels each."""
    faces, images = pack
    assert len(faces) == len(set(faces)) >= 300 and all(faces)
    assert images.shape == (len(faces), len(CHARACTERS), 32, 32) and len(CHARACTERS) == 62
    assert images.dtype == np.uint8 and images.max() == 255 and images.min() == 0
    assert len(np.unique(images)) == 16


def test_glyphs_are_not_blank_and_differ(pack):
    """Within a face; faces differ too."""
    faces, images = pack
    assert images.any(axis=(2, 3)).all()
    for face, glyph in zip(faces, images, strict=True):
        assert len({image.tobytes() for image in glyph}) == 62, face
    assert len({face.tobytes() for face in images}) == len(faces)


def test_glyphs_are_whole_and_centred(pack):
    """Each has a free border, and its ink is centred to a pixel."""
    _, images = pack
    ink = images.reshape(-1, 32, 32) > 0
    for lines in (ink.any(axis=2), ink.any(axis=1)):
        before, after = lines.argmax(axis=1), lines[:, ::-1].argmax(axis=1)
        assert min(before.min(), after.min()) >= 2
        assert np.abs(before - after).max() <= 2


def test_characters_are_in_the_order_of_their_names(pack):
    """The mean image of a character over half of the faces is nearest to its mean image over the other half, except for
    a few look-alikes."""
    _, images = pack
    halves = [images[i::2].astype(np.float64).mean(axis=0).reshape(62, -1) for i in (0, 1)]
    nearest = np.linalg.norm(halves[0][:, None] - halves[1][None], axis=-1).argmin(axis=1)
    assert (nearest == np.arange(62)).mean() > 0.95


def test_licences_cover_every_face(pack):
    """One row per face, in order, with an open licence and a copyright line."""
    faces, _ = pack
    with open(glyphs.LICENCES, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["family"] for row in rows] == faces
    assert {row["licence"] for row in rows} <= set(LICENCE_NAMES) == {"OFL-1.1", "Apache-2.0"}
    assert all(row["copyright"].strip() and row["package"] and row["version"] for row in rows)


def test_pack_is_small_and_holds_plain_arrays():
    """Below 2.5 MB."""
    assert glyphs.PACK.stat().st_size < 2_500_000
    with zipfile.ZipFile(glyphs.PACK) as archive:
        assert archive.namelist() == ["faces.npy", "packed.npy"]
        for name in archive.namelist():
            array = np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)
            assert array.dtype.kind in "Uu"


def test_pack_is_package_data(tmp_path):
    """A wheel of this project holds both files."""
    files = resources.files("csn_jax.data.sources")
    assert files.joinpath("glyph_pack.npz").is_file() and files.joinpath("glyph_pack_licences.csv").is_file()
    root = glyphs.PACK.parents[3]
    if not (root / "setup.cfg").is_file():
        pytest.skip("the package is installed, and the files are there")
    built = subprocess.run(
        [sys.executable, "-c", WHEEL, str(tmp_path)], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert built.returncode == 0, built.stderr
    assert {"csn_jax/data/sources/glyph_pack.npz", "csn_jax/data/sources/glyph_pack_licences.csv"} <= set(
        built.stdout.split()
    )


# Prints the data files that setuptools would put into a wheel, without building one.
WHEEL = """
import sys
from setuptools import Distribution
d = Distribution(); d.parse_config_files(); d.script_name = "x"
command = d.get_command_obj("build_py"); command.build_lib = sys.argv[1]; command.ensure_finalized()
for package, _, _, names in command.data_files:
    print(*(f"{package.replace('.', '/')}/{name}" for name in names), sep="\\n")
"""
