"""Recall of Qdrant's graphs, in Qdrant's own engine without a server (qdrant-edge-py): the client has no graphs."""

import itertools

import numpy as np
import pytest

from csn_jax.runtime.record import Condition
from csn_jax.store.embeddings import Embeddings
from csn_jax.store.index import Index
from csn_jax.store.qdrant import cut, vector_name

N, D, QUERIES, CANDIDATES = 6000, 32, 40, 200


@pytest.mark.slow
def test_graphs_find_what_index_finds(tmp_path):
    """Under each condition at least 0.99 of the 10 nearest are among the candidates, under mixtures at least 0.98; so
    they are hits, as candidates are ranked exactly. The vectors are named, cut and compared as `upload` has them."""
    edge = pytest.importorskip("qdrant_edge", reason="needs Qdrant's engine: pip install qdrant-edge-py")
    rng = np.random.default_rng(0)
    masks = np.zeros((3, D), np.float32)
    for mask in masks:
        mask[rng.permutation(D)[:14]] = rng.uniform(0.2, 1.5, 14)
    vectors = (rng.normal(size=(300, D))[rng.integers(0, 300, N)] + rng.normal(0, 0.6, (N, D))).astype(np.float32)
    conditions, ids = tuple(Condition(name, "categorical") for name in "abc"), np.arange(N).astype(str).astype(object)
    index = Index(Embeddings(ids, vectors, {}, conditions, masks, "", {}), tuple("abc"), masks)
    graph = edge.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10)
    named = {vector_name(name): cut(vectors, mask) for name, mask in zip("abc", masks, strict=True)}
    config = edge.EdgeConfig(
        vectors={
            name: edge.EdgeVectorParams(size=part.shape[1], distance=edge.Distance.Euclid, hnsw_config=graph)
            for name, part in named.items()
        },
        hnsw_config=graph,
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=10, default_segment_number=1),
    )
    shard = edge.EdgeShard.create(str(tmp_path / "shard"), config)
    for start in range(0, N, 1000):
        points = [
            edge.Point(row, {name: part[row].tolist() for name, part in named.items()})
            for row in range(start, start + 1000)
        ]
        shard.update(edge.UpdateOperation.upsert_points(points))
    shard.optimize()
    assert shard.info().indexed_vectors_count > 0.9 * 3 * N  # the graphs are there
    only_graphs = edge.SearchParams(indexed_only=True)
    rows = rng.choice(N, QUERIES, replace=False)

    def near(name, row):
        query = edge.Query.Nearest(named[name][row].tolist(), using=name)
        answer = shard.query(edge.QueryRequest(limit=CANDIDATES, query=query, params=only_graphs))
        return {point.id for point in answer}

    mixtures = [{a: 1, b: weight} for a, b in itertools.permutations("abc", 2) for weight in (1, 0.3)]
    for weights in [{"a": 1}, {"b": 1}, {"c": 1}, *mixtures]:
        expected, _ = index.nearest(vectors[rows], weights, 10, exclude=rows)
        found = [set().union(*(near(vector_name(name), int(row)) for name in weights)) for row in rows]
        recall = np.mean([len({*true.tolist()} & some) / 10 for true, some in zip(expected, found, strict=True)])
        print(f"{weights}: {recall:.4f}")
        assert recall >= (0.99 if len(weights) == 1 else 0.98), weights
    shard.close()
