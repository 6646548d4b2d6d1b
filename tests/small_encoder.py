"""Networks of pictures in ONNX files, other than ours."""

import numpy as np
import onnx
from onnx import TensorProto, helper

WEIGHT = np.random.default_rng(0).normal(size=(3 * 16 * 16, 5)).astype(np.float32)


def network(path, shape=("batch", 3, 16, 16), *, nodes=None, inputs=None, out=("batch", 5), dtype=TensorProto.FLOAT):
    """A file of one linear layer over all pixels, or of other nodes from `x` to `y`."""
    info = helper.make_tensor_value_info
    nodes = nodes or [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    inputs = inputs or [info("x", dtype, shape)]
    constants = [onnx.numpy_helper.from_array(WEIGHT, "w")]
    graph = helper.make_graph(nodes, "g", inputs, [info("y", TensorProto.FLOAT, out)], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, path)
    return path


def means(shape, **more):
    """Nodes for the mean of each channel, over pictures of any size."""
    return {"shape": shape, "out": ("batch", 3), "nodes": [helper.make_node("ReduceMean", ["x"], ["y"], **more)]}
