"""Write a web page that shows a run: maps, neighbours, masks, errors.

    csn_jax explore runs/quickstart --out=page
    csn_jax explore runs/products --out=page --split=validation --max_items=2000

The page opens from disk in any browser and sends no requests. It computes what it shows from the float32 vectors and
masks in its folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from csn_jax import cli
from csn_jax.config import Place
from csn_jax.errors import UserError


@dataclass(frozen=True)
class Args:
    workdir: str
    """The folder of a run of csn_jax train."""
    out: str
    """The folder to write. A page that this command wrote before is replaced."""
    split: Literal["train", "validation", "test"] = "test"
    """Which items to show."""
    max_items: int = 10_000
    """If there are more items, the page shows a random sample of this size, and says so."""
    data: Place = field(default_factory=Place)


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv, positional=True)
    out = Path(args.out).expanduser().absolute()
    if args.max_items < 2:
        raise UserError(f"--max_items={args.max_items} leaves no neighbours to show; give 2 or more.")

    from csn_jax.explore.folder import MARK, OURS, write
    from csn_jax.model.run import open_run
    from csn_jax.pictures.maps import has_tsne
    from csn_jax.runtime.whole import check_folder
    from csn_jax.runtime.writer import next_step

    check_folder(out, OURS, MARK)
    if not has_tsne():
        raise UserError("the maps need openTSNE, which is not installed; run pip install openTSNE.")
    n, total = write(out, open_run(args.workdir, args.data.path), args.split, args.max_items)
    print(f"{out / 'index.html'} shows {n:,} of {total:,} {args.split} items; open it in a browser")
    next_step("python", "-m", "webbrowser", Path(args.out) / "index.html")
