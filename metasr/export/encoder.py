"""The encoder as a graph: from images on the LR grid to feature maps, layer by layer as the trunk has them."""

import numpy as np
from torch import nn

from metasr.export.graph import FLOAT, Graph, Inputs
from metasr.models import Generator
from metasr.models.blocks import ResidualBlock


def encoder(generator: Generator, about: dict[str, str]) -> bytes:
    """Return `Generator.encode` as an ONNX file: `lr` `[N, C, h, w]` to `maps` `[N, F, h, w]`, of any N, h and w.

    Args:
        generator: On the CPU; running statistics are taken.
        about: What the file says of itself.
    """
    graph = Graph("encoder")
    trunk = generator.trunk
    centred = graph.add("Sub", "lr", graph.constant(float(generator.mean)))
    head = _layer(graph, trunk.head, graph.add("Div", centred, graph.constant(float(generator.std))))
    maps = graph.add("Add", head, _layer(graph, nn.Sequential(trunk.blocks, trunk.fuse), head))
    channels, features = generator.upscale.out_channels, generator.upscale.in_channels
    inputs: Inputs = {"lr": (FLOAT, ["n", channels, "h", "w"])}
    return graph.model(inputs, ("maps", maps, ["n", features, "h", "w"]), about)


def _layer(graph: Graph, layer: nn.Module, image: str) -> str:
    """Add a layer that takes `image`, and return the name of what it gives."""
    if isinstance(layer, nn.Sequential):
        for each in layer:
            image = _layer(graph, each, image)
        return image
    if isinstance(layer, ResidualBlock):
        branch = graph.add("Mul", _layer(graph, layer.branch, image), graph.constant(layer.residual_scale))
        return graph.add("Add", image, branch)
    if isinstance(layer, nn.Conv2d):
        around = [int(padding) for padding in layer.padding] * 2
        return graph.add("Conv", image, *_values(graph, layer, "weight", "bias"), pads=around)
    if isinstance(layer, nn.PReLU):
        return graph.add("PRelu", image, graph.constant(layer.weight.detach().numpy()[:, None, None]))
    if isinstance(layer, nn.BatchNorm2d):
        statistics = _values(graph, layer, "weight", "bias", "running_mean", "running_var")
        return graph.add("BatchNormalization", image, *statistics, epsilon=layer.eps)
    assert isinstance(layer, nn.Identity), layer  # a new layer needs a line here
    return image


def _values(graph: Graph, layer: nn.Module, *names: str) -> list[str]:
    return [graph.constant(np.asarray(layer.state_dict()[name])) for name in names]
