"""Find the nearest items under one condition or a weighted mix.

    csn_jax search --index=glyphs.parquet --id=nunito/x --condition character
    csn_jax search --index=products.parquet --workdir=runs/products --image=shoe.jpg --condition category colour=0.5

A query is an item of the index, an image, or a folder of images. A negative weight pushes results away.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from csn_jax import cli
from csn_jax.errors import UserError


@dataclass(frozen=True)
class Args:
    index: str = ""
    """A file that csn_jax embed wrote."""
    qdrant: str = ""
    """Instead of --index: the folder or http(s) URL that csn_jax embed --to_qdrant wrote to. The key of a server is
    read from the environment variable QDRANT_API_KEY."""
    collection: str = ""
    """The Qdrant collection. Empty: the only one."""
    candidates: int = 200
    """For a mix of conditions in Qdrant: how many items of each condition to look at. More is slower and finds more."""
    workdir: str = ""
    """The run whose model embedded the index. It embeds --image, and its masks are used, also those added since. A
    search by --id does not need it."""
    image: str = ""
    """Search by this image, or by each image of this folder."""
    id: str = ""
    """Search by this item of the index. It is not a hit itself."""
    condition: tuple[str, ...] = ()
    """NAME or NAME=WEIGHT, one or several: under what to measure distances. A negative weight pushes results away."""
    filter: tuple[str, ...] = ()
    """COLUMN=VALUE, one or several: find only items with one of the values given for each column."""
    k: int = 10
    """How many items to find."""
    explain: bool = False
    """Show per hit what its distance is made of, and under which conditions it is near."""
    json: bool = False
    """Print JSON: {"query", "hits": [{"id", "distance", ...}]}; for a folder of queries, a list of these."""
    save: str = ""
    """Write the images of queries and hits to this .png file."""


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv)
    _check(args)

    from csn_jax.runtime.writer import next_step
    from csn_jax.search.answers import as_json, as_text
    from csn_jax.search.find import in_index, in_qdrant

    answers = in_qdrant(args) if args.qdrant else in_index(args)
    if args.save:
        from csn_jax.search.sheet import save_sheet  # imports JAX

        save_sheet(Path(args.save).expanduser().absolute(), answers)
    if args.json:
        objects = as_json(answers)
        of_folder = args.image and Path(args.image).expanduser().is_dir()
        print(json.dumps(objects if of_folder else objects[0], indent=2, ensure_ascii=False))
    else:
        print(as_text(answers))
    if args.explain or args.qdrant:
        next_step("search", *cli.without(argv, "k"), f"--k={2 * args.k}")
    else:
        next_step("search", *argv, "--explain")


def _check(args: Args) -> None:
    """Raise UserError for flags that do not go together."""
    if bool(args.index) == bool(args.qdrant):
        problem = "--index and --qdrant are both given" if args.index else "there is nothing to search"
        raise UserError(f"{problem}; give one of --index=FILE and --qdrant=FOLDER_OR_URL.")
    if args.collection and not args.qdrant:
        raise UserError("--collection is given without --qdrant; add --qdrant, or leave out --collection.")
    if args.explain and args.qdrant:
        raise UserError("--explain compares hits with all items, but Qdrant returns only some; give --index=FILE.")
    if bool(args.image) == bool(args.id):
        problem = "--image and --id are both given" if args.id else "no query is given"
        raise UserError(f"{problem}; give one of --image=FILE.jpg, --image=FOLDER and --id=ID.")
    if args.image and not args.workdir:
        raise UserError("--image needs the model that embedded the index; give its --workdir.")
    for name in ("k", "candidates"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; give a whole number of at least 1.")
    if args.save and (not args.save.endswith(".png") or not Path(args.save).expanduser().absolute().parent.is_dir()):
        raise UserError(f"--save={args.save} cannot be written; give FILE.png in a folder that exists.")
