"""A backbone's parameters and statistics as named tensors, both ways.

ResNets use torchvision's names and layout, so that weights go between here and PyTorch as they are; the other backbones
have no counterpart there and use their own paths and layout.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from csn_jax.backbones.resnet import torch_name
from csn_jax.config import STAGES
from csn_jax.errors import UserError

MASKS = "masks.weight"  # beta [C, D] beside a backbone, in released checkpoints and our own exports
TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}  # [h, w, in, out] -> [out, in, h, w] and [in, out] -> [out, in]
FROM_TORCH = {4: (2, 3, 1, 0), 2: (1, 0)}


class Loaded(NamedTuple):
    """A backbone's values, and the names of given tensors that were left out."""

    params: Any
    statistics: Any
    left_out: list[str]


def plain_names(tensors: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Tensors under the names that they have in their backbone: without `module.` of PyTorch's DataParallel, without
    the `embeddingnet.` that the reference wraps a backbone and its masks in, and without counters of batches. The last
    layer is `fc`, as in torchvision; released checkpoints name it `fc_embed`.

    Raises:
        UserError: when two names become one.
    """
    plain: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        short = re.sub(r"^((module|embeddingnet)\.)*(fc_embed\.)?", lambda match: "fc." if match[3] else "", name)
        if short in plain:
            raise UserError(f"{where} has tensor {short} twice, also as {name}; give the weights of one network.")
        if not short.endswith("num_batches_tracked"):
            plain[short] = tensor
    return plain


def to_tensors(backbone: str, params: Any, statistics: Any) -> dict[str, np.ndarray]:
    """Parameters and running statistics by name, of the backbone with that name in a config."""
    leaves = {path: np.asarray(leaf) for path, leaf in (flat(params) | flat(statistics)).items()}
    if backbone not in STAGES:
        return leaves
    return {torch_name(path): leaf.transpose(TO_TORCH.get(leaf.ndim, (0,))) for path, leaf in leaves.items()}


def from_tensors(
    backbone: str,
    tensors: Mapping[str, np.ndarray],
    params: Any,
    statistics: Any,
    where: str,
    *,
    new_task: bool = False,
) -> Loaded:
    """A backbone's values out of tensors with plain names, as float32: the reverse of `to_tensors`.

    Args:
        backbone: its name in a config.
        tensors: exactly those of the backbone.
        params, statistics: values of the wanted shapes.
        where: what the tensors come from, to begin an error message.
        new_task: the last linear layer stays as it is in `params` where the tensors have none or one of another shape,
            and what only their old task needs is left out: masks, and the fourth stage for resnet18_csn.

    Raises:
        UserError: naming every tensor that is missing, unexpected, misshapen or not of finite floats.
    """
    wanted = to_tensors(backbone, params, statistics)
    left_out = []
    if new_task:
        cut = ("masks.", "layer4.") if backbone == "resnet18_csn" else ("masks.",)
        left_out = [name for name in tensors if name.startswith(cut)]
        head = [name for name in wanted if name.startswith(("fc.", "fc/"))]
        if any(name not in tensors or tensors[name].shape != wanted[name].shape for name in head):
            left_out += [name for name in tensors if name.startswith(("fc.", "fc/"))]
            for name in head:
                del wanted[name]
    given = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    both = [name for name in wanted if name in given]
    faults = {
        "missing": [name for name in wanted if name not in given],
        "unexpected": [name for name in given if name not in wanted],
        "misshapen": [
            f"{name} {[*given[name].shape]} and not {[*wanted[name].shape]}"
            for name in both
            if given[name].shape != wanted[name].shape
        ],
        "not of floats": [name for name in both if given[name].dtype.kind != "f"],
        "not finite": [name for name in both if not np.isfinite(given[name]).all()],
    }
    if any(faults.values()):
        told = "; ".join(f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names)
        raise UserError(f"{where} is not of a {backbone} ({told}); give weights of a {backbone}.")

    def filled(tree: Any) -> Any:
        leaves = flat(tree)
        for path in leaves:
            name = torch_name(path) if backbone in STAGES else path
            if name in both:
                tensor = given[name]
                if backbone in STAGES:
                    tensor = tensor.transpose(FROM_TORCH.get(tensor.ndim, (0,)))
                leaves[path] = np.array(tensor, np.float32, order="C")
        return unflatten_dict(leaves, sep="/")

    return Loaded(filled(params), filled(statistics), left_out)


def flat(tree: Any) -> dict[str, Any]:
    """The leaves of a tree of parameters by their path, as `layer1/conv/kernel`."""
    return flatten_dict(tree, sep="/")
