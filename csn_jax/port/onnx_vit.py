"""Vision transformers as ONNX graphs, with the operators of the other backbones' files."""

from typing import Any

import numpy as np

from csn_jax.backbones.vit import EPSILON
from csn_jax.config import VITS, VitShape


def vision_transformer(layers: Any, x: str) -> str:
    """Pixels [B, 3, H, W] to embeddings [B, D]. `layers`: the `Layers` of the graph."""
    shape = VITS[layers.part.backbone.name]
    x = _stem(layers, x, shape)
    for i in range(shape.depth):
        name = f"block{i}"
        y = _attention(layers, *[_norm(layers, x, f"{name}/norm1", shape)] * 2, name, shape)
        x = layers.node("Add", x, _scaled(layers, y, f"{name}/scale1", shape), name=f"{name}/attended")
        y = _mlp(layers, _norm(layers, x, f"{name}/norm2", shape), name, shape)
        x = layers.node("Add", x, _scaled(layers, y, f"{name}/scale2", shape), name=name)
    if shape.mean:
        bounds = (
            layers.constant(f"patches/{name}", (at,)) for name, at in (("from", 1 + shape.registers), ("to", 2**31))
        )
        x = layers.node("Slice", x, *bounds, layers.constant("patches/axis", (1,)), name="top_patches")
        x = layers.node("ReduceMean", x, name="top_mean", axes=[1], keepdims=1)
    x = _norm(layers, x, "top_mean_norm" if shape.mean else "top_norm", shape)
    if shape.flavour == "siglip":
        probe = _repeated(layers, x, layers.values["top_pool/probe"], "top_pool/probe")
        x = _attention(layers, probe, x, "top_pool", shape)
        y = _mlp(layers, _norm(layers, x, "top_pool/norm", shape), "top_pool", shape)
        x = layers.node("Add", x, y, name="top_pool")
    x = layers.node("Gather", x, layers.constant("first", (0,)), name="top_token", axis=1)  # [B, 1, width]
    x = layers.node("Flatten", x, name="top_flat", axis=1)
    if shape.projection:
        x = _linear(layers, x, "top_projection", layers.values["top_projection/kernel"])
    return layers.dense(x, "fc")


def _stem(layers: Any, x: str, shape: VitShape) -> str:
    weight = layers.constant("stem/patch/weight", layers.values["stem/patch/kernel"].transpose(3, 2, 0, 1))
    inputs = [x, weight]
    if "stem/patch/bias" in layers.values:
        inputs.append(layers.constant("stem/patch/bias", layers.values["stem/patch/bias"]))
    sizes = {"kernel_shape": [shape.patch] * 2, "strides": [shape.patch] * 2}
    x = layers.node("Conv", *inputs, name="stem/patch", **sizes)
    x = layers.node("Reshape", x, layers.constant("stem/rows", (0, shape.width, -1)), name="stem/patches")
    x = layers.node("Transpose", x, name="stem/tokens", perm=[0, 2, 1])
    x = layers.node("Add", x, layers.constant("stem/positions", layers.values["stem/positions"]), name="stem/placed")
    tokens = [layers.values[name] for name in ("stem/class", "stem/registers") if name in layers.values]
    if tokens:
        before = _repeated(layers, x, np.concatenate(tokens, axis=1), "stem/before")
        x = layers.node("Concat", before, x, name="stem", axis=1)
    return _norm(layers, x, "stem/norm", shape) if shape.flavour == "clip" else x


def _repeated(layers: Any, x: str, tokens: np.ndarray, name: str) -> str:
    """Tokens [1, N, width] for each input of a batch x [B, ...]."""
    batch = layers.node("Shape", x, name=f"{name}/batch", start=0, end=1)
    sizes = layers.node(
        "Concat", batch, layers.constant(f"{name}/sizes", tokens.shape[1:]), name=f"{name}/shape", axis=0
    )
    return layers.node("Expand", layers.constant(f"{name}/token", tokens), sizes, name=name)


def _norm(layers: Any, x: str, name: str, shape: VitShape) -> str:
    factors = (layers.constant(f"{name}/{leaf}", layers.values[f"{name}/{leaf}"]) for leaf in ("scale", "bias"))
    return layers.node("LayerNormalization", x, *factors, name=name, axis=-1, epsilon=EPSILON.get(shape.flavour, 1e-6))


def _scaled(layers: Any, x: str, name: str, shape: VitShape) -> str:
    if shape.flavour != "dinov2":
        return x
    return layers.node("Mul", x, layers.constant(f"{name}/gamma", layers.values[f"{name}/gamma"]), name=name)


def _linear(layers: Any, x: str, name: str, kernel: np.ndarray, bias: np.ndarray | None = None) -> str:
    """x [..., in] -> [..., out]."""
    x = layers.node("MatMul", x, layers.constant(f"{name}/weight", kernel), name=f"{name}/product")
    return x if bias is None else layers.node("Add", x, layers.constant(f"{name}/bias", bias), name=name)


def _dense(layers: Any, x: str, name: str) -> str:
    return _linear(layers, x, name, layers.values[f"{name}/kernel"], layers.values[f"{name}/bias"])


def _attention(layers: Any, query: str, tokens: str, name: str, shape: VitShape) -> str:
    """Attention of queries [B, Q, width] to tokens [B, N, width]."""
    whole = ("q", "kv") if name == "top_pool" else ("qkv",)
    kernels, biases = (
        np.split(np.concatenate([layers.values[f"{name}/{part}/{leaf}"] for part in whole], axis=-1), 3, axis=-1)
        for leaf in ("kernel", "bias")
    )
    sizes, parts = (0, 0, shape.heads, shape.width // shape.heads), {}
    for part, x, kernel, bias in zip("qkv", (query, tokens, tokens), kernels, biases, strict=True):
        x = _linear(layers, x, f"{name}/{part}_of", kernel, bias)
        x = layers.node("Reshape", x, layers.constant(f"{name}/{part}_sizes", sizes), name=f"{name}/{part}_heads")
        order = [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]
        parts[part] = layers.node("Transpose", x, name=f"{name}/{part}_by_head", perm=order)
    x = layers.node("MatMul", parts["q"], parts["k"], name=f"{name}/products")
    scale = layers.constant(f"{name}/per_root", sizes[3] ** -0.5)
    x = layers.node("Mul", x, scale, name=f"{name}/logits")
    x = layers.node("Softmax", x, name=f"{name}/weights", axis=-1)
    x = layers.node("MatMul", x, parts["v"], name=f"{name}/mixed_by_head")
    x = layers.node("Transpose", x, name=f"{name}/mixed_heads", perm=[0, 2, 1, 3])
    x = layers.node("Reshape", x, layers.constant(f"{name}/together", (0, 0, shape.width)), name=f"{name}/mixed")
    return _dense(layers, x, f"{name}/proj")


def _mlp(layers: Any, x: str, name: str, shape: VitShape) -> str:
    if shape.swiglu:
        gate, values = (
            _linear(layers, x, f"{name}/{part}", kernel, bias)
            for part, kernel, bias in zip(
                ("gate", "values"),
                *(np.split(layers.values[f"{name}/fc1/{leaf}"], 2, axis=-1) for leaf in ("kernel", "bias")),
                strict=True,
            )
        )
        share = layers.node("Sigmoid", gate, name=f"{name}/gate/share")
        gate = layers.node("Mul", gate, share, name=f"{name}/gate/active")
        x = layers.node("Mul", gate, values, name=f"{name}/gated")
    else:
        x = _gelu(layers, _dense(layers, x, f"{name}/fc1"), shape.flavour)
    return _dense(layers, x, f"{name}/fc2")


def _gelu(layers: Any, x: str, flavour: str) -> str:
    """The GELU of a flavour: x times a share. Opset 17 has no operator for it."""

    def by(op: str, y: str, value: float, name: str) -> str:
        return layers.node(op, y, layers.constant(f"{x}/{name}_by", value), name=f"{x}/{name}")

    if flavour == "clip":
        share = layers.node("Sigmoid", by("Mul", x, 1.702, "scaled"), name=f"{x}/share")
    else:
        if flavour == "siglip":
            cube = layers.node("Mul", layers.node("Mul", x, x, name=f"{x}/square"), x, name=f"{x}/cube")
            y = layers.node("Add", x, by("Mul", cube, 0.044715, "small"), name=f"{x}/bent")
            y = layers.node("Tanh", by("Mul", y, np.sqrt(2 / np.pi), "scaled"), name=f"{x}/tanh")
        else:
            y = layers.node("Erf", by("Mul", x, np.sqrt(0.5), "scaled"), name=f"{x}/erf")
        share = by("Mul", by("Add", y, 1, "shifted"), 0.5, "share")
    return layers.node("Mul", x, share, name=f"{x}/gelu")
