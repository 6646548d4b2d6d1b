"""The tables that a condition is learned from: one or several, of one person or of several."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from csn_jax.adapt import raters
from csn_jax.adapt.people import holds_triplets
from csn_jax.adapt.raters import Raters
from csn_jax.config import DataConfig
from csn_jax.data.attributes import attribute_of
from csn_jax.data.columns import Columns, read_columns
from csn_jax.data.triplet_tables import with_usual_names
from csn_jax.errors import UserError
from csn_jax.text import listed

RATER = "rater"


def read_tables(paths: Sequence[str], data: DataConfig) -> Columns | None:
    """The rows of all tables with the columns that they share; None without a table. Of several, a table without names
    of raters is that of one, by the name of its file."""
    tables = [_read(path, data) for path in paths]
    if len(tables) < 2:
        return tables[0] if tables else None
    texts = []
    for table, person in zip(map(with_usual_names, tables), _people([table.path for table in tables]), strict=True):
        names = table.text.get(RATER, [""] * len(table))
        texts.append(table.text | {RATER: [name or person for name in names]})
    shared = [name for name in texts[0] if all(name in text for text in texts)]
    if shared == [RATER]:
        names = "; ".join(f"{table.path.name} has {listed(table.text)}" for table in tables[:3])
        raise UserError(f"the tables of --table share no column ({names}); give tables of one kind.")
    path = tables[0].path.parent / " and ".join(table.path.name for table in tables)
    return Columns(path, {name: [cell for text in texts for cell in text[name]] for name in shared}, None, None)


def _people(paths: Sequence[Path]) -> list[str]:
    """Names for the people of tables that name none: those of the files, or the paths if files share a name, as those
    that a page saves do."""
    known: set[Path] = set()
    for path in paths:
        if path.resolve() in known:
            raise UserError(f"--table names {path} twice, whose answers would count twice; give it once.")
        known.add(path.resolve())
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _read(name: str, data: DataConfig) -> Columns:
    path = Path(name).expanduser()
    if not path.exists():
        raise UserError(f"--table={name} is not a file; give a CSV or Parquet table.")
    columns = read_columns(path, data.encoding, data.skip_bad)
    if len(columns) == 0:
        raise UserError(f"{path} has no row; give one row per item or triplet.")
    return columns


def of_raters(
    columns: Columns, condition: str, kind: str | None, data: DataConfig, equal: bool
) -> tuple[Columns, Raters | None]:
    """(a table with one answer per question, what its raters are worth); the table as it is, and None, if it is not of
    several raters. A cell that is blank or unknown is no answer, and two spellings of a number or a set are one.

    Args:
        kind: of labels; None: inferred.
        equal: whether all raters count alike.
    """
    usual = with_usual_names(columns)
    if len(set(usual.text.get(RATER, ()))) < 2:
        return columns, None
    if holds_triplets(columns, condition):
        question, answer = raters.questions_of_triplets(usual)
    elif condition in usual.text and data.id in usual.text:
        attribute = attribute_of(usual, condition, kind, data, "--kind=")
        values = attribute.values if attribute else usual.text[condition]
        answered = [row for row, value in enumerate(values) if value]
        usual = _only(usual, answered)
        question, answer = raters.questions_of_labels(usual.text[data.id], [values[row] for row in answered])
    else:
        return columns, None
    rater = np.array(usual.text[RATER])
    if not len(rater):
        return columns, None
    found = raters.weigh(question, answer, rater, equal=equal)
    kept = raters.joined(question, answer, rater, found).tolist()
    joined = _only(usual, kept)
    del joined.text[RATER]
    return joined, found


def _only(columns: Columns, rows: list[int]) -> Columns:
    """Some rows of a table."""
    text = {name: [cells[row] for row in rows] for name, cells in columns.text.items()}
    lines = [columns.lines[row] for row in rows] if columns.lines else None
    return Columns(columns.path, text, lines, None, columns.notes)
