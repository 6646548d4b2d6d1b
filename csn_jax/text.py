"""Text for people: aligned tables, and what a misspelt name may have meant."""

import difflib
from collections.abc import Iterable, Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as an aligned table: the first column to the left, the others to the right, a rule under the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """` (did you mean NAME?)` for the nearest choice, or nothing."""
    near = difflib.get_close_matches(value, list(choices), n=1)
    return f" (did you mean {near[0]}?)" if near else ""
