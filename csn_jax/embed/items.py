"""The items of a run as what `embed` embeds."""

import numpy as np

from csn_jax.data.sources.table import SPLIT
from csn_jax.data.to_embed import ToEmbed, from_array
from csn_jax.errors import UserError
from csn_jax.model.run import Run


def from_split(run: Run, split: str) -> ToEmbed:
    """The items that a run was trained and measured on: those of one split, or all with their split as a column.

    Raises:
        UserError: when the data is missing, or is other data.
    """
    dataset = run.dataset()
    items = dataset.items
    rows = np.arange(len(items.ids)) if split == "all" else np.flatnonzero(items.split == split)
    if not len(rows):
        raise UserError(f"the split {split} of {run.workdir} has no items; choose another one, or all.")
    columns = {name: column[rows] for name, column in items.labels.items()}
    if split == "all":
        columns[SPLIT] = items.split
    pictures = {"kind": "split", "root": str(run.workdir)} if items.inputs.ndim == 4 else {}
    if items.pictures:
        pictures, names = items.pictures
        if names is not None:
            columns[pictures["image"]] = names[rows]
    return ToEmbed(
        ids=items.ids[rows],
        columns=columns,
        pictures=pictures,
        chunks=lambda start: from_array(items.inputs, rows, start),
        made_from=["split", split, dataset.record.items_sha256],
    )
