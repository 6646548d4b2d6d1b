"""Source `glyphs`: the typefaces inside this package; conditions character and font."""

from pathlib import Path

import numpy as np

from csn_jax.config import Config
from csn_jax.data.item_set import Rows
from csn_jax.data.sources.fonts import CHARACTERS, glyph_rows
from csn_jax.errors import UserError

PACK = Path(__file__).with_name("glyph_pack.npz")
LICENCES = Path(__file__).with_name("glyph_pack_licences.csv")
SIZE = 32  # pixels


def read(config: Config) -> Rows:
    """The glyphs as items with the conditions character and font."""
    if config.preprocess.size != SIZE:
        raise UserError(
            f"config.preprocess.size is {config.preprocess.size} and the embedded glyphs are {SIZE} pixels; use "
            f"--config.preprocess.size={SIZE}, or render fonts with --config=configs/fonts.py."
        )
    faces, images = read_pack()
    return glyph_rows(images, faces)


def read_pack() -> tuple[list[str], np.ndarray]:
    """(names, uint8 [faces, 62, 32, 32]) of the faces: white on black, in the order of CHARACTERS."""
    with np.load(PACK, allow_pickle=False) as pack:
        faces, packed = pack["faces"].tolist(), pack["packed"]  # [faces, 62, 512]: two 4-bit grey values per byte
    levels = np.stack([packed >> 4, packed & 15], axis=-1)
    return faces, (levels * 17).reshape(len(faces), len(CHARACTERS), SIZE, SIZE)
