"""The folder of a page: its assets, its data as scripts, and sheets of thumbnails."""

from pathlib import Path
from typing import Any

import numpy as np

from csn_jax.explore.items import Shown
from csn_jax.explore.narrow import narrowed
from csn_jax.pictures.maps import draw_maps, is_sampled
from csn_jax.pictures.page_data import assets, column_data, ours, packed, script
from csn_jax.pictures.page_sheets import Sheets, draw_sheets, in_order, side_of
from csn_jax.pictures.sheets import order_dimensions

ASSETS = assets(Path(__file__).parent / "page")
OURS = ours(ASSETS, "data.js", "vectors.js")
MARK = ("index.html", b'content="csn_jax.explore"')
EXACT = 1 << 23  # bytes of float32 vectors; more are rounded to 8 bits, so that the page loads fast


def page_files(shown: Shown, link: str = "") -> dict[str, bytes]:
    """All files of the page by name. link: the address of an item elsewhere, with {id}."""
    maps = draw_maps(shown.vectors, shown.masks, [name for name, _ in shown.conditions])
    vectors, masks, share = narrowed(shown.vectors, shown.masks)
    order, leads = in_order(maps)
    sheets = Sheets({}, None)
    if shown.thumbnails:
        sheets = draw_sheets(shown.thumbnails, order, leads, side_of(len(order), shown.thumbnails.side))
    data = dict(shown.about) | {"link": link}
    # Lists of pairs, not objects: a column may have any name, also `__proto__`.
    data["ids"] = shown.ids.tolist()
    data["conditions"] = [
        {"name": name, "kind": kind, "mask": mask.tolist()}
        for (name, kind), mask in zip(shown.conditions, masks, strict=True)
    ]
    data["dimensions"] = order_dimensions(masks).tolist()
    data["columns"] = [column_data(column) for column in shown.columns]
    data["maps"] = packed(np.round(maps * 65535), "<u2")
    data["share"] = share
    data["sampled"] = is_sampled(len(shown.ids))
    data["order"] = packed(order, "<u4") if leads < len(order) else None
    data["pictures"] = sheets.about
    data["results"] = None
    if results := shown.results:
        figures = [(name, results.figure(name)) for name in (*results.conditions, "overall")]
        rows_of_errors = [[name, value, [low, high], n] for name, (value, low, high, n) in figures]
        data["results"] = {"split": results.split, "step": results.step, "rows": rows_of_errors}
    files = {path.name: path.read_bytes() for path in ASSETS}
    files["data.js"] = script("CSN_DATA", data)
    files["vectors.js"] = script("CSN_VECTORS", _vectors(vectors, masks))
    return files | sheets.files


def _vectors(vectors: np.ndarray, masks: np.ndarray) -> dict[str, Any]:
    """The dimensions of vectors [n, D] that a mask weighs: as float32, or if they are many, as int8 with scales."""
    live = np.flatnonzero(np.any(masks != 0, axis=0))
    vectors = np.asarray(vectors, np.float32)[:, live]
    if vectors.nbytes <= EXACT:
        return {"live": live.tolist(), "scale": None, "data": packed(vectors, "<f4")}
    scale = np.abs(vectors).max(axis=0) / 127
    scale[scale == 0] = 1
    return {"live": live.tolist(), "scale": scale.tolist(), "data": packed(np.rint(vectors / scale), "i1")}
