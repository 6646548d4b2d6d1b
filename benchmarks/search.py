"""Exact search with faiss: one flat index of masked vectors per condition."""

import time

import faiss
import numpy as np


def make(words, tiny):
    """words: queries per call, items, conditions."""
    queries, items, conditions = map(int, words)
    items = 2_000 if tiny else items
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((items, 64), np.float32)
    masks = np.maximum(rng.normal(0.9, 0.7, (conditions, 64)), 0).astype(np.float32)
    query_vectors = vectors[:queries] + np.float32(0.1)
    indices = []
    for mask in masks:
        indices.append(faiss.IndexFlatL2(64))
        indices[-1].add(vectors * mask)
        indices[-1].search(query_vectors * mask, 10)
    turn = 0

    def measure():
        nonlocal turn
        turn += 1
        condition = turn % conditions
        began = time.perf_counter()
        indices[condition].search(query_vectors * masks[condition], 10)
        return 1_000 * (time.perf_counter() - began)

    return measure
