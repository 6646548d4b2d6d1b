"""The folder of a page: its assets, its data as scripts, and sheets of thumbnails."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from csn_jax.data.item_set import ItemSet
from csn_jax.data.thumbnails import pixels_of
from csn_jax.model.model import Model
from csn_jax.model.run import Run
from csn_jax.pictures.maps import SEED, draw_maps
from csn_jax.pictures.sheets import as_bytes, order_dimensions
from csn_jax.runtime.record import Results
from csn_jax.runtime.whole import write_folder

ASSETS = Path(__file__).parent / "page"
OURS = re.compile(r"(index\.html|page\.css|(search|map|page|data|vectors)\.js|pictures_\d+\.(png|webp))")
MARK = ("index.html", b'content="csn_jax.explore"')
SHEET = 2048  # pixels per side of a sheet of thumbnails: every browser takes that many


def write(out: Path, run: Run, split: str, max_items: int) -> tuple[int, int]:
    """Write the page of a split's items, or of a sample of them, and return how many it shows and how many there are; a
    UserError when the run's data or checkpoint is missing, or the folder cannot be written."""
    model, dataset = run.model(), run.dataset()
    rows = dataset.rows(split)
    total = len(rows)
    if total > max_items:
        rows = np.sort(np.random.default_rng(SEED).choice(rows, max_items, replace=False))
    vectors = model.embed(dataset.items.inputs, rows, progress=True)
    about = {"run": run.workdir.name, "variant": run.config.variant, "split": split}
    about |= {"step": model.step, "total": total, "seed": SEED}
    write_folder(out, page_files(model, dataset.items, rows, vectors, run.results, about), OURS, MARK)
    return len(rows), total


def page_files(
    model: Model, items: ItemSet, rows: np.ndarray, vectors: np.ndarray, results: Results | None, about: dict[str, Any]
) -> dict[str, bytes]:
    """All files of the page by name. rows [n]: positions in items; vectors [n, D]: their float32 embeddings; results:
    None for a run that is not finished; about: facts about the run that the page prints."""
    maps = draw_maps(vectors, model.masks, model.conditions)
    shown, places = items.inputs, rows
    if items.inputs.ndim == 2:
        shown, places = pixels_of(items, rows, side_of(None, rows)), np.arange(len(rows))
    pictures = {} if shown is None else draw_sheets(shown, places, items.ink)
    kinds, data = dict(items.conditions), dict(about)
    attributes = dict(items.attributes) | kinds
    # Lists of pairs, not objects: a column may have any name, also `__proto__`.
    data["ids"] = items.ids[rows].tolist()
    data["conditions"] = [
        {"name": name, "kind": kinds.get(name, "triplets"), "mask": mask.tolist()}
        for name, mask in zip(model.conditions, model.masks, strict=True)
    ]
    data["dimensions"] = order_dimensions(model.masks).tolist()
    data["columns"] = []
    for name in sorted(items.labels, key=lambda name: name not in kinds):  # conditions first
        values, codes = np.unique(items.labels[name][rows], return_inverse=True)
        kind = attributes.get(name, "categorical")
        data["columns"].append({"name": name, "kind": kind, "values": values.tolist(), "codes": codes.tolist()})
    data["maps"] = _packed(np.round(maps * 65535), "<u2")
    data["pictures"] = None
    if pictures:
        data["pictures"] = {"files": list(pictures), "side": side_of(shown, rows), "sheet": SHEET, "ink": items.ink}
    data["results"] = None
    if results:
        figures = [(name, results.figure(name)) for name in (*results.conditions, "overall")]
        rows_of_errors = [[name, value, [low, high], n] for name, (value, low, high, n) in figures]
        data["results"] = {"split": results.split, "step": results.step, "rows": rows_of_errors}
    files = {path.name: path.read_bytes() for path in sorted(ASSETS.iterdir()) if OURS.fullmatch(path.name)}
    files["data.js"] = _script("CSN_DATA", data)
    files["vectors.js"] = _script("CSN_VECTORS", _packed(vectors, "<f4"))
    return files | pictures


def side_of(inputs: np.ndarray | None, rows: np.ndarray) -> int:
    """Pixels per side of a thumbnail: the input's own if it has pixels, up to what a browser can hold for so many."""
    most = 96 if len(rows) <= 3000 else 64
    return most if inputs is None else min(inputs.shape[1], most)


def draw_sheets(inputs: np.ndarray, rows: np.ndarray, ink: bool) -> dict[str, bytes]:
    """Sheets of thumbnails of the rows [n] of inputs [N, S, S, 1 or 3] uint8, filled row by row, by file name. With
    `ink`, pixels are amounts of ink, which the page draws in the colour of its text."""
    side, channels = side_of(inputs, rows), inputs.shape[3]
    across = SHEET // side
    kind = "png" if channels == 1 else "webp"
    sheets = {}
    for first in range(0, len(rows), across * across):
        shown = rows[first : first + across * across]
        sheet = np.zeros((-(-len(shown) // across) * side, SHEET, channels), np.uint8)
        for i, pixels in enumerate(inputs[shown]):
            if pixels.shape[0] != side:
                picture = Image.fromarray(pixels.squeeze()).resize((side, side), Image.Resampling.LANCZOS)
                pixels = np.asarray(picture).reshape(side, side, channels)
            top, left = i // across * side, i % across * side
            sheet[top : top + side, left : left + side] = pixels
        picture = Image.fromarray(sheet[..., 0] if channels == 1 else sheet)
        if ink:  # as the opacity of black
            picture = Image.merge("LA", (Image.new("L", picture.size), picture))
        sheets[f"pictures_{len(sheets)}.{kind}"] = as_bytes(picture.save, kind, quality=90)
    return sheets


def _packed(array: np.ndarray, dtype: str) -> str:
    """An array's bytes in base64."""
    return base64.b64encode(array.astype(dtype).tobytes()).decode()


def _script(name: str, value: Any) -> bytes:
    """A script that sets a global to a value: a page opened from disk may load scripts, but not JSON. Labels cannot end
    the script, nor be read as anything but text."""
    return f"const {name} = {json.dumps(value).replace('<', chr(92) + 'u003c')};\n".encode("ascii")
