"""Exact search with faiss: one flat index per condition, of masked vectors, of views, or of raw vectors."""

import time

import faiss
import numpy as np

PIECE = 2_000  # vectors at a time, so that the peak memory is that of the indices


def make(words, tiny):
    """words: queries per call, items, conditions, and numbers per item and condition if not 64; or those of `first`."""
    if words[0] == "first":
        return first(*map(int, words[1:]), tiny)
    queries, items, conditions, width = map(int, (*words, 64)[:4])
    items = 2_000 if tiny else items
    rng = np.random.default_rng(0)
    masks = np.maximum(rng.normal(0.9, 0.7, (conditions, width)), 0).astype(np.float32)
    indices = [empty(items, width) for _ in masks]
    query_vectors = None
    for start in range(0, items, PIECE):
        vectors = rng.standard_normal((min(PIECE, items - start), width), np.float32)
        if query_vectors is None:
            query_vectors = vectors[:queries] + np.float32(0.1)
        for index, mask in zip(indices, masks, strict=True):
            index.add(vectors * mask)
    for index, mask in zip(indices, masks, strict=True):
        index.search(query_vectors * mask, 10)
    turn = 0

    def measure():
        nonlocal turn
        turn += 1
        condition = turn % conditions
        began = time.perf_counter()
        indices[condition].search(query_vectors * masks[condition], 10)
        return 1_000 * (time.perf_counter() - began)

    return measure


def first(items, width, rank, tiny):
    """The first query under a map of `rank` rows: NumPy multiplies float16 vectors, and faiss takes the products."""
    items = 2_000 if tiny else items
    rng = np.random.default_rng(0)
    vectors = np.empty((items, width), np.float16)
    for start in range(0, items, PIECE):
        piece = vectors[start : start + PIECE]
        piece[:] = rng.integers(-64, 65, piece.shape, np.int8) / np.float16(64)
    matrix = rng.standard_normal((width, rank), np.float32) / np.float32(28)

    def view(raw):
        raw = raw.astype(np.float32)
        return raw @ matrix / np.sqrt(np.einsum("nd,nd->n", raw, raw))[:, None]

    def measure():
        began = time.perf_counter()
        index = empty(items, rank)
        for start in range(0, items, PIECE):
            index.add(view(vectors[start : start + PIECE]))
        index.search(view(vectors[:1] + np.float16(0.1)), 10)
        return 1_000 * (time.perf_counter() - began)

    return measure


def empty(items, width):
    """A flat index with room for its items. Without it, faiss copies what it has as it grows."""
    index = faiss.IndexFlatL2(width)
    index.codes.resize(items * index.code_size)
    return index
