"""JSON as columns of text: one object per line, or one list of objects. Numbers keep the digits of the file."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from csn_jax.data.delimited import Read, encoding_of
from csn_jax.data.notations import stripped
from csn_jax.errors import UserError


class _Number(str):
    """The digits of a number in the file."""


_DECODER = json.JSONDecoder(parse_float=_Number, parse_int=_Number, parse_constant=lambda _: None)  # NaN is not a value


def read_json(path: Path, content: bytes, encoding: str, skip_bad: bool) -> Read:
    """The columns of JSON lines. Lists of text become members with `;` between them, lists of numbers stay JSON, and
    objects in objects are left out. UserError for a line that is not an object; with skip_bad it is left out."""
    encoding, notes = encoding_of(path, content, encoding)
    text, lines, bad, left_out = {}, [], 0, set()
    for line, row in _objects(path, content, encoding):
        if not isinstance(row, dict):
            if not skip_bad:
                raise UserError(
                    f"{path}, line {line} is not a JSON object ({row}); write one object per row and line, as pandas "
                    "does with to_json(orient='records', lines=True)."
                )
            bad += 1
            continue
        for name, value in row.items():
            if (cell := _cell(value)) is None:
                left_out.add(name)
            else:
                column = text.setdefault(name, [])
                column.extend([""] * (len(lines) - len(column)))
                column.append(cell)
        lines.append(line)
    for column in text.values():
        column.extend([""] * (len(lines) - len(column)))
    for name in left_out:
        text.pop(name, None)
        notes.append(f"{name} holds objects and is left out")
    if not lines or not text:
        raise UserError(
            f"{path} holds no table of JSON lines; write one object per row and line, as pandas does with "
            "to_json(orient='records', lines=True)."
        )
    if bad:
        notes.append(f"lines that are not JSON objects are left out: {bad:,}")
    return {name.strip(): stripped(name, column, notes) for name, column in text.items()}, lines, notes


def _objects(path: Path, content: bytes, encoding: str) -> Iterator[tuple[int, Any]]:
    """(line, object), or (line, what is wrong with it)."""
    if content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        rows = _decoded(content.decode(encoding))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            reason = rows if isinstance(rows, str) else "the list holds other values than objects"
            raise UserError(f"{path} is not a JSON list of objects ({reason}); give one object per line.")
        yield from ((number, row) for number, row in enumerate(rows, start=1))
        return
    for line, words in enumerate(io.TextIOWrapper(io.BytesIO(content), encoding), start=1):
        if words.strip():
            row = _decoded(words)
            yield line, row if isinstance(row, dict | str) else "another value"


def _decoded(words: str) -> Any:
    """The value, or what is wrong as text. JSON text itself cannot be a row either."""
    try:
        return _DECODER.decode(words.strip())
    except (ValueError, RecursionError) as error:
        return str(error)


def _cell(value: Any) -> str | None:
    """A value as the text of a cell; None for an object."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        if all(isinstance(member, _Number) for member in value):
            return f"[{', '.join(value)}]"  # a vector
        if all(member is None or isinstance(member, str) for member in value):
            return ";".join((member or "").replace(";", ",") for member in value)
    return None
