"""The tensors of vision transformers under timm's names, from files of timm, transformers, open_clip and DINOv2."""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from csn_jax.config import VitShape
from csn_jax.errors import UserError

# Where a file holds a text model as well, the pictures' part has one of these prefixes.
VISION = re.compile(r"^(?:\w+\.)*?(vision_model|visual|vision_tower|trunk)\.")
WRAPPERS = re.compile(
    r"^((module|model|net|network|_orig_mod|backbone|vit|dinov2(_with_registers)?|trunk|vision_model)\.)+"
)
BLOCK = re.compile(r"(?:encoder\.)?(?:layers?|blocks|transformer\.resblocks)\.(\d+)\.(.+)")
IN_BLOCK = {
    "layernorm_before": "norm1",
    "layer_norm1": "norm1",
    "ln_1": "norm1",
    "layernorm_after": "norm2",
    "layer_norm2": "norm2",
    "ln_2": "norm2",
    "attn.in_proj": "attn.qkv",
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
    "self_attn.out_proj": "attn.proj",
    "attn.out_proj": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "mlp.c_fc": "mlp.fc1",
    "mlp.weights_in": "mlp.fc1",
    "mlp.w12": "mlp.fc1",
    "mlp.down_proj": "mlp.fc2",
    "output.dense": "mlp.fc2",
    "mlp.c_proj": "mlp.fc2",
    "mlp.weights_out": "mlp.fc2",
    "mlp.w3": "mlp.fc2",
}
SPLIT = re.compile(r"(?:attention\.attention|attention|self_attn)\.(query|key|value|q_proj|k_proj|v_proj)")
ORDER = {"query": "q", "q_proj": "q", "key": "k", "k_proj": "k", "value": "v", "v_proj": "v"}
JOINED = {"attn.qkv": ("attn.q", "attn.k", "attn.v"), "mlp.fc1": ("mlp.gate_proj", "mlp.up_proj")}
OTHERS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.class_embedding": "cls_token",
    "class_embedding": "cls_token",
    "embeddings.register_tokens": "reg_token",
    "register_tokens": "reg_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.position_embedding.weight": "pos_embed",
    "positional_embedding": "pos_embed",
    "visual_projection.weight": "head.weight",
    "head.probe": "attn_pool.latent",
}
MODULES = {
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.patch_embedding": "patch_embed.proj",
    "conv1": "patch_embed.proj",
    "pre_layrnorm": "norm_pre",
    "ln_pre": "norm_pre",
    "layernorm": "norm",
    "post_layernorm": "norm",
    "ln_post": "norm",
    "head.attention.in_proj": "attn_pool.in_proj",
    "head.attention.out_proj": "attn_pool.proj",
    "head.layernorm": "attn_pool.norm",
    "head.mlp.fc1": "attn_pool.mlp.fc1",
    "head.mlp.fc2": "attn_pool.mlp.fc2",
}


def to_timm(shape: VitShape, tensors: Mapping[str, np.ndarray], size: int, where: str) -> dict[str, np.ndarray]:
    """Tensors of a weight file under timm's names, in the form of our module.

    Query, key and value become one tensor. The class token takes its position embedding in. The patches' position
    embeddings are resized for inputs of size x size pixels, bicubic and anti-aliased, as in timm. The tensors of a
    text model are left out.

    Raises:
        UserError: where two tensors get the same name, or position embeddings do not form a square.
    """
    named: dict[str, np.ndarray] = {}
    for name, tensor in _of_pictures(tensors).items():
        new = _timm_name(name)
        if new == "proj":  # open_clip's projection, [width, projection]
            new, tensor = "head.weight", tensor.T
        if new in named:
            raise UserError(f"{where} has tensor {new} twice, also as {name}; give the weights of one network.")
        named[new] = tensor
    named = _pooled(_joined(named))
    for name in ("cls_token", "reg_token", "pos_embed"):
        if name in named and named[name].size % shape.width == 0:
            named[name] = named[name].reshape(1, -1, shape.width)
    if "pos_embed" in named and named["pos_embed"].ndim == 3:
        _place(named, shape, size, where)
    return named


def _of_pictures(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of the network of pictures, without the prefixes of wrappers."""
    if not any(VISION.match(name) for name in tensors):
        return {WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    kept = {name: tensor for name, tensor in tensors.items() if VISION.match(name)}
    bare = {WRAPPERS.sub("", VISION.sub("", name)): tensor for name, tensor in kept.items()}
    beside = {WRAPPERS.sub("", name): name for name in tensors}
    if "visual_projection.weight" in beside:
        bare["visual_projection.weight"] = tensors[beside["visual_projection.weight"]]
    return bare


def _timm_name(name: str) -> str:
    """timm's name of a tensor. Of separate queries, keys and values: attn.q, attn.k, attn.v."""
    name = re.sub(r"in_proj_(weight|bias)$", r"in_proj.\1", name)
    if block := BLOCK.fullmatch(name):
        inner = re.sub(r"layer_scale([12])\.lambda1", r"ls\1.gamma", block[2])
        module, _, leaf = inner.rpartition(".")
        split = SPLIT.fullmatch(module)
        module = f"attn.{ORDER[split[1]]}" if split else IN_BLOCK.get(module, module)
        return f"blocks.{block[1]}.{module}.{leaf}"
    if name in OTHERS:
        return OTHERS[name]
    module, _, leaf = name.rpartition(".")
    return f"{MODULES[module]}.{leaf}" if module in MODULES else name


def _joined(named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With one tensor per block for query, key and value, and one for the gate and the values of a gated MLP."""
    joined = dict(named)
    for name in named:
        for whole, parts in JOINED.items():
            head, found, leaf = name.partition(f".{parts[0]}.")
            names = [f"{head}.{part}.{leaf}" for part in parts]
            if found and all(part in joined for part in names):
                joined[f"{head}.{whole}.{leaf}"] = np.concatenate([joined.pop(part) for part in names])
    return joined


def _pooled(named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With the query of an attention pool apart from key and value, as in timm."""
    for leaf in ("weight", "bias"):
        if (whole := named.get(f"attn_pool.in_proj.{leaf}")) is not None:
            width = len(whole) // 3
            del named[f"attn_pool.in_proj.{leaf}"]
            named |= {f"attn_pool.q.{leaf}": whole[:width], f"attn_pool.kv.{leaf}": whole[width:]}
    return named


def _place(named: dict[str, np.ndarray], shape: VitShape, size: int, where: str) -> None:
    """Position embeddings [1, N, width] of the patches alone, for inputs of size x size pixels."""
    positions, token = named["pos_embed"], named.get("cls_token")
    side = round(positions.shape[1] ** 0.5)
    if side**2 != positions.shape[1] and token is not None and token.shape == (1, 1, shape.width):
        named["cls_token"] = token + positions[:, :1]
        positions = positions[:, 1:]
        side = round(positions.shape[1] ** 0.5)
    if side**2 != positions.shape[1]:
        n = positions.shape[1]
        raise UserError(f"{where} has {n} position embeddings, which form no square; give weights for square pictures.")
    named["pos_embed"] = resized(positions, side, (size // shape.patch,) * 2)


def resized(positions: np.ndarray, side: int, grid: tuple[int, int]) -> np.ndarray:
    """Position embeddings [1, side * side, width] for another grid (rows, columns)."""
    if grid == (side, side):
        return positions
    square = jnp.asarray(positions).reshape(side, side, -1)
    square = jax.image.resize(square, (*grid, square.shape[-1]), "cubic", antialias=True)
    return np.asarray(square).reshape(1, -1, positions.shape[-1])
