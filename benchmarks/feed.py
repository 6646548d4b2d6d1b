"""Read triplets of JPEG files with PyTorch's DataLoader; decode, crop and normalise as the reference does."""

import itertools
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image


class Triplets(torch.utils.data.Dataset):
    """Random triplets of JPEG files."""

    def __init__(self, folder, items, size):
        self.folder, self.size = folder, size
        self.rows = np.random.default_rng(0).integers(0, items, (1 << 20, 3))

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return [self.image(row) for row in self.rows[i]]

    def image(self, row):
        with Image.open(self.folder / f"{row}.jpg") as image:
            image = image.convert("RGB")
        width, height = image.size
        scale = self.size / min(width, height)
        image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - self.size) // 2, (image.height - self.size) // 2
        pixels = np.array(image.crop((left, top, left + self.size, top + self.size)), np.float32)
        return (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - 0.45) / 0.225


def make(words, tiny):
    """words: items, pixels, triplets per batch."""
    items, size, triplets = map(int, words)
    items, triplets = (50, 4) if tiny else (items, triplets)
    folder = tempfile.TemporaryDirectory()
    rng = np.random.default_rng(0)
    for row in range(items):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        coarse.resize((136, 102), Image.Resampling.BICUBIC).save(Path(folder.name) / f"{row}.jpg", quality=90)
    loader = iter(
        torch.utils.data.DataLoader(
            Triplets(Path(folder.name), items, size), triplets, shuffle=True, num_workers=os.cpu_count()
        )
    )

    def measure(batches=3):
        began = time.perf_counter()
        for _ in itertools.islice(loader, batches):
            pass
        return batches * 3 * triplets / (time.perf_counter() - began)

    measure(2 * os.cpu_count())  # use up the batches that the workers prepared before the clock starts
    measure.folder = folder  # keep the folder alive as long as the loader
    return measure
