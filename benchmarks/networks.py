"""The networks of csn_jax in idiomatic PyTorch, and encoders of timm."""

import sys
from unittest.mock import MagicMock

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    """A basic block of ResNet-18."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down = None
        if stride > 1:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + (self.down(x) if self.down else x), inplace=True)


def resnet18_csn(size, channels, dim=64):
    """ResNet-18 without its fourth stage."""
    return nn.Sequential(
        nn.Conv2d(channels, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        *(Block(64, 64, 1), Block(64, 64, 1)),
        *(Block(64, 128, 2), Block(128, 128, 1)),
        *(Block(128, 256, 2), Block(256, 256, 1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(256, dim),
    )


class Scale(nn.Module):
    """Multiplies by 0.2."""

    def forward(self, x):
        return 0.2 * x


def small(size, channels, dim=64):
    """Three strided convolutions and a linear layer, scaled."""
    layers, inputs = [], channels
    for kernel, outputs in ((5, 32), (3, 64), (3, 128)):
        layers += [nn.Conv2d(inputs, outputs, kernel, 2, kernel // 2, bias=False)]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        inputs, size = outputs, (size + 1) // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * size * size, dim), Scale())


STUBS = ("", ".datasets", ".models", ".models.feature_extraction", ".ops", ".ops.misc", ".transforms")
STUBS += (".transforms.functional", ".utils")  # the modules of torchvision that timm imports


def vit_small_16(size, channels, dim=64):
    """timm's ViT-S/16."""
    return _timm("vit_small_patch16_224", img_size=size, in_chans=channels, num_classes=dim)


def efficientnet_lite0(size, channels, dim=64):
    """timm's EfficientNet-Lite0."""
    return _timm("efficientnet_lite0", in_chans=channels, num_classes=dim)


def _timm(name, **options):
    if "torchvision" not in sys.modules:  # timm imports it, builds no network with it, and it replaces a CPU torch
        sys.modules |= {f"torchvision{part}": MagicMock() for part in STUBS}
    try:
        import timm
    except ImportError as error:
        sys.exit(f"timm cannot be imported ({error}); pip install --no-deps timm huggingface_hub safetensors pyyaml")
    return timm.create_model(name, **options)


class ConditionalNet(nn.Module):
    """A network with learned masks, and the paper's loss over a batch of triplets."""

    def __init__(self, network, conditions, dim=64):
        super().__init__()
        self.network = network
        self.masks = nn.Parameter(torch.empty(conditions, dim).normal_(0.9, 0.7))

    def loss(self, embedded, condition):
        anchor, negative, positive = embedded
        mask = F.relu(self.masks[condition])
        near = F.pairwise_distance(anchor * mask, positive * mask)
        far = F.pairwise_distance(anchor * mask, negative * mask)
        size = len(condition)
        norms = sum(role.norm(2) for role in embedded) / 3
        return F.relu(near - far + 0.2).mean() + 5e-3 * norms / size**0.5 + 5e-4 * mask.norm(1) / size
