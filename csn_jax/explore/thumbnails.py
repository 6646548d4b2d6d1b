"""Thumbnails of items, side by side on sheets."""

import io

import numpy as np
from PIL import Image

SHEET = 2048  # pixels per side of a sheet: every browser takes that many


def side_of(inputs: np.ndarray, rows: np.ndarray) -> int:
    """Pixels per side of a thumbnail: the input's own, up to what a browser can hold for so many items."""
    return min(inputs.shape[1], 96 if len(rows) <= 3000 else 64)


def draw_sheets(inputs: np.ndarray, rows: np.ndarray, ink: bool) -> dict[str, bytes]:
    """Sheets of thumbnails, filled row by row, by file name.

    Args:
        inputs: [N, S, S, 1 or 3] uint8.
        rows: [n] positions.
        ink: whether pixels are amounts of ink. The page then draws them in the colour of its text.
    """
    side, channels = side_of(inputs, rows), inputs.shape[3]
    across = SHEET // side
    kind = "png" if channels == 1 else "webp"
    sheets = {}
    for first in range(0, len(rows), across * across):
        shown = rows[first : first + across * across]
        height = -(-len(shown) // across) * side
        sheet = np.zeros((height, SHEET, channels), np.uint8)
        for i, pixels in enumerate(inputs[shown]):
            if pixels.shape[0] != side:
                picture = Image.fromarray(pixels.squeeze()).resize((side, side), Image.Resampling.LANCZOS)
                pixels = np.asarray(picture).reshape(side, side, channels)
            top, left = i // across * side, i % across * side
            sheet[top : top + side, left : left + side] = pixels
        picture = Image.fromarray(sheet.squeeze(axis=2) if channels == 1 else sheet)
        if ink:  # as the opacity of black
            picture = Image.merge("LA", (Image.new("L", picture.size), picture))
        buffer = io.BytesIO()
        picture.save(buffer, kind, quality=90)
        sheets[f"pictures_{len(sheets)}.{kind}"] = buffer.getvalue()
    return sheets
