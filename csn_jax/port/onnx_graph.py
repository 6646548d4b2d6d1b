"""Backbones as ONNX graphs, over the parameters of the JAX networks.

The graph is as a person would draw it, channels first: convolutions with folded batch norms, pools, one Gemm per linear
layer, nodes named after the modules. It is written by hand: a translation of what JAX traces would put a transpose
around each convolution and break when JAX renames its primitives.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from csn_jax.backbones import efficientnet, plain
from csn_jax.backbones.norm import EPSILON
from csn_jax.backbones.tensors import flat
from csn_jax.config import VITS, BackboneConfig, PreprocessConfig
from csn_jax.core.maps import Maps
from csn_jax.errors import UserError
from csn_jax.port.onnx_vit import vision_transformer

# Later versions have the same operators, so these numbers let older runtimes read the file.
OPSET, IR_VERSION = 17, 8


class Part(NamedTuple):
    """A trained network. Specialists are several of these."""

    backbone: BackboneConfig
    preprocess: PreprocessConfig
    params: Any
    statistics: Any
    raw: tuple[bool, float] | None = None  # whether of unit length, and scale, of the input beside the embedding


def to_onnx(
    parts: Sequence[Part],
    input_shape: Sequence[int],
    masks: np.ndarray,
    metadata: Mapping[str, str],
    producer: str,
    maps: Maps | None = None,
) -> bytes:
    """An ONNX file with the input `input` [B, ...], B free, and the outputs `embedding` [B, D] and `masks` [C, D], both
    float32. It computes in float32 whatever backbone.dtype was. A UserError without the package onnx, or for a backbone
    without a graph in NETWORKS.

    Args:
        parts: networks over the same input, whose embeddings are concatenated; none: the input is the embedding.
        input_shape: of one input: [H, W, ch] for uint8 pixels, [F] for float32 features.
        masks: [C, D], as applied.
        metadata: texts to store in the file.
        producer: a name, a space, a version.
        maps: whose views [B, V] of the embedding take its place, under masks [C, V].
    """
    try:
        import onnx
        from onnx import TensorProto, helper
    except ImportError:
        hint = "run pip install onnx, or choose another --format"
        raise UserError(f"--format=onnx needs the package onnx; {hint}.") from None
    nodes, constants, embeddings = [], [], []

    def node(op: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Add a node whose output has its own name."""
        nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def constant(name: str, value: Any) -> str:
        dtype = np.int64 if isinstance(value, tuple) else np.float32  # shapes are tuples
        constants.append(onnx.numpy_helper.from_array(np.asarray(value, dtype, order="C"), name))
        return name

    def scaled(x: str, raw: tuple[bool, float], name: str) -> str:
        """Vectors [B, F] of unit length if asked, times a scale."""
        unit, scale = raw
        if unit:
            length = node("ReduceL2", x, name=f"{name}/length", axes=[1], keepdims=1)
            length = node("Max", length, constant(f"{name}/least", 1e-12), name=f"{name}/positive_length")
            x = node("Div", x, length, name=f"{name}/unit")
        return node("Mul", x, constant(f"{name}/scale", scale), name=name)

    for i, part in enumerate(parts):
        network = NETWORKS.get(part.backbone.name)
        if network is None:
            missing = f"backbone {part.backbone.name} has no ONNX graph ({', '.join(NETWORKS)} have)"
            raise UserError(f"{missing}; export with --format=stablehlo.")
        prefix = f"part{i}/" if len(parts) > 1 else ""
        layers = Layers(node, constant, part, prefix)
        embeddings.append(network(layers, layers.pixels("input") if len(input_shape) == 3 else "input"))
        embeddings += [scaled("input", part.raw, f"{prefix}raw")] if part.raw else []
    x = node("Concat", *embeddings, name="embeddings", axis=1) if len(embeddings) > 1 else [*embeddings, "input"][0]
    if maps:
        x = scaled(x, (True, 1), "unit") if maps.unit else x
        x = node("Gemm", x, constant("maps/weight", maps.matrix), name="maps", transB=1)
    node("Identity", x, name="embedding")
    node("Identity", constant("masks/applied", masks), name="masks")
    dtype = TensorProto.UINT8 if len(input_shape) == 3 else TensorProto.FLOAT
    info, float32 = helper.make_tensor_value_info, TensorProto.FLOAT
    inputs = [info("input", dtype, ["batch", *input_shape])]
    outputs = [info("embedding", float32, ["batch", masks.shape[1]]), info("masks", float32, masks.shape)]
    name, _, version = producer.partition(" ")
    versions = {"opset_imports": [helper.make_opsetid("", OPSET)], "ir_version": IR_VERSION}
    made = helper.make_graph(nodes, "csn_jax", inputs, outputs, constants)
    model = helper.make_model(made, **versions, producer_name=name, producer_version=version)
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


class Layers:
    """The building blocks of networks. Each takes the name of a tensor [B, ch, H, W] or [B, F] and returns another; it
    goes into a graph by `add_node` and `add_constant`, under names with a prefix."""

    def __init__(self, add_node: Callable[..., str], add_constant: Callable[[str, Any], str], part: Part, prefix: str):
        self._add_node, self._add_constant, self.part, self._prefix = add_node, add_constant, part, prefix
        leaves = flat(part.params) | flat(part.statistics)
        self.values = {path: np.asarray(leaf, np.float64) for path, leaf in leaves.items()}
        self.modules = {path.rpartition("/")[0] for path in leaves}

    def node(self, op: str, *inputs: str, name: str, **attributes: Any) -> str:
        return self._add_node(op, *inputs, name=self._prefix + name, **attributes)

    def constant(self, name: str, value: Any) -> str:
        return self._add_constant(self._prefix + name, value)

    def pixels(self, x: str) -> str:
        """uint8 [B, H, W, ch] to normalised pixels [B, ch, H, W]."""
        config = self.part.preprocess
        mean, std = np.array(config.mean), np.array(config.std)
        x = self.node("Cast", x, name="preprocess/float", to=1)  # 1 is float32
        x = self.node("Mul", x, self.constant("preprocess/scale", 1 / (255 * std)), name="preprocess/scaled")
        x = self.node("Add", x, self.constant("preprocess/offset", -mean / std), name="preprocess/normalised")
        return self.node("Transpose", x, name="preprocess/channels_first", perm=[0, 3, 1, 2])

    def norm(self, x: str, name: str, factor: float) -> str:
        """Batch norm of features [B, F] times a factor, by running statistics."""
        x = self.node("Mul", x, self.constant("magnified/factor", factor), name="magnified")
        scale, shift, mean = self._affine(name)
        x = self.node("Sub", x, self.constant(f"{name}/mean", mean), name=f"{name}/centred")
        x = self.node("Mul", x, self.constant(f"{name}/scale", scale), name=f"{name}/scaled")
        return self.node("Add", x, self.constant(f"{name}/bias", shift), name=name)

    def _affine(self, name: str, epsilon: float = EPSILON) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(scale, shift, mean) of a batch norm: y = (x - mean) * scale + shift."""
        scale, bias, mean, var = (self.values[f"{name}/{leaf}"] for leaf in ("scale", "bias", "mean", "var"))
        return scale / np.sqrt(var + epsilon), bias, mean

    def conv(self, x: str, name: str, norm: str, stride: int, padding: int) -> str:
        """A convolution without bias, with the batch norm behind it folded in."""
        return self._folded(x, name, self.values[f"{name}/kernel"], self._affine(norm), stride, pads=[padding] * 4)

    def same_conv(self, x: str, name: str, stride: int, *, depthwise: bool = False) -> str:
        """As `conv`, of an EfficientNet: padded as in TensorFlow, `_conv` and `_bn` in place of names."""
        kernel = self.values[f"{name}_conv/{'filter' if depthwise else 'kernel'}"]
        more = {"auto_pad": "SAME_UPPER", "group": kernel.shape[3] if depthwise else 1}
        affine = self._affine(f"{name}_bn", efficientnet.EPSILON)
        return self._folded(x, f"{name}_conv", kernel, affine, stride, **more)

    def _folded(self, x: str, name: str, kernel: np.ndarray, affine: Any, stride: int, **more: Any) -> str:
        scale, shift, mean = affine  # kernel: [h, w, in, out]
        weight = self.constant(f"{name}/weight", (kernel * scale).transpose(3, 2, 0, 1))
        bias = self.constant(f"{name}/bias", shift - mean * scale)
        sizes = {"kernel_shape": list(kernel.shape[:2]), "strides": [stride] * 2}
        return self.node("Conv", x, weight, bias, name=name, **sizes, **more)

    def relu(self, x: str) -> str:
        return self._add_node("Relu", x, name=f"{x}/relu")

    def relu6(self, x: str) -> str:
        bounds = (self._add_constant(f"{x}/{name}", value) for name, value in (("least", 0), ("most", 6)))
        return self._add_node("Clip", x, *bounds, name=f"{x}/relu6")

    def add(self, x: str, y: str, name: str) -> str:
        return self.node("Add", x, y, name=f"{name}/sum")

    def add_relu(self, x: str, y: str, name: str) -> str:
        return self.relu(self.node("Add", x, y, name=f"{name}/sum"))

    def max_pool(self, x: str, window: int, stride: int, padding: int) -> str:
        sizes = {"kernel_shape": [window] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
        return self._add_node("MaxPool", x, name=f"{x}/max_pool", **sizes)

    def mean(self, x: str) -> str:
        """The mean over all pixels: [B, ch, H, W] -> [B, ch]."""
        return self._add_node("ReduceMean", x, name=f"{x}/mean", axes=[2, 3], keepdims=0)

    def flat(self, x: str) -> str:
        """[B, ch, H, W] -> [B, H * W * ch]: channels last, as the parameters have it."""
        x = self._add_node("Transpose", x, name=f"{x}/channels_last", perm=[0, 2, 3, 1])
        return self._add_node("Flatten", x, name=f"{x}/flat", axis=1)

    def dense(self, x: str, name: str, scale: float = 1) -> str:
        """A linear layer whose output is multiplied by `scale`."""
        weight = self.constant(f"{name}/weight", self.values[f"{name}/kernel"] * scale)
        bias = self.constant(f"{name}/bias", self.values[f"{name}/bias"] * scale)
        return self.node("Gemm", x, weight, bias, name=name)


def _small(layers: Layers, x: str) -> str:
    for i, (kernel, _) in enumerate(plain.SMALL_LAYERS):
        x = layers.relu(layers.conv(x, f"conv{i}", f"bn{i}", 2, kernel // 2))
    return layers.dense(layers.flat(x), "fc", plain.SMALL_SCALE)


def _vgg(layers: Layers, x: str) -> str:
    for stage, widths in enumerate(plain.VGG_STAGES):
        for i in range(len(widths)):
            x = layers.relu(layers.conv(x, f"conv{stage}_{i}", f"bn{stage}_{i}", 1, 1))
        x = layers.max_pool(x, 2, 2, 0)
    return layers.dense(layers.relu(layers.dense(layers.flat(x), "hidden")), "fc")


def _resnet(layers: Layers, x: str) -> str:
    x = layers.max_pool(layers.relu(layers.conv(x, "conv1", "bn1", 2, 3)), 3, 2, 1)
    blocks = sorted({module.partition("/")[0] for module in layers.modules if module.startswith("layer")})
    for block in blocks:  # layer<stage>_<place>, both of one digit
        x = _block(layers, x, block, 2 if block.endswith("_0") and block != blocks[0] else 1)
    return layers.dense(layers.mean(x), "fc")


def _block(layers: Layers, x: str, name: str, stride: int) -> str:
    """A residual block, or a bottleneck: three convolutions, the stride in the second."""

    def conv(x: str, which: str, norm: str, stride: int, padding: int) -> str:
        return layers.conv(x, f"{name}/{which}", f"{name}/{norm}", stride, padding)

    if f"{name}/conv3" in layers.modules:
        y = layers.relu(conv(x, "conv1", "bn1", 1, 0))
        y = layers.relu(conv(y, "conv2", "bn2", stride, 1))
        y = conv(y, "conv3", "bn3", 1, 0)
    else:
        y = layers.relu(conv(x, "conv1", "bn1", stride, 1))
        y = conv(y, "conv2", "bn2", 1, 1)
    if f"{name}/downsample_conv" in layers.modules:
        x = conv(x, "downsample_conv", "downsample_bn", stride, 0)
    return layers.add_relu(x, y, name)


def _efficientnet(layers: Layers, x: str) -> str:
    x = layers.relu6(layers.same_conv(x, "stem", 2))
    for number, i in efficientnet.PLACES:
        stage, name, y = efficientnet.STAGES[number - 1], f"stage{number}_{i}", x
        if stage.expansion > 1:
            y = layers.relu6(layers.same_conv(y, f"{name}/expand", 1))
        y = layers.relu6(layers.same_conv(y, f"{name}/depthwise", stage.stride if i == 0 else 1, depthwise=True))
        y = layers.same_conv(y, f"{name}/project", 1)
        x = layers.add(x, y, name) if i else y  # the first block of each stage has other features
    return layers.dense(layers.mean(layers.relu6(layers.same_conv(x, "top", 1))), "fc")


def _projection(layers: Layers, x: str) -> str:
    x = layers.norm(x, "bn", plain.MAGNIFIED)
    if "hidden" in layers.modules:
        x = layers.relu(layers.dense(x, "hidden"))
    return layers.dense(x, "fc", plain.PROJECTION_SCALE)


NETWORKS: dict[str, Callable[[Layers, str], str]] = {
    "small": _small,
    "vgg": _vgg,
    "resnet18_csn": _resnet,
    "resnet18": _resnet,
    "resnet50": _resnet,
    "projection": _projection,
    "efficientnet_lite0": _efficientnet,
    **dict.fromkeys(VITS, vision_transformer),
}
