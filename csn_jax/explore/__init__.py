"""Write a web page that shows a run or a file of vectors.

    csn_jax explore runs/quickstart --out=page
    csn_jax explore --index=products.parquet --link='https://shop.example/{id}' --out=page
    csn_jax explore --index=foreign.parquet --workdir=runs/products --out=page

The page opens from disk in any browser and sends no requests. It computes what it shows from the vectors and masks in
its folder.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from csn_jax import cli
from csn_jax.cli.flags import Place
from csn_jax.errors import UserError


@dataclass(frozen=True)
class Args:
    workdir: str = ""
    """The folder of a run of csn_jax train: shows the items of a split. With --index, shows the items of that file
    under the masks of the run."""
    index: str = ""
    """Show all items of this file of vectors from csn_jax embed; with --workdir, of any table with an id and a vector
    column."""
    out: str = field(kw_only=True)
    """The folder to write. A page that this command wrote before is replaced."""
    split: Literal["train", "validation", "test"] = "test"
    """Which items of the run to show."""
    max_items: int = 100_000
    """If there are more items, the page shows a random sample of this size, and says so."""
    link: str = ""
    """The address of an item elsewhere, such as 'https://shop.example/{id}'. The page opens it only on a click."""
    data: Place = field(default_factory=Place)


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv, positional=True)
    out = Path(args.out).expanduser().absolute()
    _check(args)

    from csn_jax.explore.folder import MARK, OURS, page_files
    from csn_jax.explore.items import of_index, of_split
    from csn_jax.model.run import open_run
    from csn_jax.pictures.maps import has_tsne
    from csn_jax.runtime.whole import check_folder, write_folder
    from csn_jax.runtime.writer import next_step
    from csn_jax.store.open_index import open_index

    check_folder(out, OURS, MARK)
    if not has_tsne():
        raise UserError("the maps need openTSNE, which is not installed; run pip install openTSNE.")
    run = open_run(args.workdir, args.data.path) if args.workdir else None
    if args.index:
        shown, what = of_index(open_index(args.index, run, run.model() if run else None), run, args.max_items), "items"
    else:
        shown, what = of_split(run, args.split, args.max_items), f"{args.split} items"
    write_folder(out, page_files(shown, args.link), OURS, MARK)
    print(f"{out / 'index.html'} shows {len(shown.ids):,} of {shown.about['total']:,} {what}; open it in a browser")
    next_step("python", "-m", "webbrowser", Path(args.out) / "index.html")


def _check(args: Args) -> None:
    """Raise UserError for flags that do not go together, and values that show nothing."""
    if not args.workdir and not args.index:
        raise UserError("there is nothing to show; give --workdir=RUN or --index=FILE.")
    if args.max_items < 2:
        raise UserError(f"--max_items={args.max_items} leaves no neighbours to show; give 2 or more.")
    if args.link and not (re.match(r"https?://[^/{]", args.link) and "{id}" in args.link):
        raise UserError(
            f"--link={args.link} is not a web address with {{id}}; give one as https://shop.example/{{id}}."
        )
