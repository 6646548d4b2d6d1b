"""One search, from the flags of the command to its answers: in a file of vectors, or in a store."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from csn_jax.data import to_embed
from csn_jax.errors import UserError
from csn_jax.runtime.writer import say
from csn_jax.search.answers import Answers, Query, to_hits
from csn_jax.search.explain import explain
from csn_jax.search.query_vectors import as_embeddings, read_vectors
from csn_jax.store.embeddings import Embeddings
from csn_jax.store.filters import parse_rules
from csn_jax.store.open_index import open_index
from csn_jax.store.parts import is_of_parts
from csn_jax.store.texts import first_rows
from csn_jax.text import listed

if TYPE_CHECKING:
    from csn_jax.model.model import Model
    from csn_jax.model.run import Run
    from csn_jax.search import Args
    from csn_jax.search.postgres_search import Table
    from csn_jax.search.qdrant_search import Collection


def in_index(args: "Args") -> Answers:
    """Search the file of --index."""
    run, model = _opened(args.workdir)
    index = open_index(args.index, run, model)
    weights, filters = parse_weights(args.condition, index.conditions), parse_rules(args.filter, index.columns)
    index.weight(weights)  # report a mistake before embedding
    if args.image:
        row_of = row_by_picture(index.items)
        queries = embed_images(Path(args.image).expanduser(), run, model)
        queries = [query._replace(row=row_of(query.path)) for query in queries]
    elif args.vector:
        queries = read_queries(args.vector, index.vectors.shape[1], model)
    else:
        row = index.row(args.id)
        queries = [Query(args.id, index.vectors[row], row=row)]
    vectors, own = np.stack([query.vector for query in queries]), [query.row for query in queries]
    options = {"filters": filters, "exclude": own, "leave_out_same": args.leave_out_same}
    rows, squares = index.nearest(vectors, weights, args.k, **options)
    hits, reasons = to_hits(rows, squares), None
    if args.explain:
        reasons = [
            explain(index, query.vector, [hit.row for hit in nearest], weights, query.row)
            for query, nearest in zip(queries, hits, strict=True)
        ]
    return Answers(index, len(index.ids), weights, filters, queries, hits, reasons, args.leave_out_same)


def read_queries(source: str, dim: int, model: "Model | None") -> list[Query]:
    """A query for each vector of --vector."""
    vectors = read_vectors(source)
    name = "the vector of standard input" if source == "-" else source
    embeddings = as_embeddings(np.atleast_2d(vectors), dim, model, source)
    if vectors.ndim == 1:
        return [Query(name, embeddings[0])]
    return [Query(f"{name}, row {i + 1}", row, of_several=True) for i, row in enumerate(embeddings)]


def in_qdrant(args: "Args") -> Answers:
    """Search the collection of --qdrant."""
    from csn_jax.search.qdrant_search import Collection
    from csn_jax.store.qdrant import connected

    opened = _opened(args.workdir)
    with connected(args.qdrant, "--qdrant") as client:
        return _in_store(args, Collection.open(client, args.collection, f"--qdrant={args.qdrant}"), *opened)


def in_postgres(args: "Args") -> Answers:
    """Search the table of --postgres."""
    from csn_jax.search.postgres_search import Table
    from csn_jax.store.postgres import connected, place_of

    opened = _opened(args.workdir)
    with connected(args.postgres, "--postgres") as connection:
        return _in_store(args, Table.open(connection, args.collection, place_of(args.postgres, "--postgres")), *opened)


def _in_store(args: "Args", store: "Collection | Table", run: "Run | None", model: "Model | None") -> Answers:
    empty = store.empty
    if model:
        store.check_model(model.sha256, model.conditions, model.masks, model.maps)
    weights, filters = parse_weights(args.condition, empty.conditions), parse_rules(args.filter, empty.columns)
    empty.weight(weights)  # report a mistake before embedding
    store.filter_conditions(filters)
    if args.image:
        queries = embed_images(Path(args.image).expanduser(), run, model)
        paths = [spellings(query.path, empty.items.pictures) for query in queries]
        own = [next(filter(None, map(store.item_of, names)), "") for names in paths]
    elif args.vector:
        queries = read_queries(args.vector, store.width, model)
        own = [""] * len(queries)
    else:
        queries, own = [Query(args.id, store.vector(args.id))], [args.id]
    vectors = np.stack([query.vector for query in queries])
    if not args.id:
        vectors = store.view(vectors)
    hits = store.search(vectors, own, weights, args.k, filters=filters, candidates=args.candidates)
    queries = [query._replace(row=row) for query, row in zip(queries, hits.own, strict=True)]
    return Answers(hits.index, len(store), weights, filters, queries, to_hits(hits.rows, hits.squares), None)


def _opened(workdir: str) -> tuple["Run | None", "Model | None"]:
    if not workdir:
        return None, None
    from csn_jax.model.run import open_run  # imports JAX

    run = open_run(workdir)
    return run, run.model()


def parse_weights(words: Sequence[str], conditions: Sequence[str]) -> dict[str, float]:
    """{condition: weight} from NAME and NAME=WEIGHT. `Index.weight` checks the names. A UserError for a name that comes
    twice, a weight that is not a number, or no word at all."""
    weights: dict[str, float] = {}
    for word in words:
        name, equals, weight = word.rpartition("=")
        if word in conditions or not equals:  # a name may contain =
            name, weight = word, "1"
        if name in weights:
            raise UserError(f"--condition names {name} twice; give it one weight.")
        try:
            weights[name] = float(weight)
        except ValueError:
            problem = f"--condition={word}: {weight!r} is not a number"
            raise UserError(f"{problem}; give a weight as in {name}=0.5.") from None
    if not weights:
        raise UserError(f"no --condition is given; choose from {listed(conditions)}.")
    return weights


def embed_images(path: Path, run: "Run", model: "Model") -> list[Query]:
    """A query for each image of a file or folder. Images that cannot be read are reported and left out; a UserError if
    none can be read, or the model does not embed images."""
    form = run.config.preprocess.form
    if len(run.record.input_shape) == 1:
        raise UserError(f"--image={path}: the model of {run.workdir} embeds vectors, not images; search by --id.")
    if path.is_dir():
        source = to_embed.from_folder(path, form, flag="--image")
        names, chunks = source.ids.tolist(), source.chunks(np.arange(len(source.ids)))
        paths = [path / name for name in names]
    else:
        names, paths, chunks = [str(path)], [path], to_embed.decoded([path], [None], form, np.arange(1))
    vectors, faults = [], []
    for images, chunk_faults in chunks:
        vectors += list(np.asarray(model.embed(images)))
        faults += chunk_faults
    if all(faults):
        raise UserError(f"--image={paths[0]} {faults[0]}; give an image file.")
    for name, fault in zip(names, faults, strict=True):
        if fault:
            say(f"left out {name}, which {fault}")
    readable = [i for i, fault in enumerate(faults) if not fault]
    several = path.is_dir()
    return [Query(names[i], vector, paths[i], of_several=several) for i, vector in zip(readable, vectors, strict=True)]


def row_by_picture(items: Embeddings) -> Callable[[Path], int]:
    """A function: the first row whose picture is an image file, or -1."""
    names = items.columns.get(items.pictures.get("image"), items.ids)
    if is_of_parts(items):  # too many to hold: the usual spellings are looked up
        return lambda path: min(first_rows(names, spellings(path, items.pictures)).values(), default=-1)
    return rows_by_picture(names.tolist(), items.pictures)


def rows_by_picture(names: Sequence[str], pictures: Mapping[str, str]) -> Callable[[Path], int]:
    """A function: the first row whose picture is an image file, or -1, however the items' table spells its path, in
    names [N], relative to the root of the pictures, which are as in Embeddings."""
    rows: dict[str, list[int]] = {}  # by file name: resolving a million paths takes seconds
    for row, name in enumerate(names):
        rows.setdefault(name.rpartition("/")[2], []).append(row)

    def row_of(path: Path) -> int:
        for place in _places(path, pictures):
            for row in rows.get(place.name, ()):
                if os.path.normpath(os.path.join(pictures["root"], names[row])) == str(place):
                    return row
        return -1

    return row_of


def spellings(path: Path, pictures: Mapping[str, str]) -> list[str]:
    """How the items' table or folder usually spells the path of an image file: relative to the root of the pictures,
    with and without `./`, or absolute."""
    names = [(place.relative_to(pictures["root"]).as_posix(), str(place)) for place in _places(path, pictures)]
    return [spelling for name, absolute in names for spelling in (name, f"./{name}", absolute)]


def _places(path: Path, pictures: Mapping[str, str]) -> list[Path]:
    """The path of an image file, and the file that it links to, if they lie below the root of the pictures."""
    if pictures.get("kind") not in ("folder", "table"):
        return []
    places = dict.fromkeys((path.parent.resolve() / path.name, path.resolve()))
    return [place for place in places if place.is_relative_to(pictures["root"])]
