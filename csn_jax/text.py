"""Text for people: tables that fit a terminal, durations, lists, and what a misspelt name may have meant."""

import difflib
from collections.abc import Iterable, Sequence

WIDTH = 80


def table(rows: Sequence[Sequence[str]], width: int = WIDTH) -> str:
    """Rows as an aligned table: the first column to the left, the others to the right, a rule under the head.

    Columns that do not fit a width stand in further blocks below, behind the first column again. A cell that would
    not fit even there is shortened in the middle.
    """
    first = min(max(len(row[0]) for row in rows), width // 2)
    columns = []
    for i, cells in enumerate(zip(*rows, strict=True)):
        cells = [shortened(cell, first if i == 0 else width - first - 2) for cell in cells]
        longest = max(map(len, cells))
        cells = [cell.ljust(longest) if i == 0 else cell.rjust(longest) for cell in cells]
        columns.append([cells[0], "-" * longest, *cells[1:]])
    blocks = [[columns[0]]]
    for column in columns[1:]:
        if len(blocks[-1]) > 1 and sum(len(one[0]) + 2 for one in [*blocks[-1], column]) - 2 > width:
            blocks.append([columns[0]])
        blocks[-1].append(column)
    return "\n\n".join("\n".join(map("  ".join, zip(*block, strict=True))) for block in blocks)


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters: its beginning and its end, with dots between."""
    if len(text) <= most:
        return text
    tail = (most - 3) // 2
    return f"{text[: most - 3 - tail]}...{text[len(text) - tail :]}"


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`: what a person wants to know of a wait."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """` (did you mean NAME?)` for the nearest choice, or nothing."""
    near = difflib.get_close_matches(value, list(choices), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def listed(names: Iterable[str], most: int = 8) -> str:
    """`a, b, c` on one line; of more than `most` names, three and the number of others: `a, b, c and 9 more`."""
    names = [" ".join(name.splitlines()) for name in names]
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:3])} and {len(names) - 3:,} more"


def first_sentence(error: object) -> str:
    """The first sentence of a message without its full stop: one line of at most 200 characters."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")[:200] or type(error).__name__
