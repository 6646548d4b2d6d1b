"""BackboneConfig and FineTuneConfig: networks, sizes of vision transformers, and how pretrained weights train."""

from dataclasses import dataclass
from typing import Literal, NamedTuple


class VitShape(NamedTuple):
    """A vision transformer as data. The class of its weights decides the rest: see `flavour`."""

    flavour: Literal["vit", "dinov2", "clip", "siglip"]
    patch: int  # pixels
    width: int
    depth: int  # blocks
    heads: int
    hidden: int  # width of the MLP's hidden layer
    registers: int = 0
    swiglu: bool = False  # a gated MLP
    mean: bool = False  # ViT: pool by the mean of the patches, not by the class token
    projection: int = 0  # CLIP: width of the space that pictures and texts share


def _family(flavour, patch, width, depth, heads, **more) -> VitShape:
    return VitShape(flavour, patch, width, depth, heads, 4 * width, **more)


VITS = {
    "vit_tiny_16": _family("vit", 16, 192, 12, 3),
    "vit_small_16": _family("vit", 16, 384, 12, 6),
    "vit_base_16": _family("vit", 16, 768, 12, 12),
    "vit_large_16": _family("vit", 16, 1024, 24, 16),
    "vit_large_14": _family("vit", 14, 1024, 24, 16),
    "vit_small_16_mean": _family("vit", 16, 384, 12, 6, mean=True),
    "vit_base_16_mean": _family("vit", 16, 768, 12, 12, mean=True),
    "vit_large_16_mean": _family("vit", 16, 1024, 24, 16, mean=True),
    "dinov2_small_14": _family("dinov2", 14, 384, 12, 6),
    "dinov2_base_14": _family("dinov2", 14, 768, 12, 12),
    "dinov2_large_14": _family("dinov2", 14, 1024, 24, 16),
    "dinov2_giant_14": VitShape("dinov2", 14, 1536, 40, 24, 4096, swiglu=True),
    "dinov2_small_14_reg4": _family("dinov2", 14, 384, 12, 6, registers=4),
    "dinov2_base_14_reg4": _family("dinov2", 14, 768, 12, 12, registers=4),
    "dinov2_large_14_reg4": _family("dinov2", 14, 1024, 24, 16, registers=4),
    "dinov2_giant_14_reg4": VitShape("dinov2", 14, 1536, 40, 24, 4096, registers=4, swiglu=True),
    "clip_base_32": _family("clip", 32, 768, 12, 12, projection=512),
    "clip_base_16": _family("clip", 16, 768, 12, 12, projection=512),
    "clip_large_14": _family("clip", 14, 1024, 24, 16, projection=768),
    "siglip_base_16": _family("siglip", 16, 768, 12, 12),
    "siglip_large_16": _family("siglip", 16, 1024, 24, 16),
    "siglip_so400m_14": VitShape("siglip", 14, 1152, 27, 16, 4304),
}
NAMES = ("small", "vgg", "resnet18_csn", "resnet18", "resnet50", "projection", "efficientnet_lite0", *VITS)
_RESNET = ("stem", "layer1", "layer2", "layer3")
# The values of backbone.freeze, from the input on; `all` is valid for every backbone.
STAGES = {
    "resnet18_csn": _RESNET,
    "resnet18": (*_RESNET, "layer4"),
    "resnet50": (*_RESNET, "layer4"),
    "efficientnet_lite0": ("stem", *(f"stage{i}" for i in range(1, 8)), "top"),
} | {name: ("stem", *(f"block{i}" for i in range(shape.depth)), "top") for name, shape in VITS.items()}


@dataclass(frozen=True)
class BackboneConfig:
    """The network from one input to one embedding."""

    name: Literal[NAMES] = "small"
    """small: the quickstart's network; vgg: the paper's for fonts; resnet18_csn: the reference's, ResNet-18 without its
    fourth stage; resnet18, resnet50: torchvision's; projection: one or two layers on data.vectors (maps: none);
    efficientnet_lite0: small and pretrained, by the extra `pretrained`; vit, dinov2, clip, siglip: vision transformers
    with their patch size, for weights from init (docs/encoders.md)."""
    embedding_dim: int = 64
    """Number of embedding dimensions, D."""
    hidden: int = 0
    """projection: width of the hidden layer; 0: no hidden layer."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of convolutions and of matrix products in transformers. Masks, distances, norms, statistics and optimizer
    stay float32."""
    init: str = ""
    """Pretrained weights: a .safetensors, .pth, .pt, .ckpt or .bin file with the tensor names of torchvision, timm,
    transformers or open_clip; the index or folder of several; hf:OWNER/NAME on the Hugging Face hub; or package:NAME,
    an installed Python package that holds one such file. Set preprocess.mean and std to those of the weights."""
    freeze: str = ""
    """Part of the backbone that does not train: stem, layer1.. (stages or blocks up to it) or all (all except the
    last linear layer). Frozen batch norms use and keep their running statistics. Masks still train. Without
    preprocess.flip each image goes through the frozen part once, and a step reads what this made of it; except for a
    part below all, if that takes more memory than the images."""
    learning_rate_ratio: float = 1.0
    """Factor on the learning rate of the backbone except its last linear layer, to fine-tune weights from init."""
    rematerialise: bool = False
    """Vision transformers: compute the activations of a block again for its gradient instead of keeping them. A step
    takes a third longer and far less memory."""


@dataclass(frozen=True)
class FineTuneConfig:
    """How pretrained weights are fine-tuned. The defaults are the paper's: all off."""

    layer_decay: float = 1.0
    """Factor on the learning rate per stage or block, from the last linear layer down to the stem: 0.75 moves the first
    blocks of pretrained weights little."""
    warmup: int = 0
    """Steps in which the learning rate rises from 0, before its schedule."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW) of kernels. Biases, norms, tokens, position embeddings and masks have none."""
    clip: float = 0.0
    """Greatest norm of the gradient of all parameters together; a longer one is scaled down. 0: no limit."""
