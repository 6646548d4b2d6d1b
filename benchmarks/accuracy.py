"""Train in PyTorch to a given triplet error, as the reference does: image files, DataLoader, three forwards, Adam."""

import sys
import tempfile
import time
from pathlib import Path

import networks
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from csn_jax.benchmark.suites.accuracy import EVERY
from csn_jax.config import Config
from csn_jax.data.dataset import load_dataset


class TripletFiles(torch.utils.data.Dataset):
    """Triplets of PNG files, in the order anchor, negative, positive, condition."""

    def __init__(self, folder, triplets):
        self.folder, self.triplets = folder, triplets

    def __len__(self):
        return len(self.triplets.anchor)

    def __getitem__(self, i):
        images = [
            self.image(role[i]) for role in (self.triplets.anchor, self.triplets.negative, self.triplets.positive)
        ]
        return *images, int(self.triplets.condition[i])

    def image(self, row):
        with Image.open(self.folder / f"{row}.png") as image:
            return normalised(np.asarray(image)[None])


def normalised(pixels):
    return (torch.from_numpy(pixels.astype(np.float32)) / 255 - 0.10) / 0.29


@torch.inference_mode()
def error(net, pixels, triplets):
    """The overall triplet error. Embeds each item once; the reference embeds three images per triplet."""
    net.eval()
    rows, places = np.unique(np.concatenate(triplets[:3]), return_inverse=True)
    parts = np.array_split(pixels[rows], len(rows) // 256 + 1)
    embedded = torch.cat([net.network(normalised(part)) for part in parts])
    anchor, positive, negative = embedded[torch.from_numpy(places)].chunk(3)
    mask = F.relu(net.masks[torch.from_numpy(triplets.condition).long()])
    near, far = (((anchor - other) * mask).norm(dim=1) for other in (positive, negative))
    net.train()
    return 1 - (near < far).float().mean().item()


def make(words, tiny):
    """words: the target error."""
    target, config = float(words[0]), Config()
    dataset = load_dataset(config)
    pixels = np.moveaxis(dataset.items.inputs, -1, 1)  # [N, 1, 32, 32]
    folder = tempfile.TemporaryDirectory()
    for row, image in enumerate(pixels):
        Image.fromarray(image[0]).save(Path(folder.name) / f"{row}.png")
    files = TripletFiles(Path(folder.name), dataset.triplets["train"])
    turn = -1

    def measure():
        nonlocal turn
        turn += 1
        torch.manual_seed(turn)
        began = time.perf_counter()
        net = networks.ConditionalNet(networks.small(32, 1), len(dataset.items.conditions)).train()
        optimizer = torch.optim.Adam(net.parameters(), lr=config.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.985 ** (epoch + 1))
        loader = torch.utils.data.DataLoader(
            files, config.batch_size, shuffle=True, num_workers=torch.get_num_threads(), persistent_workers=True
        )
        step = 0
        while True:
            for anchor, negative, positive, condition in loader:
                optimizer.zero_grad(set_to_none=True)
                net.loss([net.network(role) for role in (anchor, negative, positive)], condition).backward()
                optimizer.step()
                step += 1
                if step % (2 if tiny else EVERY) == 0:
                    reached = error(net, pixels, dataset.triplets["validation"])
                    spent = time.perf_counter() - began
                    print(f"    {step} steps, {spent:.0f} s, {reached:.2%}", file=sys.stderr)
                    if tiny or reached <= target:
                        return spent
            schedule.step()

    measure.folder = folder  # keep the folder alive as long as its files are read
    return measure
