"""Sheets of thumbnails for pages, in an order in which a page needs few of them at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from csn_jax.pictures.sheets import as_bytes

SHEET = 1024  # pixels per side
TOGETHER = 8192  # pictures read at a time: starting the workers that read files takes a second
NEAR = 10_000  # items up to which their own order serves: the page can hold all their sheets
CELLS = 22  # per side of a map: so many items a page shows at most before it is zoomed in


class Thumbnails(NamedTuple):
    """read(positions [m], side) -> a picture uint8 [H, W, 1 or 3] per item, or None for an item without one.

    side: the pictures' own, if they all have one. ink: whether pixels are amounts of ink.
    """

    read: Callable[[np.ndarray, int], Sequence[np.ndarray | None]]
    side: int | None = None
    ink: bool = False


class Sheets(NamedTuple):
    """files: {name: bytes}. about: what the page needs to find a thumbnail."""

    files: dict[str, bytes]
    about: dict[str, Any] | None


def side_of(n: int, own: int | None) -> int:
    """Pixels per side of n thumbnails: the pictures' own side if they have one, up to what a page can hold."""
    most = 96 if n <= 3000 else 64 if n <= 20_000 else 48
    return min(own or most, most)


def in_order(maps: np.ndarray) -> tuple[np.ndarray, int]:
    """(order [n] of items on sheets, how many of them lead) for maps [C, n, 2] between 0 and 1.

    Few items keep their order, and all lead. Of many, one in each cell of each map leads: the page shows no other
    picture before it is zoomed in, so that it needs only the first sheets. The others follow along a curve through the
    first map that keeps neighbours together.
    """
    n = maps.shape[1]
    if n <= NEAR:
        return np.arange(n), n
    mixed = np.random.default_rng(0).permutation(n)
    leads = []
    for places in maps:
        cells = np.minimum((places[mixed] * CELLS).astype(int), CELLS - 1)
        _, first = np.unique(cells[:, 0] * CELLS + cells[:, 1], return_index=True)
        leads.append(mixed[first])
    lead = np.unique(np.concatenate(leads))
    curve = np.argsort(_morton(np.minimum((maps[0] * 1024).astype(np.int64), 1023)), kind="stable")
    return np.concatenate([lead, curve[~np.isin(curve, lead)]]), len(lead)


def _morton(cells: np.ndarray) -> np.ndarray:
    """The bits of two coordinates [n, 2] of 10 bits, in turns."""
    codes = np.zeros(len(cells), np.int64)
    for bit in range(10):
        for axis in range(2):
            codes |= ((cells[:, axis] >> bit) & 1) << (2 * bit + axis)
    return codes


def draw_sheets(thumbnails: Thumbnails, order: np.ndarray, leads: int, side: int) -> Sheets:
    """Thumbnails in their order [n], row by row, each whole and centred on its square of some pixels per side. With
    ink, pixels are the opacity of black, which the page draws in the colour of its text. No sheets if there is no
    picture at all."""
    across = SHEET // side
    files: dict[str, bytes] = {}
    missing: list[int] = []
    pictures = _read(thumbnails, order, side)
    for start in range(0, len(order), across**2):
        some = [next(pictures) for _ in order[start : start + across**2]]
        missing += [item for item, picture in some if picture is None]
        channels = next((picture.shape[2] for _, picture in some if picture is not None), 3)
        paper = 0 if thumbnails.side else 255  # pixels of a run fill their square
        sheet = np.full((-(-len(some) // across) * side, SHEET, channels), paper, np.uint8)
        for place, (_, picture) in enumerate(some):
            if picture is not None:
                top, left = place // across * side, place % across * side
                _paste(sheet[top : top + side, left : left + side], picture)
        kind = "png" if channels == 1 else "webp"
        files[f"pictures_{len(files)}.{kind}"] = _encoded(sheet, kind, 90 if side > 48 else 80, thumbnails.ink)
    if len(missing) == len(order):
        return Sheets({}, None)
    about = {"files": list(files), "side": side, "sheet": SHEET, "ink": thumbnails.ink, "leads": leads}
    return Sheets(files, about | {"missing": missing})


def _read(thumbnails: Thumbnails, order: np.ndarray, side: int) -> Iterator[tuple[int, np.ndarray | None]]:
    for start in range(0, len(order), TOGETHER):
        some = order[start : start + TOGETHER]
        yield from zip(some.tolist(), thumbnails.read(some, side), strict=True)


def _paste(square: np.ndarray, picture: np.ndarray) -> None:
    """Put a picture [H, W, ch] into the middle of a square [side, side, ch], shrunk to fit."""
    side, channels = square.shape[0], square.shape[2]
    if max(picture.shape[:2]) != side:
        scale = side / max(picture.shape[:2])
        size = [max(1, round(length * scale)) for length in picture.shape[1::-1]]
        image = Image.fromarray(np.ascontiguousarray(picture).squeeze(axis=2) if channels == 1 else picture)
        picture = np.asarray(image.resize(size, Image.Resampling.LANCZOS)).reshape(size[1], size[0], channels)
    top, left = (side - picture.shape[0]) // 2, (side - picture.shape[1]) // 2
    square[top : top + picture.shape[0], left : left + picture.shape[1]] = picture


def _encoded(sheet: np.ndarray, kind: str, quality: int, ink: bool) -> bytes:
    picture = Image.fromarray(sheet[..., 0] if sheet.shape[2] == 1 else sheet)
    if ink:  # as the opacity of black
        picture = Image.merge("LA", (Image.new("L", picture.size), picture.convert("L")))
    return as_bytes(picture.save, kind, quality=quality)
