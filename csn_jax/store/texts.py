"""Columns of texts of stored items: an array in memory, or the columns of part files, which stay on the disk."""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np

from csn_jax.store.parts import Parts
from csn_jax.text import did_you_mean

FEW = 20_000  # ids among which a misspelt one is looked for


class Texts:
    """A column [N] of part files, in place of an object array. Items are read when they are asked for: a position gives
    a str; a slice, or positions, an object array. A missing value is the empty string."""

    def __init__(self, parts: Parts, name: str):
        self._parts, self._name = parts, name
        self.shape, self.dtype = (len(parts),), np.dtype(object)

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int | np.integer):
            return self[[key]][0]
        return self._parts.gather(key, self._some, object, ())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or object, copy=False)

    def tolist(self) -> list[str]:
        return self[:].tolist()

    def _some(self, place: int, rows: Any) -> np.ndarray:
        column = self._parts.batch(place).column(self._name)
        column = column[rows] if isinstance(rows, slice) else column.take(rows)
        return np.array([text or "" for text in column.to_pylist()], object)

    def each(self, work: Callable[[Any], Any]) -> list[Any]:
        """work(column) of every batch, in order."""
        return self._parts.each(lambda place: work(self._parts.batch(place).column(self._name)))

    def distinct(self) -> set[str]:
        """The different texts."""
        return {text or "" for values in self.each(lambda column: column.unique().to_pylist()) for text in values}

    def among(self, accepted: Collection[str]) -> np.ndarray:
        """Which texts are among the accepted ones: bool [N]."""

        def of(column: Any) -> np.ndarray:
            codes = column.dictionary_encode()
            good = np.array([text in accepted for text in (*codes.dictionary.to_pylist(), "")])  # "" stands for null
            return good[codes.indices.fill_null(len(good) - 1).to_numpy(zero_copy_only=False)]

        return np.concatenate(self.each(of) or [np.zeros(0, bool)])

    def first_rows(self, texts: Iterable[str]) -> dict[str, int]:
        """{text: the first row that has it}, of those texts that a row has."""
        import pyarrow
        from pyarrow import compute

        wanted, found = pyarrow.array(dict.fromkeys(texts), pyarrow.string()), {}
        hits = self.each(lambda column: np.flatnonzero(compute.is_in(column, wanted).to_numpy(zero_copy_only=False)))
        for place, rows in enumerate(hits):
            for row, text in zip(rows.tolist(), self._some(place, rows) if len(rows) else (), strict=True):
                found.setdefault(text, int(self._parts.starts[place]) + row)
        return found

    def containing(self, text: str, most: int) -> list[str]:
        """Texts that contain another one, whatever its case."""
        from pyarrow import compute

        def of(column: Any) -> list[str]:
            return column.filter(compute.match_substring(column, text, ignore_case=True))[:most].to_pylist()

        return [found for some in self.each(of) for found in some][:most]


def distinct(column: np.ndarray | Texts) -> set[str]:
    """The different texts of a column."""
    return column.distinct() if isinstance(column, Texts) else set(column.tolist())


def among(column: np.ndarray | Texts, accepted: Collection[str]) -> np.ndarray:
    """Which texts of a column are among the accepted ones: bool [N]."""
    if isinstance(column, Texts):
        return column.among(accepted)
    return np.fromiter((value in accepted for value in column.tolist()), bool, len(column))


def first_rows(column: np.ndarray | Texts, texts: list[str]) -> dict[str, int]:
    """{text: the first row that has it}, of those texts that a row of the column has."""
    if isinstance(column, Texts):
        return column.first_rows(texts)
    if len(texts) == 1:
        rows = np.flatnonzero(column == texts[0])[:1].tolist()
        return dict(zip(texts, rows, strict=False))
    row_of = {item: row for row, item in reversed([*enumerate(column.tolist())])}
    return {text: row_of[text] for text in texts if text in row_of}


def similar(column: np.ndarray | Texts, text: str) -> str:
    """A ` (did you mean ...?)` with texts of the column that contain a text or are spelt alike; empty without any."""
    if isinstance(column, Texts):
        longer = column.containing(text, 3) if text else []
    else:
        longer = [known for known in column.tolist() if text and text.lower() in known.lower()][:3]
    if longer:
        return f" (did you mean {' or '.join(longer)}?)"
    return did_you_mean(text, column[:FEW].tolist())
