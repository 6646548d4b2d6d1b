"""A training step in PyTorch: in the reference's way, and in the fastest way that PyTorch offers."""

import time

import networks
import torch

STEPS = 3


def make(words, tiny):
    """words: network, pixels, channels, triplets, reference or best."""
    name, size, channels, triplets, way = words[0], *map(int, words[1:4]), words[4]
    size, triplets = (16, 4) if tiny else (size, triplets)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = networks.ConditionalNet(getattr(networks, name)(size, channels), 4).to(device).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-5, fused=way == "best")
    images = [torch.randint(0, 256, (triplets, channels, size, size), dtype=torch.uint8, device=device) for _ in "anp"]
    condition = torch.randint(0, 4, (triplets,), device=device)
    embed = net.network
    if way == "best":
        net.network.to(memory_format=torch.channels_last)
        images = torch.cat(images).contiguous(memory_format=torch.channels_last)
        if device == "cuda":
            embed = torch.compile(net.network)

    def step():
        optimizer.zero_grad(set_to_none=True)
        if way == "best":  # one forward over the three roles; half precision on GPUs
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                embedded = embed((images.float() / 255 - 0.5) / 0.3).float().chunk(3)
        else:
            embedded = [embed((role.float() / 255 - 0.5) / 0.3) for role in images]
        net.loss(embedded, condition).backward()
        optimizer.step()

    def measure():
        began = time.perf_counter()
        for _ in range(STEPS):
            step()
        if device == "cuda":
            torch.cuda.synchronize()
        return STEPS * 3 * triplets / (time.perf_counter() - began)

    measure()
    return measure
