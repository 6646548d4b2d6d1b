"""Embedding by an encoder of timm."""

import time

import networks
import torch

STEPS = 3


def make(words, tiny):
    """words: network, pixels, images."""
    name, size, images = words[0], *map(int, words[1:])
    size, images = (32, 4) if tiny else (size, images)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = getattr(networks, name)(size, 3).to(device, memory_format=torch.channels_last).eval()
    pixels = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, device=device)
    pixels = pixels.contiguous(memory_format=torch.channels_last)

    def measure():
        began = time.perf_counter()
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            for _ in range(STEPS):
                network((pixels.float() / 255 - 0.5) / 0.3)
        if device == "cuda":
            torch.cuda.synchronize()
        return STEPS * images / (time.perf_counter() - began)

    measure()
    return measure
