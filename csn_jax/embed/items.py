"""What to embed, by the flags: a folder of images, a table, or the run's own items."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from csn_jax.data.sources.table import SPLIT
from csn_jax.data.to_embed import ToEmbed, from_array, from_folder, from_table, overridden
from csn_jax.errors import UserError
from csn_jax.model.run import Run

if TYPE_CHECKING:
    from csn_jax.embed import Args


def find_items(args: "Args", run: Run) -> ToEmbed:
    """The items that --split, --images or --table names."""
    shape = run.record.input_shape
    if args.split:
        return from_split(run, args.split)
    if args.images:
        if len(shape) == 1:
            raise UserError(
                f"--images={args.images}: the model of {run.workdir} embeds vectors of {shape[0]} numbers, not images; "
                "give a --table of vectors."
            )
        return from_folder(Path(args.images).expanduser(), *shape[1:])
    data = overridden(run.config.data, args.image, args.id, args.vectors)
    return from_table(Path(args.table).expanduser(), data, shape)


def from_split(run: Run, split: str) -> ToEmbed:
    """The run's own items: those of one split, or all with their split as a column. A UserError if the data is missing
    or is other data, or the split is empty."""
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
