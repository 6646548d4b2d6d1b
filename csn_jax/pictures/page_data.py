"""The files of a page: what pages of several commands share, and data as scripts. A page that is opened from disk may
load scripts, but not JSON."""

import base64
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SHARED = Path(__file__).parent / "page"


def assets(folder: Path) -> list[Path]:
    """The files of a page that do not depend on its data: those in its folder, and those that pages share."""
    return sorted(path for path in (*folder.iterdir(), *SHARED.iterdir()) if path.suffix in (".html", ".css", ".js"))


def ours(files: list[Path], *data: str) -> re.Pattern[str]:
    """The names of all files of a page: its assets, scripts of data, and sheets of pictures."""
    names = "|".join(re.escape(name) for name in (*(path.name for path in files), *data))
    return re.compile(rf"({names}|pictures_\d+\.(png|webp))")


class Column(NamedTuple):
    """An attribute of the items: values [n] str, the empty string if missing."""

    name: str
    kind: str
    values: np.ndarray


def column_data(column: Column) -> dict[str, Any]:
    """A column as its different values, and a code per item."""
    values, codes = np.unique(column.values.astype(str), return_inverse=True)
    width = 1 if len(values) <= 1 << 8 else 2 if len(values) <= 1 << 16 else 4
    code = packed(codes, f"<u{width}")
    return {"name": column.name, "kind": column.kind, "values": values.tolist(), "codes": code, "bytes": width}


def packed(array: np.ndarray, dtype: str) -> str:
    """An array's bytes in base64."""
    return base64.b64encode(array.astype(dtype).tobytes()).decode()


def script(name: str, value: Any) -> bytes:
    """A script that sets a global to a value. Labels cannot end the script, nor be read as anything but text."""
    return f"const {name} = {json.dumps(value).replace('<', chr(92) + 'u003c')};\n".encode("ascii")
