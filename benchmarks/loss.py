"""Batch-all and batch-hard losses of pytorch-metric-learning, called once per condition."""

import time

import torch
import torch.nn.functional as F
from pytorch_metric_learning import distances, losses, miners, reducers


def make(words, tiny):
    """words: batch_all or batch_hard, items, conditions, values per condition."""
    name, (items, conditions, values) = words[0], map(int, words[1:4])
    items = 64 if tiny else items
    torch.manual_seed(0)
    embeddings = (torch.randn(items, 64) * 0.1).requires_grad_()
    masks = torch.empty(conditions, 64).normal_(0.9, 0.7).requires_grad_()
    labels = torch.randint(0, values, (items, conditions))
    distance = distances.LpDistance(normalize_embeddings=False, p=2)
    loss = losses.TripletMarginLoss(
        margin=0.2, distance=distance, triplets_per_anchor="all", reducer=reducers.AvgNonZeroReducer()
    )
    miner = miners.BatchHardMiner(distance=distance)

    def measure():
        began = time.perf_counter()
        total = 0
        for condition in range(conditions):
            masked, code = embeddings * F.relu(masks[condition]), labels[:, condition]
            total = total + loss(masked, code, miner(masked, code) if name == "batch_hard" else None)
        total.backward()
        return 1_000 * (time.perf_counter() - began)

    if name == "batch_hard" or tiny:
        measure()
    return measure
