"""Vision transformers: ViT, DINOv2, CLIP and SigLIP as one module, whose shape and flavour are data (`VitShape`)."""

import re
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from csn_jax.backbones.norm import widen
from csn_jax.config import VitShape

EPSILON = {"clip": 1e-5}  # of layer norms; 1e-6 in the other flavours


def quick_gelu(x: jax.Array) -> jax.Array:
    """The approximation of GELU that CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {
    "vit": partial(jax.nn.gelu, approximate=False),
    "dinov2": partial(jax.nn.gelu, approximate=False),
    "clip": quick_gelu,
    "siglip": partial(jax.nn.gelu, approximate=True),
}


class Stem(nn.Module):
    """[B, H, W, 3] -> [B, tokens, width]: patches at their positions; before them a class token and registers.

    The class token has no position of its own: weights that give it one are loaded with the sum of both.
    """

    shape: VitShape
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape, clip = self.shape, self.shape.flavour == "clip"
        patch, tokens = (shape.patch, shape.patch), nn.initializers.normal(0.02)
        x = nn.Conv(shape.width, patch, patch, padding="VALID", use_bias=not clip, dtype=self.dtype, name="patch")(x)
        x = widen(x.reshape(x.shape[0], -1, shape.width))
        x = x + self.param("positions", tokens, (1, *x.shape[1:]), jnp.float32)
        before = []
        if shape.flavour != "siglip":
            before.append(self.param("class", tokens, (1, 1, shape.width), jnp.float32))
        if shape.registers:
            before.append(self.param("registers", tokens, (1, shape.registers, shape.width), jnp.float32))
        x = jnp.concatenate([*(_for_each(x, token) for token in before), x], axis=1)
        return _norm(shape, "norm")(x) if clip else x


class Block(nn.Module):
    """Attention of all tokens to all, then an MLP, each after a layer norm and beside a shortcut: [B, N, width]."""

    shape: VitShape
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape, dense = self.shape, partial(nn.Dense, dtype=self.dtype)
        scaled = shape.flavour == "dinov2"
        y = _norm(shape, "norm1")(x)
        query, key, value = jnp.split(dense(3 * shape.width, name="qkv")(y), 3, axis=-1)
        y = widen(dense(shape.width, name="proj")(attend(query, key, value, shape.heads)))
        x = x + (LayerScale(name="scale1")(y) if scaled else y)
        y = _norm(shape, "norm2")(x)
        if shape.swiglu:
            gate, y = jnp.split(dense(2 * shape.hidden, name="fc1")(y), 2, axis=-1)
            y = jax.nn.silu(gate) * y
        else:
            y = ACTIVATIONS[shape.flavour](dense(shape.hidden, name="fc1")(y))
        y = widen(dense(shape.width, name="fc2")(y))
        return x + (LayerScale(name="scale2")(y) if scaled else y)


class LayerScale(nn.Module):
    """A learned factor per feature."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.param("gamma", nn.initializers.ones, (x.shape[-1],), jnp.float32)[None, None]


class LayerNorm(nn.Module):
    """The last axis to mean 0 and variance 1, then a learned factor and shift. Linen's refuses float64 under strict
    promotion."""

    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon)
        shape = (1,) * (x.ndim - 1) + (-1,)
        return x * scale.reshape(shape) + bias.reshape(shape)


class AttentionPool(nn.Module):
    """[B, N, width] -> [B, width]: one learned probe attends to all tokens, then an MLP. SigLIP's head."""

    shape: VitShape
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape, dense = self.shape, partial(nn.Dense, dtype=self.dtype)
        probe = self.param("probe", nn.initializers.normal(0.02), (1, 1, shape.width), jnp.float32)
        query = dense(shape.width, name="q")(_for_each(x, probe))
        key, value = jnp.split(dense(2 * shape.width, name="kv")(x), 2, axis=-1)
        x = widen(dense(shape.width, name="proj")(attend(query, key, value, shape.heads)))
        y = ACTIVATIONS[shape.flavour](dense(shape.hidden, name="fc1")(_norm(shape, "norm")(x)))
        return (x + widen(dense(shape.width, name="fc2")(y)))[:, 0]


class VisionTransformer(nn.Module):
    """[B, H, W, 3] -> [B, D]: H and W are multiples of the patch size, and those of the position embeddings."""

    embedding_dim: int
    dtype: Any = None
    shape: VitShape = VitShape("vit", 16, 192, 12, 3, 768)
    rematerialise: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, valid: jax.Array | None = None) -> jax.Array:
        shape = self.shape
        x = Stem(shape, self.dtype, name="stem")(x)
        block = nn.remat(Block) if self.rematerialise and train else Block
        for i in range(shape.depth):
            x = block(shape, self.dtype, name=f"block{i}")(x)
        if shape.flavour == "siglip":
            x = AttentionPool(shape, self.dtype, name="top_pool")(_norm(shape, "top_norm")(x))
        elif shape.mean:
            x = _norm(shape, "top_mean_norm")(jnp.mean(x[:, 1 + shape.registers :], axis=1))
        else:
            x = _norm(shape, "top_norm")(x[:, 0])  # [B, width], of the class token
        if shape.projection:
            x = widen(nn.Dense(shape.projection, use_bias=False, dtype=self.dtype, name="top_projection")(x))
        return nn.Dense(self.embedding_dim, name="fc")(x)


def _for_each(x: jax.Array, tokens: jax.Array) -> jax.Array:
    """Tokens [1, N, width] for each input of a batch x [B, ...]: [B, N, width]."""
    return jnp.broadcast_to(tokens, (x.shape[0], *tokens.shape[1:]))


def attend(query: jax.Array, key: jax.Array, value: jax.Array, heads: int) -> jax.Array:
    """Attention by several heads: [B, Q, width], from keys and values [B, K, width]. In bfloat16 on NVIDIA GPUs it is
    one fused operation."""
    query, key, value = (x.reshape(*x.shape[:2], heads, -1) for x in (query, key, value))
    if query.dtype == jnp.bfloat16 and jax.default_backend() == "gpu":
        y = jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    else:  # jax.nn's own takes the softmax in float32, also of float64
        logits = jnp.einsum(
            "bqhd,bkhd->bhqk", query, key, preferred_element_type=np.promote_types(query.dtype, np.float32)
        )
        weights = jax.nn.softmax(logits * query.shape[-1] ** -0.5).astype(value.dtype)
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
    return y.reshape(*y.shape[:2], -1)


def _norm(shape: VitShape, name: str) -> "LayerNorm":
    return LayerNorm(EPSILON.get(shape.flavour, 1e-6), name=name)


LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "gamma": "gamma"}
TOKENS = {
    "stem/class": "cls_token",
    "stem/registers": "reg_token",
    "stem/positions": "pos_embed",
    "top_pool/probe": "attn_pool.latent",
}
MODULES = {
    "stem/patch": "patch_embed.proj",
    "stem/norm": "norm_pre",
    "top_norm": "norm",
    "top_mean_norm": "fc_norm",
    "top_projection": "head",
    "fc": "fc",
}
IN_BLOCK = {
    "qkv": "attn.qkv",
    "proj": "attn.proj",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "scale1": "ls1",
    "scale2": "ls2",
}
IN_POOL = {"fc1": "mlp.fc1", "fc2": "mlp.fc2"}


def torch_name(path: str) -> str:
    """The name in timm of a parameter: `block3/qkv/kernel` -> `blocks.3.attn.qkv.weight`."""
    if path in TOKENS:
        return TOKENS[path]
    module, _, leaf = path.rpartition("/")
    top, _, inner = module.partition("/")
    if block := re.fullmatch(r"block(\d+)", top):
        name = f"blocks.{block[1]}.{IN_BLOCK.get(inner, inner)}"
    else:
        name = f"attn_pool.{IN_POOL.get(inner, inner)}" if top == "top_pool" else MODULES[module]
    return f"{name}.{LEAVES[leaf]}"
