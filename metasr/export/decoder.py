"""The decoder as a graph: from feature maps to an image of any size, the scale of each axis on its own.

The size is an input, so that one file serves every scale. Cells and fractions are computed in integers, as in
`metasr.models.positions`. Kernels are never made: their prediction is linear in its hidden units, so the products of
the features with the weights of each hidden unit are one convolution on the LR grid, and an output pixel is a sum
over hidden units (`_swapped` in `metasr.models.meta_upscale`). That sum is made a row of the output at a time, so
that memory grows with LR and a row, not with the output.
"""

from typing import NamedTuple

import numpy as np

from metasr.export.graph import FLOAT, INT64, Graph, Inputs
from metasr.models import Generator
from metasr.models.meta_upscale import MetaUpscale

KEYS = -0.5  # the parameter of the cubic kernel, as in `resize_bicubic`


class _Axis(NamedTuple):
    """Names of what is known of an axis: sizes as scalars, cell and fraction of each output pixel."""

    lr_size: str
    hr_size: str
    pixels: str
    cell: str
    fraction: str


def decoder(generator: Generator, about: dict[str, str]) -> bytes:
    """Return `Generator.decode` as an ONNX file: `maps`, `lr` and `size` to `sr` `[N, C, *size]`.

    Args:
        generator: On the CPU.
        about: What the file says of itself.
    """
    graph = Graph("decoder")
    rows, columns = _axis(graph, 0), _axis(graph, 1)
    image = _meta_upscale(graph, generator, rows, columns)
    if generator.skip == "bicubic":
        left = graph.add("MatMul", _cubic(graph, rows), "lr")
        enlarged = graph.add("MatMul", left, graph.add("Transpose", _cubic(graph, columns), perm=[1, 0]))
        image = graph.add("Add", image, enlarged)
    else:
        image = graph.add("Add", image, graph.constant(float(generator.mean)))
    channels, features = generator.upscale.out_channels, generator.upscale.in_channels
    inputs: Inputs = {
        "maps": (FLOAT, ["n", features, "h", "w"]),
        "lr": (FLOAT, ["n", channels, "h", "w"]),
        "size": (INT64, [2]),
    }
    return graph.model(inputs, ("sr", image, ["n", channels, "height", "width"]), about)


def _axis(graph: Graph, number: int) -> _Axis:
    """Return the positions along rows (0) or columns (1): i / r = i * lr_size / hr_size, in integers."""
    lr_size = graph.add("Gather", graph.add("Shape", "maps"), graph.constant(2 + number))
    hr_size = graph.add("Gather", "size", graph.constant(number))
    pixels = graph.add("Range", graph.constant(0), hr_size, graph.constant(1))
    position = graph.add("Mul", pixels, lr_size)
    cell = graph.add("Div", position, hr_size)
    rest = graph.add("Sub", position, graph.add("Mul", cell, hr_size))
    return _Axis(lr_size, hr_size, pixels, cell, _ratio(graph, rest, hr_size))


def _ratio(graph: Graph, numerator: str, denominator: str) -> str:
    return graph.add("Div", *(graph.add("Cast", each, to=FLOAT) for each in (numerator, denominator)))


def _meta_upscale(graph: Graph, generator: Generator, rows: _Axis, columns: _Axis) -> str:
    """Return the output of meta-upscale, times the standard deviation of the training data."""
    layer = generator.upscale
    products = graph.add(
        "Conv", "maps", graph.constant(_filters(layer, float(generator.std))), pads=[layer.kernel_size // 2] * 4
    )
    products = graph.add("Transpose", products, perm=[2, 0, 1, 3])  # [h, N, out * (hidden + 1), w]
    per_row, per_column, per_scale = layer.position.weight.detach().numpy().T[:, :, None]  # each [hidden, 1]
    inverse = [_ratio(graph, axis.lr_size, axis.hr_size) for axis in (rows, columns)]
    inverse_scale = graph.add("Sqrt", graph.add("Mul", *inverse))
    offset = graph.add("Mul", graph.constant(per_scale), inverse_scale)
    offset = graph.add("Add", offset, graph.constant(layer.position.bias.detach().numpy()[:, None]))
    along = graph.add("Add", graph.add("Mul", graph.constant(per_column), columns.fraction), offset)
    body = _row(layer, products, along, columns.cell, per_row)
    image = graph.add("Scan", rows.cell, rows.fraction, body=body, num_scan_inputs=2)  # [H, N, out, W]
    return graph.add("Transpose", image, perm=[1, 2, 0, 3])


def _filters(layer: MetaUpscale, std: float) -> np.ndarray:
    """Return the weights of each hidden unit as filters `[out * (hidden + 1), in, k, k]`; the last are the bias."""
    weights = np.concatenate([layer.kernel.weight.detach().numpy(), layer.kernel.bias.detach().numpy()[:, None]], 1)
    side = layer.kernel_size
    shaped = weights.T.reshape(-1, layer.out_channels, layer.in_channels, side, side).swapaxes(0, 1)
    return np.asarray(shaped.reshape(-1, layer.in_channels, side, side) * layer.output_gain * std)


def _row(layer: MetaUpscale, products: str, along: str, cells: str, per_row: np.ndarray) -> object:
    """Return the body that makes one row `[N, out, W]` from its cell and fraction."""
    graph = Graph("row")
    hidden = graph.add("Relu", graph.add("Add", graph.add("Mul", graph.constant(per_row), "fraction"), along))
    ones = graph.add("Add", graph.add("Mul", cells, graph.constant(0)), graph.constant(1))
    ones = graph.add("Unsqueeze", graph.add("Cast", ones, to=FLOAT), graph.constant(np.array([0])))
    units = graph.add("Concat", hidden, ones, axis=0)  # [hidden + 1, W]
    here = graph.add("Gather", graph.add("Gather", products, "cell", axis=0), cells, axis=2)
    split = np.array([0, layer.out_channels, -1, 0])
    here = graph.add("Unsqueeze", here, graph.constant(np.array([1])))  # [N, 1, out * (hidden + 1), W]
    here = graph.add("Reshape", here, graph.constant(split))
    row = graph.add("ReduceSum", graph.add("Mul", here, units), graph.constant(np.array([2])), keepdims=0)
    return graph.body({"cell": (INT64, []), "fraction": (FLOAT, [])}, row, ["n", layer.out_channels, "width"])


def _cubic(graph: Graph, axis: _Axis) -> str:
    """Return the weights `[hr_size, lr_size]` of cubic interpolation on half-pixel centres (Keys 1981)."""
    twice = graph.constant(2)
    centre = graph.add("Mul", graph.add("Add", graph.add("Mul", axis.pixels, twice), graph.constant(1)), axis.lr_size)
    centre = graph.add("Unsqueeze", graph.add("Sub", centre, axis.hr_size), graph.constant(np.array([1])))
    lr_pixels = graph.add("Range", graph.constant(0), axis.lr_size, graph.constant(1))
    double = graph.add("Mul", axis.hr_size, twice)
    away = graph.add("Abs", graph.add("Sub", centre, graph.add("Mul", lr_pixels, double)))
    distance = _ratio(graph, away, double)
    near = _polynomial(graph, distance, (KEYS + 2, -(KEYS + 3), 0.0, 1.0))
    far = _polynomial(graph, distance, (KEYS, -5 * KEYS, 8 * KEYS, -4 * KEYS))
    far = graph.add("Where", graph.add("Less", distance, graph.constant(2.0)), far, graph.constant(0.0))
    weights = graph.add("Where", graph.add("Less", distance, graph.constant(1.0)), near, far)
    return graph.add("Div", weights, graph.add("ReduceSum", weights, graph.constant(np.array([1]))))


def _polynomial(graph: Graph, x: str, coefficients: tuple[float, ...]) -> str:
    """Return the polynomial with these coefficients, the highest first."""
    value = graph.constant(coefficients[0])
    for coefficient in coefficients[1:]:
        value = graph.add("Add", graph.add("Mul", value, x), graph.constant(coefficient))
    return value
