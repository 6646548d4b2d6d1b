"""The folder of a page: its assets, its data as scripts, and sheets of thumbnails."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from csn_jax.data.item_set import ItemSet
from csn_jax.explore.thumbnails import SHEET, draw_sheets, side_of
from csn_jax.model.model import Model
from csn_jax.model.run import Run
from csn_jax.pictures.maps import SEED, draw_maps
from csn_jax.pictures.sheets import order_dimensions
from csn_jax.runtime.record import Results
from csn_jax.runtime.whole import check_folder, write_folder

ASSETS = Path(__file__).parent / "page"
OURS = re.compile(r"(index\.html|page\.css|(search|map|page|data|vectors)\.js|pictures_\d+\.(png|webp))")
MARK = ("index.html", b'content="csn_jax.explore"')


def check_place(out: Path) -> None:
    """Refuse a folder that holds anything but an older page.

    Raises:
        UserError: naming what would be lost.
    """
    check_folder(out, OURS, MARK)


def write(out: Path, run: Run, split: str, max_items: int) -> tuple[int, int]:
    """Write the page of a split's items, or of a sample of them, and return how many it shows and how many there are.

    Raises:
        UserError: when the run's data or checkpoint is missing, or the folder cannot be written.
    """
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
    """All files of the page by name.

    Args:
        rows: [n] positions in items.
        vectors: [n, D] float32, their embeddings.
        results: None for a run that is not finished.
        about: facts about the run that the page prints.
    """
    maps = draw_maps(vectors, model.masks, model.conditions)
    pictures = draw_sheets(items.inputs, rows, items.ink) if items.inputs.ndim == 4 else {}
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
    layout = {"files": list(pictures), "side": side_of(items.inputs, rows), "sheet": SHEET, "ink": items.ink}
    data["pictures"] = layout if pictures else None
    data["results"] = results and _error_rows(results)
    files = {path.name: path.read_bytes() for path in sorted(ASSETS.iterdir()) if OURS.fullmatch(path.name)}
    files["data.js"] = _script("CSN_DATA", data)
    files["vectors.js"] = _script("CSN_VECTORS", _packed(vectors, "<f4"))
    return files | pictures


def _error_rows(results: Results) -> dict[str, Any]:
    """The table of errors: name, error, [low, high], triplets per row."""
    figures = [(name, results.figure(name)) for name in (*results.conditions, "overall")]
    rows = [[name, value, [low, high], n] for name, (value, low, high, n) in figures]
    return {"split": results.split, "step": results.step, "rows": rows}


def _packed(array: np.ndarray, dtype: str) -> str:
    """An array's bytes in base64."""
    return base64.b64encode(array.astype(dtype).tobytes()).decode()


def _script(name: str, value: Any) -> bytes:
    """A script that sets a global to a value: a page opened from disk may load scripts, but not JSON.

    Labels are data: they can neither end the script nor be read as anything but text.
    """
    return f"const {name} = {json.dumps(value).replace('<', chr(92) + 'u003c')};\n".encode("ascii")
