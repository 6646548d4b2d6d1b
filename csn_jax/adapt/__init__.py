"""Add a condition to a trained model: a new mask or map, no more.

    csn_jax adapt --workdir=runs/products --condition=heel --table=products.csv
    csn_jax adapt --workdir=runs/products --condition=style --table=triplets.csv --index=products.parquet
    csn_jax adapt --index=products.parquet --condition=colour --table anna.csv ben.csv

The condition is learned in seconds from labels, a column of a table, or from some hundred triplets that people gave.
The new workdir embeds exactly as the old one does, so stored vectors stay valid. The old conditions stay bit-identical.

On vectors, under maps, the condition is a map, weights of the principal axes or of the other conditions' views, or the
raw vectors. Held-out triplets choose, and a learned form must be clearly better than the raw vectors.

The error of the new condition is measured on triplets that took no part in the fit. For labels these are the triplets
of the test split. Triplets from people are cross-validated: each fold is measured by a fit to the other folds.
Triplets with the same anchor, or of the same three items, share a fold. What is written is fitted to all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from csn_jax import cli
from csn_jax.cli.flags import Place
from csn_jax.errors import UserError

if TYPE_CHECKING:
    from csn_jax.model.run import Run


@dataclass(frozen=True)
class Args:
    workdir: str = ""
    """The folder of a run of csn_jax train, or of an imported or adapted model. It is only read. Empty: start a run
    over the vectors of --index, without training."""
    condition: str = field(kw_only=True)
    """The new condition: the name of a column of labels, or any name for triplets."""
    table: tuple[str, ...] = ()
    """A CSV or Parquet table, or several of one kind, such as those that people save on the page of csn_jax teach.
    Labels: one column has the name of the condition, and each row has an item: its image or vector, or the id of an
    item of --index or of the run. Triplets: columns anchor, positive and negative, with ids of such items or with paths
    of images relative to the table; optional columns are condition and split. Empty: the run's own labels, or those in
    --index."""
    out: str = ""
    """The new workdir. Empty: WORKDIR_CONDITION."""
    index: str = ""
    """The items, already embedded: a file that csn_jax embed wrote with this model or, under maps or without
    --workdir, any table with an id and a vector column. Of a run of masks also a Parquet file of embed --features: then
    the new workdir has maps over these features."""
    raters: Literal["weighed", "equal"] = "weighed"
    """How answers of several people, by the column rater or in several tables, count: each person by how well they
    agree with the others, or all alike."""
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

    from csn_jax.adapt.over_features import over_features
    from csn_jax.adapt.report import learn, summary, write_adapted
    from csn_jax.adapt.sources import find_lesson
    from csn_jax.adapt.start import start_on
    from csn_jax.model.run import open_run
    from csn_jax.runtime.whole import check_free
    from csn_jax.runtime.writer import next_step, say

    if not args.workdir and not args.index:
        raise UserError("there is nothing to add a condition to; give --workdir=RUN or --index=FILE.")
    run = open_run(args.workdir, args.data.path) if args.workdir else start_on(args.index)
    _check(args, run)
    place = args.out or f"{args.workdir.rstrip('/') or Path(args.index).with_suffix('')}_{args.condition}"
    out = Path(place).expanduser().absolute()
    if out == run.workdir:
        raise UserError(f"--out={out} is the --workdir itself, which is only read; give a new folder.")
    check_free(out, "--out")
    model = run.model()
    if args.index and (over := over_features(run, model, args.index)):
        run, model = over, over.model()
        say(f"{args.index} holds features of this run's network; the new run has maps over them")
    lesson = find_lesson(args, run, model)
    if lesson.note:
        say(lesson.note)
    learned = learn(lesson, run, model)
    write_adapted(out, run, lesson, learned)
    print(summary(learned.report))
    print(f"{out} holds the model, with conditions {', '.join((*model.conditions, args.condition))}")
    if args.index and run.config.maps_vectors and run.record.source == "imported":
        query = (f"--id={lesson.items.ids[0]}", f"--condition={args.condition}")
        next_step("search", f"--index={args.index}", f"--workdir={place}", *query)
    elif run.record.checkpoint is None:
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
