"""Make the glyph pack of the package from a folder of openly licensed fonts.

    python -m experiments.make_glyph_pack FONTS LICENCES.csv

FONTS holds files named `<family>-latin-<weight>-<style>.woff2`. LICENCES.csv has the columns family, licence, package,
version, copyright. Takes one face of each family that is listed there under OFL-1.1 or Apache-2.0. Writes the pack, and
the licences of its families, to the paths that csn_jax/data/sources/glyphs.py names.
"""

import argparse
import csv
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from csn_jax.data.sources.font_faces import faces_in
from csn_jax.data.sources.fonts import CHARACTERS, font_files, render_faces
from csn_jax.data.sources.glyphs import LICENCES, PACK, SIZE

LICENCE_NAMES = ("OFL-1.1", "Apache-2.0")
READABLE = 0.35  # least share of a face's characters that are nearest to the mean shape of their own character
APART = 0.02  # two faces look alike below this mean absolute difference, on the scale 0 to 1
LEVELS = 16  # grey levels in the pack; more levels cost bytes and look the same at this size


def shapes(images: np.ndarray) -> np.ndarray:
    """[..., S, S] uint8 -> [..., 144] unit vectors of the ink, cropped to its own box so that size does not count."""
    flat = images.reshape(-1, *images.shape[-2:])
    vectors = np.empty((len(flat), 144), np.float32)
    for i, image in enumerate(flat):
        ink = Image.fromarray(image).crop(Image.fromarray(image).getbbox())
        vectors[i] = np.asarray(ink.resize((12, 12), Image.Resampling.BILINEAR), np.float32).ravel()
    vectors -= vectors.mean(axis=1, keepdims=True)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-6
    return vectors.reshape(*images.shape[:-2], 144)


def readability(images: np.ndarray) -> np.ndarray:
    """[faces, 62, S, S] -> per face, the share of characters that are nearest to the mean shape of their own character.

    Barcodes, redaction blocks and symbol fonts have about 1/62.
    """
    vectors = shapes(images)
    means = vectors.mean(axis=0)
    nearest = np.einsum("fcd,kd->fck", vectors, means).argmax(axis=-1)
    return (nearest == np.arange(len(CHARACTERS))).mean(axis=1)


def choose(names: list[str], images: np.ndarray) -> list[int]:
    """The rows of readable faces, without faces that look like an earlier one."""
    kept: list[int] = []
    readable = readability(images)
    for i in range(len(names)):
        if len(np.unique(images[i].reshape(len(CHARACTERS), -1), axis=0)) < len(CHARACTERS):
            print(f"skipped {names[i]}: two characters are equal to the pixel")
        elif readable[i] < READABLE:
            print(f"skipped {names[i]}: only {readable[i]:.0%} of its characters look like themselves")
        else:
            gaps = [np.abs(images[i].astype(np.int16) - images[k]).mean() / 255 for k in kept]
            if gaps and min(gaps) < APART:
                print(f"skipped {names[i]}: looks like {names[kept[int(np.argmin(gaps))]]}")
            else:
                kept.append(i)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("fonts", type=Path)
    parser.add_argument("licences", type=Path)
    args = parser.parse_args()
    with open(args.licences, newline="", encoding="utf-8") as file:
        licences = {row["family"]: row for row in csv.DictReader(file) if row["licence"] in LICENCE_NAMES}

    faces: dict[str, tuple[str, np.ndarray]] = {}  # by family; prefers upright regular
    for name, images, fault in render_faces(faces_in(font_files(args.fonts)), SIZE):
        family, _, style = name.partition("-latin-")
        if family not in licences:
            continue
        if fault:
            print(f"skipped {name}: {fault}")
        elif family not in faces or (style == "400-normal" and faces[family][0] != "400-normal"):
            faces[family] = (style, images)
    families = sorted(faces)
    images = np.stack([faces[family][1] for family in families])
    images = np.round(images / 255 * (LEVELS - 1)).astype(np.uint8) * (255 // (LEVELS - 1))
    kept = choose(families, images)
    families, images = [families[i] for i in kept], images[kept]

    # Two pixels per byte and LZMA inside an ordinary .npz: NumPy reads it, and it has half the size of deflate.
    nibbles = (images // (255 // (LEVELS - 1))).reshape(len(images), len(CHARACTERS), -1)
    packed = nibbles[..., 0::2] << 4 | nibbles[..., 1::2]
    arrays = {"faces": np.array(families), "packed": packed.astype(np.uint8)}
    with zipfile.ZipFile(PACK, "w", compression=zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            # A fixed date, so that the same fonts give the same bytes.
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_LZMA
            archive.writestr(member, buffer.getvalue())
    with open(LICENCES, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("family", "licence", "package", "version", "copyright"), lineterminator="\n")
        writer.writeheader()
        writer.writerows(licences[family] for family in families)
    print(f"{len(families)} faces, {PACK.stat().st_size / 1e6:.2f} MB: {PACK}")


if __name__ == "__main__":
    main()
