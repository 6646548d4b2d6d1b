"""A picture of search results: a row for each query, then its hits with ids, distances and attributes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from csn_jax.pictures.sheets import ALIKE, GREY, OTHER, fit, font_of

SIDE = 150  # pixels of a picture
ACROSS = 10  # hits in a line
GAP = 12
LINE = 17


class Tile(NamedTuple):
    """A query or hit. lines: text and whether the query is alike in that, or None where nobody knows."""

    picture: np.ndarray | None  # uint8 [height, width, 3], as large as SIDE at most
    lines: Sequence[tuple[str, bool | None]]


def draw_hits(title: str, told: str, results: Sequence[tuple[Tile, Sequence[Tile]]]) -> Image.Image:
    """Queries on the left, each with its hits, nearest first, in lines of ACROSS beside it.

    Args:
        title: what was searched for.
        told: about how and among what, in smaller print.
        results: (query, hits).
    """
    small, step = font_of(13), SIDE + GAP
    texts = max(len(tile.lines) for query, hits in results for tile in (query, *hits))
    height = SIDE + 6 + texts * LINE + GAP
    lines = [max(1, -(-len(hits) // ACROSS)) for _, hits in results]
    across = min(ACROSS, max(1, *(len(hits) for _, hits in results)))
    left, top = GAP + step + 2 * GAP, 88  # the hits stand apart from the query
    width = max(left + across * step, int(font_of(20).getlength(title)) + 2 * GAP)
    sheet = Image.new("RGB", (width, top + sum(lines) * height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 10), fit(title, font_of(20), width - 2 * GAP), fill="black", font=font_of(20))
    draw.text((GAP, 38), fit(told, small, width - 2 * GAP), fill=GREY, font=small)
    draw.text((GAP, top - 20), "query", fill=GREY, font=small)
    draw.text((left, top - 20), "nearest first", fill=GREY, font=small)
    y = top
    for (query, hits), n in zip(results, lines, strict=True):
        _tile(sheet, draw, query, GAP, y)
        for place, hit in enumerate(hits):
            _tile(sheet, draw, hit, left + place % ACROSS * step, y + place // ACROSS * height)
        y += n * height
    return sheet


def _tile(sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, x: int, y: int) -> None:
    small = font_of(13)
    if tile.picture is None:
        draw.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), outline="#cccccc")
        draw.text((x + SIDE // 2, y + SIDE // 2), "no picture", fill=GREY, font=small, anchor="mm")
    else:
        picture = Image.fromarray(np.ascontiguousarray(tile.picture))
        times = SIDE / max(picture.size)
        small_pixels = times >= 2  # what a network of small pictures sees, which smoothing would blur
        picture = picture.resize(
            [int(side * (times // 1 if small_pixels else times)) for side in picture.size],
            Image.Resampling.NEAREST if small_pixels else Image.Resampling.BICUBIC,
        )
        sheet.paste(picture, (x + (SIDE - picture.width) // 2, y + (SIDE - picture.height) // 2))
        draw.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), outline="#e6e6e6")
    for i, (text, alike) in enumerate(tile.lines):
        colour = {True: ALIKE, False: OTHER, None: "black" if i == 0 else GREY}[alike]
        draw.text((x, y + SIDE + 5 + i * LINE), fit(text, small, SIDE), fill=colour, font=small)
