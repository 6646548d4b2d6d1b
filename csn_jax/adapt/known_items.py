"""Items that a new condition may be learned on, after training: a run's own, those of a table, or stored vectors."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from csn_jax.config import Config, DataConfig
from csn_jax.data.columns import Columns
from csn_jax.data.sources.table import item_ids
from csn_jax.data.to_embed import from_table
from csn_jax.errors import UserError
from csn_jax.model.run import Run
from csn_jax.runtime.writer import Progress, say


class Known(NamedTuple):
    """Items that a table may name by their ids.

    ids: [N] str.
    inputs: [N, ...] as the model embeds them, or where `embedded` their embeddings [N, D].
    split: [N] str, or None where they have none.
    what: they are, to complete "is no item of ...".
    """

    ids: np.ndarray
    inputs: np.ndarray
    embedded: bool
    split: np.ndarray | None
    what: str


def of_run(run: Run, required: bool) -> Known | None:
    """The items that a run was trained and measured on; None where they are not there and need not be."""
    try:
        dataset = run.dataset()
    except UserError:
        if required:
            raise
        return None
    return Known(dataset.items.ids, dataset.items.inputs, False, dataset.items.split, "the run's own data")


def of_table(
    columns: Columns,
    run: Run,
    data: DataConfig,
    embed: Callable[[np.ndarray], np.ndarray],
) -> tuple[Columns, list[str], Known]:
    """The rows of a table that can be used, their ids, and the items: those that the table has pictures or vectors of,
    else those of the run, by their ids. A table of pictures that lies beside the run's own and names only items of the
    run means these, and they keep their split."""
    config, shape = run.config, run.record.input_shape
    pictures = len(shape) == 3
    if pictures:
        has_inputs = data.image in columns.text
    else:
        in_column = columns.arrow is not None and data.vectors in columns.arrow.column_names
        has_inputs = in_column or data.vectors.endswith((".npy", ".npz"))
    beside = config.data.source == "table" and columns.path.resolve().parent == table_of(config).parent
    if not has_inputs or (beside and pictures):
        known, ids = of_run(run, required=not has_inputs), ids_of(columns, data)
        if not has_inputs or (known and set(ids) <= set(known.ids.tolist())):
            return columns, ids, known
    items = from_table(columns.path, data, shape)
    progress, embedded, faults = Progress("embedding", len(items.ids), unit="image" if pictures else "vector"), [], []
    for inputs, of_chunk in items.chunks(0):
        embedded += [embed(inputs)] if len(inputs) else []
        faults += of_chunk
        progress.advance(len(of_chunk))
    progress.close()
    for one, fault in zip(items.ids, faults, strict=True):
        if fault:
            say(f"left out {one}, which {fault}")
    kept = [row for row, fault in enumerate(faults) if not fault]
    if not kept:
        raise UserError(f"{columns.path}: none of the {len(faults)} images can be read; the first {faults[0]}.")
    text = {name: [values[row] for row in kept] for name, values in columns.text.items()}
    lines = [columns.lines[row] for row in kept] if columns.lines else None
    known = Known(items.ids[kept], np.concatenate(embedded), True, None, str(columns.path))
    return Columns(columns.path, text, lines, None), known.ids.tolist(), known


def table_of(config: Config) -> Path:
    """The table that a run of source `table` was trained on."""
    return Path(config.data.path).expanduser().resolve()


def ids_of(columns: Columns, data: DataConfig) -> list[str]:
    """Of the rows of a table that --table names."""
    return item_ids(columns, columns.text.get(data.image), data, "--id")[0]
