"""Add a condition to a trained model: one new mask, all else frozen.

    csn_jax adapt --workdir=runs/products --condition=heel --table=products.csv
    csn_jax adapt --workdir=runs/products --condition=style --table=triplets.csv --index=products.parquet

The condition is learned in seconds from labels, a column of a table, or from some hundred triplets that people gave.
The new workdir embeds exactly as the old one does, so stored vectors stay valid. The old masks stay bit-identical.

The error of the new condition is measured on triplets that took no part in the fit. For labels these are the triplets
of the test split. Triplets from people are cross-validated: each fold is measured by a fit to the other folds.
Triplets with the same anchor, or of the same three items, share a fold. The mask that is written is fitted to all of
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from csn_jax import cli
from csn_jax.config import Place
from csn_jax.errors import UserError

if TYPE_CHECKING:
    from csn_jax.model.run import Run


@dataclass(frozen=True)
class Args:
    workdir: str
    """The folder of a run of csn_jax train, or of an imported or adapted model. It is only read."""
    condition: str
    """The new condition: the name of a column of labels, or any name for triplets."""
    table: str = ""
    """A CSV or Parquet table. Labels: one column has the name of the condition, and each row has an item: its image or
    vector, or the id of an item of --index or of the run. Triplets: columns anchor, positive and negative, with ids of
    such items or with paths of images relative to the table; optional columns are condition and split. Empty: the
    run's own labels, or those in --index."""
    out: str = ""
    """The new workdir. Empty: WORKDIR_CONDITION."""
    index: str = ""
    """A file that csn_jax embed wrote with this model: the items, already embedded."""
    kind: Literal["inferred", "categorical", "numeric", "rank", "ordinal", "set"] = "inferred"
    """The kind of the labels, as in --config.data.kinds."""
    image: str = ""
    """The table's column of image paths, relative to its folder. Empty: as in the run's own table, or image."""
    id: str = ""
    """The table's column of ids. Empty: as in the run's own table, or id if there is one, else the image paths."""
    vectors: str = ""
    """The table's column of vectors, or a file beside it. Empty: as in the run's own table."""
    data: Place = field(default_factory=Place)


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv)

    from csn_jax.adapt.report import learn_mask, summary, write_adapted
    from csn_jax.adapt.sources import find_lesson
    from csn_jax.model.run import open_run
    from csn_jax.runtime.whole import check_free
    from csn_jax.runtime.writer import next_step, say

    run = open_run(args.workdir, args.data.path)
    _check(args, run)
    place = args.out or f"{args.workdir.rstrip('/')}_{args.condition}"
    out = Path(place).expanduser().absolute()
    if out == run.workdir:
        raise UserError(f"--out={out} is the --workdir itself, which is only read; give a new folder.")
    check_free(out, "--out")
    model = run.model()
    lesson = find_lesson(args, run, model)
    if lesson.note:
        say(lesson.note)
    mask, report = learn_mask(lesson, lesson.items.embed(lesson.rows()), model.masks)
    write_adapted(out, run, model, lesson, mask, report)
    print(summary(report))
    print(f"{out} holds the model, with conditions {', '.join((*model.conditions, args.condition))}")
    if run.record.checkpoint is None:
        next_step("embed", f"--workdir={place}", "--split=all", f"--out={place}.parquet")
    else:  # an imported model has no items of its own
        next_step("port", "export", f"--workdir={place}", f"--out={place}_exported")


def _check(args: Args, run: "Run") -> None:
    """Raise UserError unless the run can have --condition as one more condition."""
    from csn_jax.runtime.record import check_name

    if run.specialists:
        raise UserError(
            f"{run.workdir} holds specialists, one network per condition, and no masks to add to; train a specialist "
            f"for {args.condition!r}, or adapt a run of another variant."
        )
    if not args.condition:
        raise UserError("--condition is empty; give the name of the new condition.")
    check_name(args.condition)
    if args.condition in run.record.names:
        raise UserError(f"{run.workdir} has a condition {args.condition!r} already; give the new one another name.")
