"""Measure the triplet error in PyTorch as the reference does: three images per triplet through the network."""

import time

import networks
import numpy as np
import torch
import torch.nn.functional as F


def make(words, tiny):
    """words: items, triplets, pixels, conditions."""
    items, triplets, size, conditions = map(int, words)
    items, triplets = (100, 200) if tiny else (items, triplets)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (items, 1, size, size), np.uint8)
    columns = rng.integers(0, items, (3, triplets))
    condition = torch.from_numpy(rng.integers(0, conditions, triplets))
    net = networks.ConditionalNet(networks.small(size, 1), conditions).eval()

    @torch.inference_mode()
    def measure(batch=256):
        began, right = time.perf_counter(), 0
        for start in range(0, triplets, batch):
            rows = slice(start, start + batch)
            mask = F.relu(net.masks[condition[rows]])
            anchor, far, near = (
                net.network((torch.from_numpy(pixels[role[rows]]).float() / 255 - 0.1) / 0.3) * mask for role in columns
            )
            right += (F.pairwise_distance(anchor, far) > F.pairwise_distance(anchor, near)).sum().item()
        return time.perf_counter() - began

    return measure
