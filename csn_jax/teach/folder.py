"""The folder of a page: its assets, its data as scripts, and sheets of pictures."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from csn_jax.pictures.page_data import assets, column_data, ours, packed, script
from csn_jax.pictures.page_sheets import Sheets, draw_sheets
from csn_jax.teach.items import Asked

HERE = Path(__file__).parent
ASSETS = assets(HERE / "page")
WORKER = ("random", "fit", "triplets", "teacher", "worker")  # scripts, in their order
OURS = ours(ASSETS, "data.js", "points.js", "worker.js")
MARK = ("index.html", b'content="csn_jax.teach"')
MANY = 3_000  # items, of which pictures are smaller, so that the folder stays below 50 MB


def page_files(asked: Asked, condition: str, ask: str, values: Sequence[str], command: str) -> dict[str, bytes]:
    """All files of the page by name. ask: `values` or `grid`. command: what to run with the answers."""
    n, k = asked.points.shape
    sheets = Sheets({}, None)
    if asked.thumbnails:
        side = min(asked.thumbnails.side or 192, 192 if n <= MANY else 128)
        sheets = draw_sheets(asked.thumbnails, np.arange(n), n, side)
    data = {
        "name": Path(asked.name).name,
        "condition": condition,
        "ask": ask,
        "values": list(values),
        "command": command,
        "total": asked.total,
        "ids": asked.ids.tolist(),
        "columns": [column_data(column) for column in asked.columns],
        "pictures": sheets.about,
        "k": k,
        "key": _key(asked, condition, ask),
    }
    files = {path.name: path.read_bytes() for path in ASSETS}
    files["data.js"] = script("CSN_DATA", data)
    files["points.js"] = script("CSN_POINTS", packed(asked.points, "<f4"))
    # A page that is opened from disk may start no worker from a file, but from text.
    files["worker.js"] = script("CSN_WORKER", worker_source())
    return files | sheets.files


def worker_source() -> str:
    """The program of the page's worker."""
    return "\n".join((HERE / "worker" / f"{name}.js").read_text(encoding="utf-8") for name in WORKER)


def _key(asked: Asked, condition: str, ask: str) -> str:
    """Under which the browser keeps the answers: other items, or another question, have others."""
    hasher = hashlib.sha256(repr((condition, ask)).encode())
    hasher.update("\n".join(asked.ids.tolist()).encode("utf-8", "surrogatepass"))
    return hasher.hexdigest()[:16]
