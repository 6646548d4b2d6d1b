"""Image maps, as in the paper: items placed by their masked embedding, each picture in a cell of a regular grid."""

import numpy as np
import scipy.optimize
from PIL import Image, ImageDraw

from csn_jax.data.item_set import ItemSet
from csn_jax.pictures.sheets import GREY, as_bytes, fit, font_of

ITEMS_PER_VALUE = 10  # on average; with fewer, a map shows no groups
CELLS_PER_ITEM = 1.2  # the spare cells stay empty, between the groups


def choose_items(items: ItemSet, rows: np.ndarray, n: int) -> tuple[np.ndarray, tuple[str, int, int] | None]:
    """Sorted positions of up to n items, drawn at random from a fixed seed, and None. If that leaves too few items per
    value to show groups, all items of a few values of that condition instead, and (condition, number of values shown,
    number of all its values)."""
    rng = np.random.default_rng(0)
    if len(rows) <= n:
        return np.sort(rows), None
    columns = {name: items.labels[name][rows] for name, kind in items.conditions if kind == "categorical"}
    values = {name: np.unique(column[column != ""]) for name, column in columns.items()}
    most = max(values, key=lambda name: len(values[name]), default=None)
    if most is None or len(values[most]) * ITEMS_PER_VALUE <= n:
        return np.sort(rng.choice(rows, n, replace=False)), None
    order = rng.permutation(values[most])
    counts = np.array([(columns[most] == value).sum() for value in order])
    shown = order[: max(2, int((np.cumsum(counts) <= n).sum()))]
    chosen = rows[np.isin(columns[most], shown)]
    if len(chosen) > n:
        chosen = rng.choice(chosen, n, replace=False)
    return np.sort(chosen), (most, len(shown), len(order))


def to_grid(places: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """(cells [n, 2] int, (lines, columns)): a cell of its own, as (line, column) from the top left, for each of the
    places [n, 2], x to the right and y up, so that the sum of squared distances is as small as possible."""
    extent = np.maximum(np.ptp(places, axis=0), 1e-9)
    ratio = float(np.clip(extent[0] / extent[1], 0.8, 1.6))
    n_cells = len(places) * CELLS_PER_ITEM
    columns = max(1, round((n_cells * ratio) ** 0.5))
    lines = -(-int(n_cells + 0.999) // columns)
    target = np.stack(np.meshgrid(np.arange(columns), np.arange(lines)), axis=-1).reshape(-1, 2)  # x, y of each cell
    scaled = (places - places.min(axis=0)) / extent * [columns - 1, lines - 1]
    scaled[:, 1] = lines - 1 - scaled[:, 1]  # lines are counted from the top
    squares = (scaled**2).sum(1)[:, None] + (target**2).sum(1) - 2 * scaled @ target.T
    _, cell = scipy.optimize.linear_sum_assignment(squares)
    return target[cell][:, ::-1], (lines, columns)


def draw_map(pictures: np.ndarray, places: np.ndarray, title: str, subtitle: str, *, ink: bool) -> bytes:
    """A PNG of pictures uint8 [n, S, S, 1 or 3], near their places [n, 2]. With `ink`, pixels are amounts of ink, to be
    drawn dark on white."""
    cells, (lines, columns) = to_grid(places)
    side = min(max(pictures.shape[1], 32), 48)
    step, top, gap = side + 2, 52, 8
    width = max(columns * step + 2 * gap, 640)
    left = (width - columns * step) // 2
    sheet = Image.new("RGB", (width, top + lines * step + gap), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((gap, 6), fit(title, font_of(20), width - 2 * gap), fill="black", font=font_of(20))
    draw.text((gap, 31), fit(subtitle, font_of(13), width - 2 * gap), fill=GREY, font=font_of(13))
    for pixels, (line, column) in zip(pictures, cells, strict=True):
        picture = Image.fromarray((255 - pixels if ink else pixels).squeeze())
        if picture.width != side:
            picture = picture.resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(picture, (left + int(column) * step, top + int(line) * step))
    return as_bytes(sheet.save, "PNG")
