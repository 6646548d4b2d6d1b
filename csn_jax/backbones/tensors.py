"""A backbone's parameters and statistics as named tensors, both ways.

ResNets have torchvision's names and layout, EfficientNets and vision transformers timm's, so that PyTorch reads and
writes the same weights. The other backbones have their own paths and layout.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from csn_jax.backbones import efficientnet, resnet, vit, vit_names
from csn_jax.config import STAGES, VITS
from csn_jax.errors import UserError
from csn_jax.text import listed

HEAD = ("fc.", "fc/")  # the last linear layer
WRAPPERS = re.compile(r"^((module|model|net|network|_orig_mod|backbone|encoder|resnet|embeddingnet)\.)+")
CHILDREN = dict(zip("014567", ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), strict=True)) | {"9": "fc"}
MASKS = "masks.weight"  # beta [C, D], in released checkpoints and in exports
MAPS = "maps.weight"  # [C, r, D] of the variant maps, in exports
TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}  # [h, w, in, out] -> [out, in, h, w] and [in, out] -> [out, in]
FROM_TORCH = {4: (2, 3, 1, 0), 2: (1, 0)}


class Loaded(NamedTuple):
    """A backbone's values, and the names of unused tensors."""

    params: Any
    statistics: Any
    left_out: list[str]


def plain_names(tensors: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """Tensors under their backbone's names: without the names of wrappers, such as `module.` of PyTorch's DataParallel,
    `_orig_mod.` of its compiler and `embeddingnet.` of the reference, and without counters of batches. The last layer
    is `fc`, as in torchvision; released checkpoints name it `fc_embed`. A ResNet whose children lie in a Sequential has
    their numbers in place of names. UserError if two tensors get the same name."""
    plain: dict[str, np.ndarray] = {}
    bare = {name: WRAPPERS.sub("", name) for name in tensors}
    renamed = {"fc_embed": "fc"}
    if {"0.weight", "1.running_var", "4.0.conv1.weight"} <= {*bare.values()}:
        renamed |= CHILDREN
    for name, tensor in tensors.items():
        first, dot, rest = bare[name].partition(".")
        short = (renamed.get(first, first) if dot else first) + dot + rest
        if short in plain:
            raise UserError(f"{where} has tensor {short} twice, also as {name}; give the weights of one network.")
        if not short.endswith("num_batches_tracked"):
            plain[short] = tensor
    return plain


def torch_name(backbone: str, path: str) -> str:
    """The name in PyTorch of a parameter or statistic, from its path; the path for a network of our own."""
    if backbone not in STAGES:
        return path
    own = efficientnet if backbone == "efficientnet_lite0" else vit if backbone in VITS else resnet
    return own.torch_name(path)


def for_backbone(backbone: str, tensors: Mapping[str, np.ndarray], size: int, where: str) -> dict[str, np.ndarray]:
    """Tensors of a weight file under the names that `from_tensors` takes. Those of a vision transformer also get its
    form: one tensor for query, key and value, and position embeddings for inputs of size x size pixels."""
    if backbone in VITS:
        return vit_names.to_timm(VITS[backbone], tensors, size, where)
    if backbone == "efficientnet_lite0":
        tensors = {efficientnet.timm_name(name): tensor for name, tensor in tensors.items()}
    return plain_names(tensors, where)


def to_tensors(backbone: str, params: Any, statistics: Any) -> dict[str, np.ndarray]:
    """Parameters and running statistics by name. backbone: its name in a config."""
    leaves = {path: np.asarray(leaf) for path, leaf in (flat(params) | flat(statistics)).items()}
    if backbone not in STAGES:
        return leaves
    return {
        torch_name(backbone, path): leaf.transpose(TO_TORCH.get(leaf.ndim, range(leaf.ndim)))
        for path, leaf in leaves.items()
    }


def from_tensors(
    backbone: str,
    tensors: Mapping[str, np.ndarray],
    params: Any,
    statistics: Any,
    where: str,
    *,
    new_task: bool = False,
) -> Loaded:
    """A backbone's values, as float32, from tensors with plain names: the reverse of `to_tensors`.

    Args:
        backbone: its name in a config.
        tensors: all of the backbone and no others.
        params, statistics: values of the right shapes.
        where: the tensors' origin, which begins error messages.
        new_task: whether the tensors may be of another task. Then a last linear layer that is missing or has another
            shape keeps its values in `params`; and masks, maps, for resnet18_csn the fourth stage, and what is not of a
            ResNet are left out.

    Raises:
        UserError: naming tensors that are missing, unexpected, of another shape, or not finite floats.
    """
    wanted, left_out = to_tensors(backbone, params, statistics), []
    if new_task:
        cut = ("masks.", "maps.", *(("layer4.",) if backbone == "resnet18_csn" else ()))
        left_out = [name for name in tensors if name.startswith(cut)]
        head = {name: leaf.shape for name, leaf in wanted.items() if name.startswith(HEAD)}
        if any(name not in tensors or tensors[name].shape != shape for name, shape in head.items()):
            left_out += [name for name in tensors if name.startswith(HEAD)]
            wanted = {name: leaf for name, leaf in wanted.items() if name not in head}
        if backbone in STAGES and wanted.keys() <= tensors.keys():  # beside the whole network: another head, a loss
            parts = {name.split(".")[0] for name in (*wanted, *left_out)}
            left_out += [name for name in tensors if name.split(".")[0] not in parts]
    given = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    _check(backbone, given, wanted, where)

    def filled(tree: Any) -> Any:
        leaves = flat(tree)
        for path in leaves:
            name = torch_name(backbone, path)
            if name in given:
                tensor = given[name]
                if backbone in STAGES:
                    tensor = tensor.transpose(FROM_TORCH.get(tensor.ndim, range(tensor.ndim)))
                leaves[path] = np.array(tensor, np.float32, order="C")
        return unflatten_dict(leaves, sep="/")

    return Loaded(filled(params), filled(statistics), sorted(left_out))  # a file's own order may differ by its reader


def _check(backbone: str, given: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], where: str) -> None:
    """Refuse tensors other than the wanted ones, with a number and three names per kind of fault."""
    both = [(name, given[name], wanted[name].shape) for name in wanted if name in given]
    shapes = [(f"{name} {[*leaf.shape]}", [*shape]) for name, leaf, shape in both if leaf.shape != shape]
    faults = {
        "missing": [name for name in wanted if name not in given],
        "unexpected": [name for name in given if name not in wanted],
        "of another shape": [f"{found}, not {expected}" for found, expected in shapes],
        "not floats": [name for name, leaf, _ in both if leaf.dtype.kind != "f"],
        "not finite": [name for name, leaf, _ in both if not np.isfinite(leaf).all()],
    }
    if any(faults.values()):
        summary = "; ".join(f"{len(names)} {fault}: {listed(names, 3)}" for fault, names in faults.items() if names)
        raise UserError(f"{where} is not of a {backbone} ({summary}); give weights of a {backbone}.")


def flat(tree: Any) -> dict[str, Any]:
    """The leaves of a tree of parameters by their path, as `layer1/conv/kernel`."""
    return flatten_dict(tree, sep="/")
