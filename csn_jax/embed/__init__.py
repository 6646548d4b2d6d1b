"""Embed images, a table or a run's items into one file of vectors.

    csn_jax embed --workdir=runs/quickstart --split=test --out=glyphs.parquet
    csn_jax embed --workdir=runs/products --table=products.csv --out=products.parquet
    csn_jax embed --encoder=encoder.onnx --table=products.csv --out=features.parquet
    csn_jax embed --encoder=efficientnet_lite0 --images=photos --out=photos.parquet
    csn_jax embed --index=parts --to_postgres=postgresql://localhost/shop

The file is for csn_jax search, for vector stores (--by_condition) or for training (--features, --encoder). Rerun the
same command to resume. When items changed, add --update.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from csn_jax import cli
from csn_jax.cli.flags import Place
from csn_jax.errors import UserError

BOTH = "--update and --rebuild are both given; leave out --rebuild to keep what did not change."


@dataclass(frozen=True)
class Pictures:
    """How --encoder takes pictures, where neither its file nor a preprocessor_config.json beside it says so; for
    efficientnet_lite0, in place of its own way."""

    size: int = 0
    """Height and width in pixels."""
    mean: tuple[float, ...] = ()
    """Mean per channel, on the scale 0 to 1."""
    std: tuple[float, ...] = ()
    """Standard deviation per channel, on the scale 0 to 1."""
    fit: Literal["", "crop", "pad"] = ""
    """How a picture becomes square, as --config.preprocess.fit. Empty: as the file says, or crop."""


@dataclass(frozen=True)
class Args:
    out: str = ""
    """The file to write: FILE.parquet, FILE.arrow or FILE.npz. A folder of Arrow files is searched on the disk."""
    workdir: str = ""
    """The folder of a run of csn_jax train, or of an imported model."""
    encoder: str = ""
    """In place of --workdir: an ONNX file of any network from pictures to vectors (extra `encoder`); or
    efficientnet_lite0, with its ImageNet weights (extra `pretrained`). The vectors are stored as --features are."""
    images: str = ""
    """Embed the images in this folder and below it; their ids are their paths from there."""
    table: str = ""
    """Embed the rows of this CSV or Parquet table: its images, or its vectors for a model of vectors. The other columns
    become attributes to show and to filter by."""
    index: str = ""
    """Embed nothing: store what this file, or this folder of part files of csn_jax beam, holds, with --to_qdrant or
    --to_postgres. A folder is read part by part."""
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
    weight 0; for a model of maps, the vector's view."""
    features: bool = False
    """Store the input of the last linear layer instead of the embedding: vectors for --config=features to train on."""
    to_qdrant: str = ""
    """Also store the vectors in Qdrant: a folder, in which it runs embedded, or the http(s) URL of a server, whose key
    is read from the environment variable QDRANT_API_KEY."""
    to_postgres: str = ""
    """Also store the vectors in PostgreSQL with pgvector: postgresql://USER@HOST/DATABASE. The password is read from
    the environment variable PGPASSWORD or from ~/.pgpass."""
    collection: str = ""
    """The Qdrant collection, or the table in PostgreSQL. Empty: the name of the file."""
    yes: bool = False
    """Store more than 20,000 items in a folder of Qdrant without being asked. A server is faster."""
    rebuild: bool = False
    """Replace the file if it exists, and the collection if it holds other vectors."""
    update: bool = False
    """Make the file hold these items by embedding only those that are new or whose picture or vector changed. Others
    keep their vectors and take their attributes from now; items that are gone are removed, also from the store."""
    data: Place = field(default_factory=Place)
    preprocess: Pictures = field(default_factory=Pictures)


def main(argv: Sequence[str]) -> None:
    args = cli.parse(Args, argv)
    _check(args)
    if args.index:
        _store_index(args)
        return

    from csn_jax.embed.file import check_out, find_items, finished_ids, old_file, write_vectors
    from csn_jax.embed.stores import check_stores, store
    from csn_jax.embed.update import changes_of
    from csn_jax.model.chunks import digest_of_request
    from csn_jax.store.vector_file import check_columns, read_embeddings

    out = check_out(args)
    if args.encoder:
        from csn_jax.embed.encoder import items_of, open_encoder

        args, model = replace(args, features=True), open_encoder(args)
        items, conditions = items_of(args, model), ()
    else:
        from csn_jax.model.run import open_run

        run = open_run(args.workdir, args.data.path)
        model, items, conditions = run.model(), find_items(args, run), run.record.conditions
    check_columns(items.columns)
    flags = {"features": args.features, "by_condition": args.by_condition}
    made_from = digest_of_request(model, items.made_from, args.dtype, **flags)
    named = args.collection or out.stem
    # reported before hours of embedding
    check_stores(args, named, model.sha256, model.conditions, len(items.ids), items.columns)
    old = old_file(out, made_from, model.sha256, args.dtype) if args.update else None
    if out.exists() and not args.rebuild and old is None:
        ids = finished_ids(out, made_from)
        print(f"{out} holds these {len(ids):,} vectors already; nothing to embed")
    else:
        digests = items.digests()
        changes = changes_of(old, items, digests) if old else None
        embeddings = write_vectors(args, out, conditions, model, items, made_from, digests, changes)
        (n, width), ids = embeddings.vectors.shape, embeddings.ids
        changes = changes and changes.to(ids)
        masks = "maps" if model.maps else "masks"
        kind = "features" if args.features else f"dimensions, with the {masks} of {', '.join(model.conditions)}"
        left_out = len(items.ids) - n
        unread = f"; {left_out:,} of {len(items.ids):,} could not be read" if left_out else ""
        print(f"{out} holds {n:,} vectors of {width:,} {kind}{unread}" + (f" ({changes})" if changes else ""))
    if args.to_qdrant or args.to_postgres:
        store(args, named, read_embeddings(out))
    _next_step(args, named, ids[0], *model.conditions[:1], labelled=bool(items.columns))


def _store_index(args: Args) -> None:
    """Upload what a file or a folder holds."""
    from csn_jax.embed.stores import check_stores, store
    from csn_jax.store.index import Index

    index, name = Index.open(args.index), args.collection or Path(args.index).expanduser().absolute().stem
    check_stores(args, name, index.items.model_sha256, index.conditions, len(index), index.columns)
    store(args, name, index.items)
    _next_step(args, name, index.ids[0], *index.conditions[:1])


def _check(args: Args) -> None:
    """Raise UserError for flags that do not go together."""
    if args.index:
        _check_index(args)
        return
    if not args.out:
        raise UserError("--out is missing; give --out=FILE.parquet.")
    if bool(args.workdir) == bool(args.encoder):
        problem = "--workdir and --encoder are both given" if args.workdir else "there is no network to embed with"
        raise UserError(
            f"{problem}; give one of --workdir=DIR of a run, --encoder=FILE.onnx and --encoder=efficientnet_lite0."
        )
    sources = [f"--{name}" for name in ("images", "table", "split") if getattr(args, name)]
    if len(sources) != 1:
        problem = f"{' and '.join(sources)} are given" if sources else "there is nothing to embed"
        raise UserError(f"{problem}; give one of --images=FOLDER, --table=FILE and --split=test.")
    if args.encoder and (args.split or args.vectors):
        unfit = "--split, which reads a run's items" if args.split else "--vectors, which it does not take"
        raise UserError(f"--encoder is given with {unfit}; give --images or --table of pictures alone.")
    if not args.encoder and args.preprocess != Pictures():
        raise UserError("--preprocess is for --encoder, and the run of --workdir has its own; leave it out.")
    bare = "--encoder" if args.encoder else "--features" if args.features else ""
    if bare and args.by_condition:
        raise UserError(f"--by_condition is given with {bare}, which no condition masks; leave out one of them.")
    if bare and args.dtype == "int8":
        raise UserError(f"--dtype=int8 is given with {bare}, which training reads without a scale; use float16.")
    stores = [f"--{name}" for name in ("to_qdrant", "to_postgres") if getattr(args, name)]
    if bare and stores:
        raise UserError(f"{stores[0]} is given with {bare}, which no condition masks; leave out one of them.")
    if args.update and args.rebuild:
        raise UserError(BOTH)
    if args.update and (bare or args.dtype == "int8"):
        reason = f"{bare}, whose file keeps no digests of the inputs"
        reason = reason if bare else "--dtype=int8, whose scale depends on all vectors"
        raise UserError(f"--update is given with {reason}; use --rebuild, or --dtype=float16 for a small file.")
    if args.data.path and not args.split:
        raise UserError("--data.path is given without --split, which reads the run's own items; leave out --data.path.")
    if args.collection and not stores:
        raise UserError("--collection is given without --to_qdrant or --to_postgres; add one, or leave it out.")


def _check_index(args: Args) -> None:
    """Raise UserError for flags that do not go with --index."""
    allowed = ("index", "to_qdrant", "to_postgres", "collection", "yes", "rebuild", "update")
    if other := [f for f in fields(Args) if f.name not in allowed and getattr(args, f.name) != getattr(Args(), f.name)]:
        raise UserError(f"--index, which embeds nothing, is given with --{other[0].name}; leave out one of them.")
    if not (args.to_qdrant or args.to_postgres):
        raise UserError("--index is given without a store; add --to_qdrant=URL or --to_postgres=URL.")
    if args.update and args.rebuild:
        raise UserError(BOTH)


def _next_step(args: Args, name: str, item: str, condition: str = "", *, labelled: bool = True) -> None:
    from csn_jax.runtime.writer import next_step

    if args.features and not args.out.endswith(".npz"):
        training = ("train", "--config=features", f"--config.data.path={args.out}")
        next_step(*(training if labelled else ("teach", f"--index={args.out}", "--condition=kind", "--out=page")))
    elif args.features:
        next_step("python", "-c", f"import numpy; print(numpy.load({args.out!r})['vectors'].shape)")
    elif args.to_postgres:
        from csn_jax.store.postgres import place_of

        place = (place_of(args.to_postgres, "--postgres"), f"--collection={name}")
        next_step("search", *place, f"--id={item}", f"--condition={condition}")
    elif args.to_qdrant:
        place = (f"--qdrant={args.to_qdrant}", f"--collection={name}")
        next_step("search", *place, f"--id={item}", f"--condition={condition}")
    else:
        next_step("search", f"--index={args.out}", f"--id={item}", f"--condition={condition}")
