"""Conditional Similarity Networks in PyTorch: the other side of every parity test.

Written from the paper and the reference's constants, with torch's own layers, losses and optimizer. It shares no code
with csn_jax. A test that needs a wrong result overrides one method.
"""

import re
from collections import OrderedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

torch.set_num_threads(1)  # more threads would compete with XLA's


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, norm):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, padding=1, bias=False)
        self.bn2 = norm(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18CSN(nn.Module):
    """ResNet-18 without its fourth stage, and the mean over the rest of the image, 7x7 of 112x112. [B, ch, H, W].

    The names are those of the released checkpoints: torchvision's, except the last layer's, `fc_embed`.
    """

    def __init__(self, embedding_dim, size=112, channels=3, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False)
        self.bn1 = norm(64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1, norm), BasicBlock(64, 64, 1, norm))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2, norm), BasicBlock(128, 128, 1, norm))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2, norm), BasicBlock(256, 256, 1, norm))
        self.pool = nn.AvgPool2d(size // 16)
        self.fc_embed = nn.Linear(256, embedding_dim)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc_embed(self.pool(x).flatten(1))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1 to four times the width."""

    def __init__(self, inputs, width, stride, norm):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = norm(4 * width)
        self.downsample = None
        if stride != 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), norm(4 * width))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Four stages and the mean over the rest of the image, with torchvision's names. [B, 3, H, W]."""

    def __init__(self, outputs, block, depths, expansion, norm=nn.BatchNorm2d):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = norm(64)
        inputs = 64
        for stage, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                blocks.append(block(inputs, 64 << stage, 2 if stage and not i else 1, norm))
                inputs = expansion * (64 << stage)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, outputs)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def resnet18(outputs):
    return ResNet(outputs, BasicBlock, (2, 2, 2, 2), 1)


def resnet50(outputs):
    return ResNet(outputs, Bottleneck, (3, 4, 6, 3), 4)


def _flat_channels_last(x):
    return x.permute(0, 2, 3, 1).flatten(1)


class Small(nn.Module):
    """Three strided convolutions, 5x5, 3x3 and 3x3, and a linear layer over the flattened [H, W, ch], times 0.2."""

    def __init__(self, embedding_dim, size, channels=3, norm=nn.BatchNorm2d):
        super().__init__()
        layers, inputs = OrderedDict(), channels
        for i, (kernel, outputs) in enumerate(((5, 32), (3, 64), (3, 128))):
            layers[f"conv{i}"] = nn.Conv2d(inputs, outputs, kernel, 2, padding=kernel // 2, bias=False)
            layers[f"bn{i}"] = norm(outputs)
            layers[f"relu{i}"] = nn.ReLU()
            inputs, size = outputs, (size + 1) // 2
        self.layers = nn.Sequential(layers)
        self.fc = nn.Linear(size * size * inputs, embedding_dim)

    def forward(self, x):
        return 0.2 * self.fc(_flat_channels_last(self.layers(x)))


class VGG(nn.Module):
    """Nine 3x3 convolutions in four stages, a 2x2 max-pool after each stage, and two linear layers."""

    def __init__(self, embedding_dim, size, channels=1, norm=nn.BatchNorm2d):
        super().__init__()
        layers, inputs = OrderedDict(), channels
        for stage, widths in enumerate([[64, 64], [128, 128], [256, 256, 256], [512, 512]]):
            for i, outputs in enumerate(widths):
                layers[f"conv{stage}_{i}"] = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
                layers[f"bn{stage}_{i}"] = norm(outputs)
                layers[f"relu{stage}_{i}"] = nn.ReLU()
                inputs = outputs
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
        self.layers = nn.Sequential(layers)
        self.hidden = nn.Linear((size // 16) ** 2 * inputs, 512)
        self.fc = nn.Linear(512, embedding_dim)

    def forward(self, x):
        return self.fc(F.relu(self.hidden(_flat_channels_last(self.layers(x)))))


class BiasedBatchNorm2d(nn.BatchNorm2d):
    """A deliberate mistake: the running variance takes the biased variance of the batch."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        with torch.no_grad():
            self.running_mean.lerp_(x.mean((0, 2, 3)), self.momentum)
            self.running_var.lerp_(x.var((0, 2, 3), unbiased=False), self.momentum)
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)


class Reference:
    """The reference's training, batch by batch. Each method is a part that a test can break."""

    adam = {"betas": (0.9, 0.999), "eps": 1e-8}

    def __init__(
        self,
        network,
        beta,
        trained,
        *,
        learning_rate,
        decay,
        steps_per_epoch,
        margin=0.2,
        embedding_weight=5e-3,
        mask_weight=5e-4,
    ):
        self.network, self.base_rate, self.decay, self.steps_per_epoch = network, learning_rate, decay, steps_per_epoch
        self.margin, self.embedding_weight, self.mask_weight = margin, embedding_weight, mask_weight
        self.beta = nn.Embedding.from_pretrained(torch.tensor(np.asarray(beta)), freeze=not trained)
        self.parameters = dict(network.named_parameters()) | ({"beta": self.beta.weight} if trained else {})
        self.optimizer = torch.optim.Adam(list(self.parameters.values()), lr=learning_rate, **self.adam)
        self.steps = 0

    def rate(self):
        epoch = 1 + self.steps // self.steps_per_epoch
        return self.base_rate * self.decay**epoch

    def embed(self, anchor, positive, negative):
        """One forward pass per role, the negative (the file's `far`) before the positive (`close`)."""
        anchor, negative, positive = self.network(anchor), self.network(negative), self.network(positive)
        return anchor, positive, negative

    def mask(self, condition):
        return F.relu(self.beta(condition))

    def distance(self, x, y, mask):
        return F.pairwise_distance(x * mask, y * mask, p=2, eps=1e-6)

    def triplet_loss(self, d_positive, d_negative):
        """max(0, d_positive - d_negative + margin), mean over the batch."""
        return F.margin_ranking_loss(d_negative, d_positive, torch.ones_like(d_positive), margin=self.margin)

    def embedding_loss(self, embeddings, mask):
        frobenius = [torch.linalg.matrix_norm(e, "fro") for e in embeddings]
        return sum(frobenius) / 3 / np.sqrt(len(embeddings[0]))

    def mask_loss(self, mask):
        return mask.abs().sum() / len(mask)

    def update(self, condition):
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.step()

    def losses(self, embeddings, condition):
        """(total, terms and distances by name) for three [B, D] embeddings: anchor, positive, negative."""
        mask = self.mask(condition)
        d_positive = self.distance(embeddings[0], embeddings[1], mask)
        d_negative = self.distance(embeddings[0], embeddings[2], mask)
        triplet = self.triplet_loss(d_positive, d_negative)
        embedding = self.embedding_loss(embeddings, mask)
        mask_l1 = self.mask_loss(mask)
        total = triplet + self.embedding_weight * embedding + self.mask_weight * mask_l1
        accuracy = (d_negative > d_positive).to(mask.dtype).mean()
        terms = {"loss": total, "triplet": triplet, "embedding": embedding, "mask": mask_l1, "accuracy": accuracy}
        return total, {"d_positive": d_positive, "d_negative": d_negative} | terms

    def step(self, anchor, positive, negative, condition):
        """One update from images [B, ch, H, W]. Returns (terms, gradients by name) before it."""
        self.network.train()
        embeddings = self.embed(anchor, positive, negative)
        total, terms = self.losses(embeddings, condition)
        self.optimizer.zero_grad()
        total.backward()
        gradients = {name: parameter.grad.clone() for name, parameter in self.parameters.items()}
        self.update(condition)
        self.steps += 1
        return {name: to_numpy(value) for name, value in terms.items()}, gradients


def to_numpy(tensor):
    return tensor.detach().numpy().copy()


def images(x):
    """[B, H, W, ch] -> [B, ch, H, W]."""
    return torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)


def flax_name(name, tensor):
    """`layer2.0.downsample.1.running_var` -> `layer2_0/downsample_bn/var`, and `fc_embed.bias` -> `fc/bias`."""
    name = re.sub(r"^fc_embed\.", "fc.", name)
    name = re.sub(r"^layers\.", "", name)
    name = re.sub(r"(layer\d)\.(\d)", r"\1_\2", name)
    name = name.replace("downsample.0", "downsample_conv").replace("downsample.1", "downsample_bn")
    *modules, leaf = name.split(".")
    if leaf == "weight":
        leaf = "scale" if tensor.ndim == 1 else "kernel"
    return "/".join([*modules, leaf.removeprefix("running_")])


def flax_layout(tensor):
    """Convolutions OIHW -> HWIO, linear layers transposed."""
    array = to_numpy(tensor)
    return {4: lambda: array.transpose(2, 3, 1, 0), 2: lambda: array.T}.get(array.ndim, lambda: array)()


def to_flax(tensors):
    """Tensors of a network as arrays, by their flax names."""
    return {
        flax_name(name, tensor): flax_layout(tensor)
        for name, tensor in tensors.items()
        if "num_batches_tracked" not in name
    }


def load(network, leaves):
    """Copy flax leaves {name: array}, parameters and statistics, into a network. All must be used."""
    unused = set(leaves)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if "num_batches_tracked" in name:
                continue
            key = flax_name(name, tensor)
            array = np.asarray(leaves[key])
            array = {4: lambda a: a.transpose(3, 2, 0, 1), 2: np.transpose}.get(array.ndim, lambda a: a)(array)
            assert tensor.shape == array.shape, key
            tensor.copy_(torch.tensor(np.ascontiguousarray(array)))
            unused.remove(key)
    assert not unused, unused
    return network
