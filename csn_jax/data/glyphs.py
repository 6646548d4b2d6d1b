"""Source `glyphs`: the pack of real typefaces inside this package; conditions character and font."""

from pathlib import Path

import numpy as np

from csn_jax.data.fonts import CHARACTERS

PACK = Path(__file__).with_name("glyph_pack.npz")
LICENCES = Path(__file__).with_name("glyph_pack_licences.csv")
SIZE = 32  # pixels


def read_pack() -> tuple[list[str], np.ndarray]:
    """Names of the faces, and their images [faces, 62, 32, 32] uint8, white on black, in the order of CHARACTERS."""
    with np.load(PACK, allow_pickle=False) as pack:
        faces, packed = pack["faces"].tolist(), pack["packed"]  # [faces, 62, 512]: two 4-bit grey values a byte
    levels = np.stack([packed >> 4, packed & 15], axis=-1)
    return faces, (levels * 17).reshape(len(faces), len(CHARACTERS), SIZE, SIZE)
