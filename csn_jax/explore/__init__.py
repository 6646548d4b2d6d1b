"""Write a web page that shows a run: maps, neighbours, masks, errors.

    csn_jax explore runs/quickstart --out=page
    csn_jax explore runs/products --out=page --split=validation --max_items=2000

The page opens from disk in any browser and sends no request to anywhere. It computes what it shows from the float32
vectors and masks in its folder.
"""

import base64
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from csn_jax import cli
from csn_jax.errors import UserError
from csn_jax.runtime.record import at

if TYPE_CHECKING:
    import numpy as np

    from csn_jax.data.item_set import ItemSet
    from csn_jax.model.model import Model
    from csn_jax.runtime.record import Results

ASSETS = Path(__file__).parent / "page"
OURS = re.compile(r"(index\.html|page\.css|(search|map|page|data|vectors)\.js|pictures_\d+\.(png|webp))")
MARK = ("index.html", b'content="csn_jax.explore"')
SHEET = 2048  # pixels a side of a sheet of thumbnails, which every browser takes


@dataclass(frozen=True)
class Args:
    workdir: str
    """The folder of a run of csn_jax train."""
    out: str
    """The folder to write. A page that this command wrote before is replaced."""
    split: Literal["train", "validation", "test"] = "test"
    """Which items to show."""
    max_items: int = 10_000
    """Where there are more items, the page shows a random sample of this size, and says so."""


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv, positional=True)
    out = Path(args.out).expanduser().absolute()
    if args.max_items < 2:
        raise UserError(f"--max_items={args.max_items} leaves no neighbours to show; give 2 or more.")

    import numpy as np

    from csn_jax.model.run import open_run
    from csn_jax.pictures.maps import SEED, has_tsne
    from csn_jax.runtime.whole import check_folder, write_folder
    from csn_jax.runtime.writer import next_step

    check_folder(out, OURS, MARK)
    if not has_tsne():
        raise UserError("the maps need openTSNE, which is not installed; pip install openTSNE.")

    run = open_run(args.workdir)
    model, dataset = run.model(), run.dataset()
    rows = dataset.rows(args.split)
    total = len(rows)
    if total > args.max_items:
        rows = np.sort(np.random.default_rng(SEED).choice(rows, args.max_items, replace=False))
    vectors = model.embed(dataset.items.inputs, rows, progress=True)
    about = {
        "run": run.workdir.name,
        "variant": run.config.variant,
        "split": args.split,
        "step": model.step,
        "total": total,
        "seed": SEED,
    }
    write_folder(out, page_files(model, dataset.items, rows, vectors, run.results, about), OURS, MARK)
    print(f"{out / 'index.html'} shows {len(rows):,} of {total:,} {args.split} items; open it in a browser")
    next_step("python", "-m", "webbrowser", Path(args.out) / "index.html")


def page_files(
    model: "Model",
    items: "ItemSet",
    rows: "np.ndarray",
    vectors: "np.ndarray",
    results: "Results | None",
    about: dict[str, Any],
) -> dict[str, bytes]:
    """Everything of the page, by file name.

    Args:
        rows: [n] positions in items.
        vectors: [n, D] float32, their embeddings.
        results: None of a run that is not finished.
        about: what the page says of the run.
    """
    import numpy as np

    from csn_jax.pictures.maps import draw_maps
    from csn_jax.pictures.sheets import order_dimensions

    ink = items.ink  # which the page draws in the colour of its text
    maps = draw_maps(vectors, model.masks, model.conditions)
    pictures = draw_sheets(items.inputs, rows, ink) if items.inputs.ndim == 4 else {}
    side = sprite_side(items.inputs, rows)
    kinds, data = dict(items.conditions), dict(about)
    attributes = dict(items.attributes) | kinds
    # Lists of pairs and not objects: a column may have any name, `__proto__` too.
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
    data["maps"] = packed(np.round(maps * 65535), "<u2")
    data["pictures"] = {"files": list(pictures), "side": side, "sheet": SHEET, "ink": ink} if pictures else None
    data["results"] = results and error_rows(results)
    files = {path.name: path.read_bytes() for path in sorted(ASSETS.iterdir()) if OURS.fullmatch(path.name)}
    files["data.js"] = script("CSN_DATA", data)
    files["vectors.js"] = script("CSN_VECTORS", packed(vectors, "<f4"))
    return files | pictures


def error_rows(results: "Results") -> dict[str, Any]:
    """What the table of errors shows."""
    parts = (results.triplet_error, results.ci95, results.n_triplets)
    rows = [[name, *(at(part, name) for part in parts)] for name in (*results.conditions, "overall")]
    return {"split": results.split, "step": results.step, "rows": rows}


def sprite_side(inputs: "np.ndarray", rows: "np.ndarray") -> int:
    """Pixels a side of a thumbnail: the input's own, as far as a browser holds that many."""
    return min(inputs.shape[1], 96 if len(rows) <= 3000 else 64)


def draw_sheets(inputs: "np.ndarray", rows: "np.ndarray", ink: bool) -> dict[str, bytes]:
    """Thumbnails side by side, row by row, on as many sheets as it takes, by file name.

    Args:
        inputs: [N, S, S, 1 or 3] uint8.
        rows: [n] positions.
        ink: whether pixels are amounts of ink.
    """
    import numpy as np
    from PIL import Image

    side, channels = sprite_side(inputs, rows), inputs.shape[3]
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
        if ink:  # as the opacity of black, which the page then colours
            picture = Image.merge("LA", (Image.new("L", picture.size), picture))
        buffer = io.BytesIO()
        picture.save(buffer, kind, quality=90)
        sheets[f"pictures_{len(sheets)}.{kind}"] = buffer.getvalue()
    return sheets


def packed(array: "np.ndarray", dtype: str) -> str:
    """An array's bytes in base64."""
    return base64.b64encode(array.astype(dtype).tobytes()).decode()


def script(name: str, value: Any) -> bytes:
    """A script that sets a global to a value: a page opened from disk may load scripts but no JSON.

    Labels are data: what they hold can neither end the script nor be read as anything but text.
    """
    return f"const {name} = {json.dumps(value).replace('<', chr(92) + 'u003c')};\n".encode("ascii")
