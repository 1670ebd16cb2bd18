"""ONNX graphs, written a node at a time: what each computes has a name, by which others take it."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
IR_VERSION = 10
"""Of the file; what ONNX Runtime reads since 1.19."""
FLOAT, INT64 = int(TensorProto.FLOAT), int(TensorProto.INT64)
Shape = list[str | int]
Inputs = dict[str, tuple[int, Shape]]
"""Type and shape by name."""


class Graph:
    """The nodes and constants of a graph, in the order in which they are computed.

    Args:
        name: Of the graph; names inside begin with it, so that a body may take what is computed outside.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output, and return its name."""
        output = f"{self._name}_{len(self._nodes)}_{operator}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, value: NDArray[Any] | int | float) -> str:
        """Add a constant, and return its name: float32 for numbers with a point, int64 for others."""
        array = np.asarray(value)
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        name = f"{self._name}_constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def body(self, inputs: Inputs, output: str, shape: Shape) -> Any:
        """Return the graph, from inputs by name, with their types and shapes, to an output of floats."""
        return helper.make_graph(
            self._nodes,
            self._name,
            [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
            [helper.make_tensor_value_info(output, FLOAT, shape)],
            self._constants,
        )

    def model(self, inputs: Inputs, output: tuple[str, str, Shape], about: dict[str, str]) -> bytes:
        """Return the graph as an ONNX file.

        Args:
            inputs: By name.
            output: The name that programs read, the name of what it is in the graph, and its shape.
            about: What the file says of itself.
        """
        public, inner, shape = output
        self._nodes.append(helper.make_node("Identity", [inner], [public]))
        graph = self.body(inputs, public, shape)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="metasr"
        )
        helper.set_model_props(model, about)
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())
