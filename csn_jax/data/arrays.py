"""Arrays from what people hold: lists, tensors, and columns of pandas, Polars and Arrow, which are not imported."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from csn_jax.errors import UserError
from csn_jax.text import first_sentence


def to_array(values: Any, name: str, needed: str) -> np.ndarray:
    """An array of values; of vectors in the cells of a column or in a list, [N, F]; of texts, an array of objects.

    A UserError for what is not an array, for cells without a vector and for vectors of different lengths: `name` has
    the verb (`the inputs are`), `needed` says what to give instead.
    """
    if isinstance(values, Mapping | set | frozenset | bytes | bool | int | float | None):
        raise wrong_type(values, name, needed)
    try:
        array = np.asarray(values)
        if array.dtype == object and array.ndim == 1 and len(array) and not isinstance(array[0], str):
            array = _stacked(array, name, needed)
    except UserError:
        raise
    except Exception as error:  # ragged lists, tensors on an accelerator: types of several packages
        reason = first_sentence(error)
        raise UserError(f"{name} a {type(values).__name__} that NumPy cannot read ({reason}); give {needed}.") from None
    if array.dtype.kind not in "biufcUSOTV" or (array.dtype == object and (array.ndim != 1 or not len(array))):
        raise wrong_type(values, name, needed)
    return array.astype(object) if array.dtype.kind in "UT" else array


def _stacked(cells: np.ndarray, name: str, needed: str) -> np.ndarray:
    """[N, ...] of cells [N] of arrays."""
    for row, cell in enumerate(cells):
        if cell is None or np.shape(cell) != np.shape(cells[0]):
            what = "no value" if cell is None else f"shape {[*np.shape(cell)]} and not {[*np.shape(cells[0])]}"
            raise UserError(f"{name} a column with {what} at position {row}; give {needed}.")
    return np.stack([np.asarray(cell) for cell in cells])


def wrong_type(values: Any, name: str, needed: str) -> UserError:
    """The error for values of a type that cannot be used."""
    return UserError(f"{name} {_kind_of(values)}; give {needed}.")


def _kind_of(values: Any) -> str:
    if values is None or isinstance(values, bool | int | float):
        return repr(values)
    name = type(values).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
