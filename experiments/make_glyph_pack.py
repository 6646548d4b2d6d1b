"""Make the glyph pack that this package ships, from a folder of openly licensed fonts.

    python -m experiments.make_glyph_pack FONTS LICENCES.csv

FONTS holds files named `<family>-latin-<weight>-<style>.woff2`; LICENCES.csv has the columns family, licence, package,
version, copyright. Only families listed there under OFL-1.1 or Apache-2.0 are taken, one face each. The pack is
written beside this file, with the licence lines of the families in it.
"""

import argparse
import csv
import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from csn_jax.data.sources.fonts import CHARACTERS, font_files, render_files
from csn_jax.data.sources.glyphs import LICENCES, PACK, SIZE

LICENCE_NAMES = ("OFL-1.1", "Apache-2.0")
READABLE = 0.35  # of a face's characters must be nearest to the mean shape of their own character
APART = 0.02  # mean absolute difference of two faces, on the scale 0 to 1, below which they look alike
LEVELS = 16  # grey levels kept; more cost bytes and show no difference at this size


def shapes(images: np.ndarray) -> np.ndarray:
    """[..., S, S] uint8 -> [..., 144] unit vectors of the ink inside its own box, so that size plays no part."""
    flat = images.reshape(-1, *images.shape[-2:])
    vectors = np.empty((len(flat), 144), np.float32)
    for i, image in enumerate(flat):
        ink = Image.fromarray(image).crop(Image.fromarray(image).getbbox())
        vectors[i] = np.asarray(ink.resize((12, 12), Image.Resampling.BILINEAR), np.float32).ravel()
    vectors -= vectors.mean(axis=1, keepdims=True)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-6
    return vectors.reshape(*images.shape[:-2], 144)


def readability(images: np.ndarray) -> np.ndarray:
    """[faces, 62, S, S] -> the share of each face's characters whose nearest mean shape is their own. Barcodes,
    redaction blocks and symbols under letter codes stand near 1/62."""
    vectors = shapes(images)
    means = vectors.mean(axis=0)
    nearest = np.einsum("fcd,kd->fck", vectors, means).argmax(axis=-1)
    return (nearest == np.arange(len(CHARACTERS))).mean(axis=1)


def choose(names: list[str], images: np.ndarray) -> list[int]:
    """Readable faces, leaving out each that looks like one chosen before."""
    kept: list[int] = []
    readable = readability(images)
    for i in range(len(names)):
        if len(np.unique(images[i].reshape(len(CHARACTERS), -1), axis=0)) < len(CHARACTERS):
            print(f"left out {names[i]}: two characters are equal to the pixel")
        elif readable[i] < READABLE:
            print(f"left out {names[i]}: only {readable[i]:.0%} of its characters look like themselves")
        else:
            gaps = [np.abs(images[i].astype(np.int16) - images[k]).mean() / 255 for k in kept]
            if gaps and min(gaps) < APART:
                print(f"left out {names[i]}: looks like {names[kept[int(np.argmin(gaps))]]}")
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

    faces: dict[str, tuple[str, np.ndarray]] = {}  # family -> its first usable face, upright regular before others
    for face in render_files(font_files(args.fonts), SIZE, workers=2):
        family, _, style = face.name.partition("-latin-")
        if family not in licences:
            continue
        if face.fault:
            print(f"left out {face.name}: {face.fault}")
        elif family not in faces or (style == "400-normal" and faces[family][0] != "400-normal"):
            faces[family] = (style, face.images)
    families = sorted(faces)
    images = np.stack([faces[family][1] for family in families])
    images = np.round(images / 255 * (LEVELS - 1)).astype(np.uint8) * (255 // (LEVELS - 1))
    kept = choose(families, images)
    families, images = [families[i] for i in kept], images[kept]

    # Two pixels a byte and LZMA inside an ordinary .npz: numpy reads it, at half the size of deflate.
    nibbles = (images // (255 // (LEVELS - 1))).reshape(len(images), len(CHARACTERS), -1)
    packed = nibbles[..., 0::2] << 4 | nibbles[..., 1::2]
    arrays = {"faces": np.array(families), "packed": packed.astype(np.uint8)}
    with zipfile.ZipFile(PACK, "w", compression=zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            # A fixed date: the same fonts give the same bytes.
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
