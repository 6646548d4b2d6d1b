"""Write tables and figures that compare finished runs.

    csn_jax report runs/quickstart runs/standard
    csn_jax report runs/seed_0 runs/seed_1 runs/seed_2 --out=report/seeds

The folder has report.md, PNG and CSV files: the tables and figures of the paper, with means over seeds. For a paper of
your own, --also svg pdf writes the charts in these formats too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from csn_jax import cli
from csn_jax.errors import UserError

MOST_ITEMS = 2_500  # on a map: giving each its cell then takes 20 s, and the time grows with the third power


@dataclass(frozen=True)
class Args:
    workdirs: tuple[str, ...]
    """Folders of runs of csn_jax train; they are only read. Runs that differ only in their seed become one row."""
    out: str = "report"
    """The folder to write. A report that this command wrote before is replaced."""
    items: int = 900
    """The most items that an image map shows."""
    also: tuple[Literal["svg", "pdf"], ...] = ()
    """Formats in which to write the charts, beside PNG."""


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv, positional=True)
    out = Path(args.out).expanduser().absolute()
    if not 10 <= args.items <= MOST_ITEMS:
        raise UserError(f"--items is {args.items}; give a number from 10 to {MOST_ITEMS:,}.")

    from csn_jax.report.folder import MARKED, OURS, write
    from csn_jax.report.runs import read_finished
    from csn_jax.runtime.whole import check_folder
    from csn_jax.runtime.writer import next_step

    check_folder(out, OURS, MARKED)
    runs, unfinished = read_finished(args.workdirs)
    n_pictures = write(out, runs, unfinished, args.items, args.also)
    print(f"{out / 'report.md'} compares {len(runs)} run{'s' * (len(runs) > 1)}; {n_pictures} pictures lie beside it")
    next_step("explore", runs[0].name, "--out=page")
