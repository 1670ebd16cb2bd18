"""How far a network sees: found in its layers."""

from torch import nn

from metasr.models.meta_upscale import MetaUpscale

CUBIC_PX = 2  # of the bicubic enlargement beside a trunk, which sees less far than any trunk
# Layers of which a pixel depends on the pixel at its place alone; BatchNorm in evaluation mode.
POINTWISE = (nn.PReLU, nn.ReLU, nn.BatchNorm2d, nn.Identity, nn.PixelShuffle)


def reach_px(network: nn.Module) -> int | None:
    """Return a number of LR pixels beyond which nothing changes an output pixel; None where a layer is not known.

    It is the sum over all layers of half their kernel: a bound for every path through the network, exact for layers
    that follow one another on the LR grid, and more than needed for those on a finer grid.
    """
    reach = _reach(network)
    return None if reach is None else max(CUBIC_PX, reach)


def _reach(layer: nn.Module) -> int | None:
    if isinstance(layer, nn.Conv2d):
        return max(step * (side - 1) for step, side in zip(layer.dilation, layer.kernel_size, strict=True)) // 2
    if isinstance(layer, MetaUpscale):
        return layer.kernel_size // 2
    if isinstance(layer, POINTWISE):
        return 0
    reaches = [_reach(part) for part in layer.children()]
    known = [reach for reach in reaches if reach is not None]
    return sum(known) if known and len(known) == len(reaches) else None
