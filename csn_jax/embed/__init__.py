"""Embed images, a table or a run's items into one file of vectors.

    csn_jax embed --workdir=runs/quickstart --split=test --out=glyphs.parquet
    csn_jax embed --workdir=runs/products --table=products.csv --out=products.parquet

The file is for csn_jax search, for vector stores (--by_condition) or for training (--features). Rerun the same command
to resume.
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
    """The folder of a run of csn_jax train, or of an imported model."""
    out: str
    """The file to write: FILE.parquet or FILE.npz."""
    images: str = ""
    """Embed the images in this folder and below it; their ids are their paths from there."""
    table: str = ""
    """Embed the rows of this CSV or Parquet table: its images, or its vectors for a model of vectors. The other columns
    become attributes to show and to filter by."""
    split: Literal["", "train", "validation", "test", "all"] = ""
    """Embed the run's own items: of one split, or all."""
    image: str = ""
    """The table's column of images, as for --config.data.image. Empty: as in the run's own table, or image."""
    id: str = ""
    """The table's column of ids. Empty: as in the run's own table, or id if there is one, else the image paths."""
    vectors: str = ""
    """The table's column of vectors, or a file beside it. Empty: as in the run's own table."""
    dtype: Literal["float32", "float16", "int8"] = "float32"
    """The type of the stored vectors. int8 stores whole numbers, and one scale per dimension."""
    by_condition: bool = False
    """Add a column vec_NAME per condition, for vector stores: the vector times the mask, without the dimensions of
    weight 0."""
    features: bool = False
    """Store the input of the last linear layer instead of the embedding: vectors for --config=features to train on."""
    to_qdrant: str = ""
    """Also store the vectors in Qdrant: a folder, in which it runs embedded, or the http(s) URL of a server, whose key
    is read from the environment variable QDRANT_API_KEY."""
    collection: str = ""
    """The Qdrant collection. Empty: the name of the file."""
    yes: bool = False
    """Store more than 20,000 items in a folder of Qdrant without being asked. A server is faster."""
    rebuild: bool = False
    """Replace the file if it exists, and the collection if it holds other vectors."""
    data: Place = field(default_factory=Place)


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv)
    _check(args)

    from csn_jax.embed.file import check_out, digest, find_items, finished_ids, write_vectors
    from csn_jax.model.run import open_run
    from csn_jax.store.vector_file import check_columns

    out = check_out(args)
    run = open_run(args.workdir, args.data.path)
    model, items = run.model(), find_items(args, run)
    check_columns(items.columns)
    made_from = digest(args, model, items)
    if args.to_qdrant:  # reported before hours of embedding
        from csn_jax.store.qdrant import check_place

        collection, n = args.collection or out.stem, len(items.ids)
        check_place(args.to_qdrant, collection, model.sha256, n, rebuild=args.rebuild, yes=args.yes)
    if out.exists() and not args.rebuild:
        ids = finished_ids(out, made_from)
        print(f"{out} holds these {len(ids):,} vectors already; nothing to embed")
    else:
        embeddings = write_vectors(args, out, run, model, items, made_from)
        (n, width), ids = embeddings.vectors.shape, embeddings.ids
        kind = "features" if args.features else f"dimensions, with the masks of {', '.join(model.conditions)}"
        left_out = len(items.ids) - n
        unread = f"; {left_out:,} of {len(items.ids):,} could not be read" if left_out else ""
        print(f"{out} holds {n:,} vectors of {width:,} {kind}{unread}")
    if args.to_qdrant:
        _upload(args, out)
    _next_step(args, ids[0], model.conditions[0])


def _check(args: Args) -> None:
    """Raise UserError for flags that do not go together."""
    sources = [f"--{name}" for name in ("images", "table", "split") if getattr(args, name)]
    if len(sources) != 1:
        problem = f"{' and '.join(sources)} are given" if sources else "there is nothing to embed"
        raise UserError(f"{problem}; give one of --images=FOLDER, --table=FILE and --split=test.")
    if args.features and args.by_condition:
        raise UserError("--by_condition is given with --features, which no condition masks; leave out one of them.")
    if args.features and args.dtype == "int8":
        raise UserError("--dtype=int8 is given with --features, which training reads without a scale; use float16.")
    if args.features and args.to_qdrant:
        raise UserError("--to_qdrant is given with --features, which no condition masks; leave out one of them.")
    if args.data.path and not args.split:
        raise UserError("--data.path is given without --split, which reads the run's own items; leave out --data.path.")
    if args.collection and not args.to_qdrant:
        raise UserError("--collection is given without --to_qdrant; add --to_qdrant, or leave out --collection.")


def _upload(args: Args, out: Path) -> None:
    from csn_jax.store.qdrant import upload
    from csn_jax.store.vector_file import read_embeddings

    embeddings, name = read_embeddings(out), args.collection or out.stem
    sent = upload(embeddings, args.to_qdrant, name, rebuild=args.rebuild)
    already = "" if sent else " already"
    print(f"{args.to_qdrant} holds these {len(embeddings.ids):,} vectors{already}, in the collection {name}")


def _next_step(args: Args, item: str, condition: str) -> None:
    from csn_jax.runtime.writer import next_step

    if args.features and args.out.endswith(".parquet"):
        next_step("train", "--config=features", f"--config.data.path={args.out}")
    elif args.features:
        next_step("python", "-c", f"import numpy; print(numpy.load({args.out!r})['vectors'].shape)")
    elif args.to_qdrant:
        place = (f"--qdrant={args.to_qdrant}", f"--collection={args.collection or Path(args.out).stem}")
        next_step("search", *place, f"--id={item}", f"--condition={condition}")
    else:
        next_step("search", f"--index={args.out}", f"--id={item}", f"--condition={condition}")
