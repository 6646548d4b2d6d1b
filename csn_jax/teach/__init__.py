"""Write a web page that learns a new condition from a person.

    csn_jax teach --index=products.parquet --condition=style --out=page
    csn_jax teach --index=products.parquet --condition=colour --values red green blue --out=page
    csn_jax teach --index=products.parquet --condition=mood --ask=grid --out=page

The page opens from disk in any browser, sends no requests, and keeps the answers in the browser. It asks for the values
of single items, or which of twelve items are like another one. It shows how good the condition is by now, and says when
more answers would bring little.

It saves the answers as labels.csv or triplets.csv. Give them to csn_jax adapt, also those of several people together.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from csn_jax import cli
from csn_jax.cli.flags import Place
from csn_jax.errors import UserError


@dataclass(frozen=True)
class Args:
    index: str = field(kw_only=True)
    """A file of vectors from csn_jax embed, or any table with an id and a vector column."""
    condition: str = field(kw_only=True)
    """The name of the new condition."""
    out: str = field(kw_only=True)
    """The folder to write. A page that this command wrote before is replaced."""
    ask: Literal["values", "grid"] = "values"
    """What to ask: the value of an item, for a condition with words; or which of twelve items are like another one."""
    values: tuple[str, ...] = ()
    """Values to choose from at the start. More can be added on the page."""
    workdir: str = ""
    """The run that the condition will be added to, if there is one: the page then takes the vectors as it does."""
    max_items: int = 10_000
    """If there are more items, the page asks about a random sample of this size, and says so."""
    data: Place = field(default_factory=Place)


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv)
    out = Path(args.out).expanduser().absolute()
    _check(args)

    from csn_jax.runtime.whole import check_folder, write_folder
    from csn_jax.runtime.writer import next_step
    from csn_jax.teach.folder import MARK, OURS, page_files
    from csn_jax.teach.items import find_items

    check_folder(out, OURS, MARK)
    asked = find_items(args)
    table = "labels.csv" if args.ask == "values" else "triplets.csv"
    run = (f"--workdir={args.workdir}",) if args.workdir else ()
    adapt = ("adapt", *run, f"--index={args.index}", f"--table={table}", f"--condition={args.condition}")
    page = page_files(asked, args.condition, args.ask, args.values, shlex.join(("csn_jax", *adapt)))
    write_folder(out, page, OURS, MARK)
    print(f"{out / 'index.html'} asks about {len(asked.ids):,} of {asked.total:,} items; open it in a browser")
    next_step("python", "-m", "webbrowser", Path(args.out) / "index.html")


def _check(args: Args) -> None:
    """Raise UserError for flags that do not go together, and values that ask nothing."""
    from csn_jax.runtime.record import check_name

    check_name(args.condition)
    if args.condition in ("id", "rater"):
        raise UserError(
            f"--condition={args.condition} is the name of another column of the answers; give another name."
        )
    if args.values and args.ask == "grid":
        raise UserError("--values has no use with --ask=grid, which asks for no value; leave one of them out.")
    if any(not value.strip() for value in args.values) or len(set(args.values)) < len(args.values):
        raise UserError(f"--values={' '.join(args.values)} has an empty or a repeated value; give different words.")
