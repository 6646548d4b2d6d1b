"""A picture of search results: per query a row of its hits with ids, distances and attributes. Imports JAX."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from csn_jax.config import UNKNOWN
from csn_jax.data.dataset import read_rows
from csn_jax.data.notations import sets_of
from csn_jax.data.thumbnails import read_thumbnails, shrink
from csn_jax.errors import UserError
from csn_jax.pictures.sheets import ALIKE, GREY, OTHER, fit, font_of
from csn_jax.runtime.record import GAPS
from csn_jax.runtime.workdir import read_config, write_atomically
from csn_jax.search.answers import Answers, Query
from csn_jax.store.embeddings import Embeddings

SIDE = 150  # pixels of a picture
ACROSS = 10  # hits per line
GAP = 12
LINE = 17


class Tile(NamedTuple):
    """A query or hit. lines: a text, and whether the query shares it; None if that is unknown or not compared."""

    picture: np.ndarray | None  # uint8 [height, width, 3], at most SIDE on a side
    lines: Sequence[tuple[str, bool | None]]


def save_sheet(path: Path, answers: Answers) -> None:
    """Write the pictures of queries and hits. If a query is an item, what a hit shares with it is green, and what
    differs is red."""
    index = answers.index
    kinds = dict(index.items.conditions)
    named = [name for name in answers.weights if name in index.columns]
    sets = {name: sets_of(set(index.columns[name].tolist()) - {"", *UNKNOWN})[0] or {} for name in named}

    def lines(row: int, query: int, distance: str) -> list[tuple[str, bool | None]]:
        texts: list[tuple[str, bool | None]] = [(str(index.ids[row]), None), (distance, None)]
        for name in named:
            value, wanted = (str(index.columns[name][item]) if item >= 0 else "" for item in (row, query))
            compared = row != query and kinds.get(name) not in GAPS and not {value, wanted} & {"", *UNKNOWN}
            members, others = (set(sets[name].get(text, [text])) for text in (value, wanted))
            alike = not members.isdisjoint(others) if compared else None
            texts.append((value or "-", alike))
        return texts

    hit_pictures = iter(read_pictures(index.items, [hit.row for hits in answers.hits for hit in hits], SIDE))
    files = iter(shrink([query.path for query in answers.queries if query.path], SIDE))
    items = iter(read_pictures(index.items, [query.row for query in answers.queries if _is_item(query)], SIDE))
    results = []
    for query, hits in zip(answers.queries, answers.hits, strict=True):
        texts = lines(query.row, query.row, "") if query.row >= 0 else [(Path(query.name).name, None)]
        tiles = [Tile(next(hit_pictures), lines(hit.row, query.row, f"{hit.distance:.4f}")) for hit in hits]
        picture = next(files) if query.path else next(items) if _is_item(query) else None
        results.append((Tile(picture, texts), tiles))
    legend = f"{answers.searched()}; below each hit its id and distance"
    if named and any(query.row >= 0 for query in answers.queries):
        legend += f", then its {' and '.join(named)}: green where the query has it too"
    buffer = io.BytesIO()
    draw_hits(f"Nearest by {answers.mixture()}", legend, results).save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


def _is_item(query: Query) -> bool:
    return query.row >= 0 and not query.path


def draw_hits(title: str, legend: str, results: Sequence[tuple[Tile, Sequence[Tile]]]) -> Image.Image:
    """Queries on the left, each with its hits beside it, nearest first, in lines of ACROSS. The legend is smaller text
    below the title."""
    small, step = font_of(13), SIDE + GAP
    texts = max(len(tile.lines) for query, hits in results for tile in (query, *hits))
    height = SIDE + 6 + texts * LINE + GAP
    lines = [max(1, -(-len(hits) // ACROSS)) for _, hits in results]
    across = min(ACROSS, max(1, *(len(hits) for _, hits in results)))
    left, top = GAP + step + 2 * GAP, 88  # a wider gap sets the hits apart from the query
    width = max(left + across * step, int(font_of(20).getlength(title)) + 2 * GAP)
    sheet = Image.new("RGB", (width, top + sum(lines) * height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 10), fit(title, font_of(20), width - 2 * GAP), fill="black", font=font_of(20))
    draw.text((GAP, 38), fit(legend, small, width - 2 * GAP), fill=GREY, font=small)
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
        scale = SIDE / max(picture.size)
        tiny = scale >= 2  # smoothing would blur the pixels of small pictures
        picture = picture.resize(
            [int(side * (scale // 1 if tiny else scale)) for side in picture.size],
            Image.Resampling.NEAREST if tiny else Image.Resampling.BICUBIC,
        )
        sheet.paste(picture, (x + (SIDE - picture.width) // 2, y + (SIDE - picture.height) // 2))
        draw.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), outline="#e6e6e6")
    for i, (text, alike) in enumerate(tile.lines):
        colour = {True: ALIKE, False: OTHER, None: "black" if i == 0 else GREY}[alike]
        draw.text((x, y + SIDE + 5 + i * LINE), fit(text, small, SIDE), fill=colour, font=small)


def read_pictures(items: Embeddings, rows: Sequence[int], size: int) -> list[np.ndarray | None]:
    """The pictures of the items in rows: uint8 [height, width, 3], or None for an item without a picture.

    A picture in a file is shrunk as a whole to `size`. A run's own items have the pixels of the run, which may be less.
    """
    pictures, rows = items.pictures, list(rows)
    if pictures.get("kind") == "split":
        return _of_run(Path(pictures["root"]), items.ids[rows].tolist())
    names = items.columns[pictures["image"]] if pictures.get("image") else items.ids
    return read_thumbnails(pictures, names[rows].tolist(), size)


def _of_run(workdir: Path, ids: list[str]) -> list[np.ndarray | None]:
    try:
        rows = read_rows(read_config(workdir))
    except UserError:  # the run or its data no longer exist
        return [None] * len(ids)
    row_of = {item: row for row, item in enumerate(rows.ids.tolist())}
    pictures = [rows.inputs[row_of[item]] if item in row_of else None for item in ids]
    return [None if picture is None else np.broadcast_to(picture, (*picture.shape[:2], 3)) for picture in pictures]
