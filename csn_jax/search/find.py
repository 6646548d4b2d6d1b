"""One search, from the flags of the command to its answers: in a file of vectors, or in a Qdrant collection."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from csn_jax.search.answers import Answers, to_hits
from csn_jax.search.explain import explain
from csn_jax.search.qdrant_search import Collection
from csn_jax.search.query import Query, embed_images, parse_filters, parse_weights, rows_by_picture, spellings
from csn_jax.store.index import Index
from csn_jax.store.qdrant import connected

if TYPE_CHECKING:
    from csn_jax.model.model import Model
    from csn_jax.model.run import Run
    from csn_jax.search import Args


def in_index(args: "Args") -> Answers:
    """Search the file of --index."""
    run, model = _opened(args.workdir)
    index = Index.open(args.index)
    if model:
        index = index.of_model(model.sha256, model.conditions, model.masks)
    weights, filters = parse_weights(args.condition, index.conditions), parse_filters(args.filter, index.columns)
    index.weight(weights)  # report a mistake before embedding
    if args.image:
        pictures = index.items.pictures
        row_of = rows_by_picture(index.columns.get(pictures.get("image"), index.ids).tolist(), pictures)
        queries = embed_images(Path(args.image).expanduser(), run, model)
        queries = [query._replace(row=row_of(query.path)) for query in queries]
    else:
        row = index.row(args.id)
        queries = [Query(args.id, index.vectors[row], row=row)]
    vectors, own = np.stack([query.vector for query in queries]), [query.row for query in queries]
    rows, squares = index.nearest(vectors, weights, args.k, filters=filters, exclude=own)
    hits, reasons = to_hits(rows, squares), None
    if args.explain:
        reasons = [
            explain(index, query.vector, [hit.row for hit in nearest], weights, query.row)
            for query, nearest in zip(queries, hits, strict=True)
        ]
    return Answers(index, len(index.ids), weights, filters, queries, hits, reasons)


def in_qdrant(args: "Args") -> Answers:
    """Search the collection of --qdrant."""
    run, model = _opened(args.workdir)
    with connected(args.qdrant, "--qdrant") as client:
        collection = Collection.open(client, args.collection, f"--qdrant={args.qdrant}")
        empty = collection.empty
        if model:
            collection.check_model(model.sha256, model.conditions, model.masks)
        weights, filters = parse_weights(args.condition, empty.conditions), parse_filters(args.filter, empty.columns)
        collection.check(weights, filters)  # report a mistake before embedding
        if args.image:
            queries = embed_images(Path(args.image).expanduser(), run, model)
            paths = [spellings(query.path, empty.items.pictures) for query in queries]
            own = [next(filter(None, map(collection.item_of, names)), "") for names in paths]
        else:
            queries, own = [Query(args.id, collection.vector(args.id))], [args.id]
        vectors = np.stack([query.vector for query in queries])
        hits = collection.search(vectors, own, weights, args.k, filters=filters, candidates=args.candidates)
        n_items = client.count(collection.name, exact=True).count
    queries = [query._replace(row=row) for query, row in zip(queries, hits.own, strict=True)]
    return Answers(hits.index, n_items, weights, filters, queries, to_hits(hits.rows, hits.squares), None)


def _opened(workdir: str) -> tuple["Run | None", "Model | None"]:
    if not workdir:
        return None, None
    from csn_jax.model.run import open_run  # imports JAX

    run = open_run(workdir)
    return run, run.model()
