"""Find the nearest items under one condition or a weighted mix.

    csn_jax search --index=glyphs.parquet --id=nunito/x --condition character
    csn_jax search --index=products.parquet --workdir=runs/products --image=shoe.jpg --condition category colour=0.5
    csn_jax search --index=products.parquet --id=p7 --condition category --filter 'price<50' --leave_out_same=product

A query is an item of the index, a vector, an image, or a folder of images. A negative weight pushes results away.
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
    """A file that csn_jax embed wrote, or a folder of such files, the parts of one index; with --workdir also any
    Parquet file with an id and a vector per row, embeddings or inputs of the run's model."""
    qdrant: str = ""
    """Instead of --index: the folder or http(s) URL that csn_jax embed --to_qdrant wrote to. The key of a server is
    read from the environment variable QDRANT_API_KEY."""
    postgres: str = ""
    """Instead of --index: the database that csn_jax embed --to_postgres wrote to, as postgresql://USER@HOST/DATABASE.
    The password is read from the environment variable PGPASSWORD or from ~/.pgpass."""
    collection: str = ""
    """The Qdrant collection, or the table in PostgreSQL. Empty: the only one."""
    candidates: int = 200
    """For a mix of conditions in a store: how many items of each to look at. More is slower and finds more."""
    workdir: str = ""
    """The run whose model embedded the index. It embeds --image, and its masks are used, also those added since. A
    search by --id does not need it where csn_jax embed wrote the index."""
    image: str = ""
    """Search by this image, or by each image of this folder."""
    id: str = ""
    """Search by this item of the index. It is not a hit itself."""
    vector: str = ""
    """Search by the vector in this file, or by each of several: .npy, JSON or numbers in text; - for standard input.
    An embedding, or with --workdir an input of a model of vectors."""
    condition: tuple[str, ...] = ()
    """NAME or NAME=WEIGHT, one or several: under what to measure distances. A negative weight pushes results away."""
    filter: tuple[str, ...] = ()
    """COLUMN=VALUE, COLUMN!=VALUE, or a range of numbers or dates in quotes, as in 'price<50' 'year>=2011'; one or
    several: find only items with one of the values given for each column, and in each range."""
    leave_out_same: str = ""
    """A column: leave out the hits that share its value with the query, as the other photos of a product."""
    k: int = 10
    """How many items to find."""
    explain: bool = False
    """Show per hit what its distance is made of, and under which conditions it is near."""
    json: bool = False
    """Print JSON: {"query", "hits": [{"id", "distance", ...}]}; for several queries, a list of these."""
    save: str = ""
    """Write the images of queries and hits to this .png file."""


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv)
    _check(args)

    from csn_jax.runtime.writer import next_step
    from csn_jax.search.answers import as_json, as_text
    from csn_jax.search.find import in_index, in_postgres, in_qdrant

    answers = (in_qdrant if args.qdrant else in_postgres if args.postgres else in_index)(args)
    if args.save:
        from csn_jax.search.sheet import save_sheet  # imports JAX

        save_sheet(Path(args.save).expanduser().absolute(), answers)
    if args.json:
        objects = as_json(answers)
        print(json.dumps(objects[0] if answers.single else objects, indent=2, ensure_ascii=False))
    else:
        print(as_text(answers))
    if args.vector == "-":  # standard input is spent
        return
    if args.explain or args.qdrant or args.postgres:
        words = cli.without(argv, "k")
        if args.postgres:  # its password is not printed
            from csn_jax.store.postgres import place_of

            words = [*cli.without(words, "postgres"), place_of(args.postgres, "--postgres")]
        next_step("search", *words, f"--k={2 * args.k}")
    else:
        next_step("search", *argv, "--explain")


def _check(args: Args) -> None:
    """Raise UserError for flags that do not go together."""
    places = [f"--{name}" for name in ("index", "qdrant", "postgres") if getattr(args, name)]
    if len(places) != 1:
        problem = f"{' and '.join(places)} are {'both' if len(places) == 2 else 'all'} given"
        problem = problem if places else "there is nothing to search"
        raise UserError(f"{problem}; give one of --index=FILE, --qdrant=FOLDER_OR_URL and --postgres=URL.")
    if args.collection and args.index:
        raise UserError("--collection is given without --qdrant or --postgres; add one, or leave out --collection.")
    if args.explain and not args.index:
        raise UserError(f"--explain compares hits with all items, but {places[0]} returns some; give --index=FILE.")
    if args.leave_out_same and not (args.index and not args.vector):
        other = "--vector" if args.index else places[0]
        fix = f"with {other}, give --filter '{args.leave_out_same}!=VALUE'"
        raise UserError(f"--leave_out_same compares hits with an item of --index that is the query; {fix}.")
    queries = [f"--{name}" for name in ("image", "id", "vector") if getattr(args, name)]
    if len(queries) != 1:
        both = "all" if len(queries) > 2 else "both"
        problem = f"{' and '.join(queries)} are {both} given" if queries else "no query is given"
        raise UserError(f"{problem}; give one of --image=FILE.jpg, --image=FOLDER, --id=ID and --vector=FILE.")
    if args.image and not args.workdir:
        raise UserError("--image needs the model that embedded the index; give its --workdir.")
    for name in ("k", "candidates"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; give a whole number of at least 1.")
    if args.save and (not args.save.endswith(".png") or not Path(args.save).expanduser().absolute().parent.is_dir()):
        raise UserError(f"--save={args.save} cannot be written; give FILE.png in a folder that exists.")
