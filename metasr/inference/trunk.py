"""The trunk of a generator as it is computed on a CPU: fewer passes over the maps, and only the pixels that matter.

The arithmetic is that of `metasr.models.blocks.Trunk`, to float32's rounding:

- BatchNorm and the factor on residual branches are folded into the weights of the convolutions before them;
- activations and additions are done in place: fresh memory costs more than they do;
- channels lie last, which is how meta-upscale reads the features;
- of an image whose rim nobody asks for, each layer computes what the layers after it read, and no more.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from metasr.models.blocks import ResidualBlock, Trunk

Rim = tuple[int, int]
"""Pixels at both ends of rows, and of columns."""


class _Conv(NamedTuple):
    weight: Tensor
    bias: Tensor

    @property
    def reach(self) -> int:
        return self.weight.shape[-1] // 2


class _Block(NamedTuple):
    first: _Conv
    activation: nn.Module
    second: _Conv


class FoldedTrunk:
    """A copy of a trunk, with running statistics, for images `[N, C, h, w]` on the CPU.

    Args:
        trunk: Left as it is. Its weights must not change while the copy is used.
    """

    def __init__(self, trunk: Trunk) -> None:
        first, self._activation = trunk.head
        self._head = _folded(first, nn.Identity())
        self._fuse = _folded(*trunk.fuse)
        self._blocks = [_block(block) for block in trunk.blocks]

    def __call__(self, image: Tensor, rim: Rim = (0, 0)) -> Tensor:
        """Return the maps `[N, F, h, w]`, channels last, without gradients.

        Args:
            image: What the trunk takes.
            rim: How many pixels at the ends of rows and of columns nobody asks for: their maps are 0.
        """
        steps = [self._head, *(conv for block in self._blocks for conv in (block.first, block.second)), self._fuse]
        cut = _Cut(rim, sum(step.reach for step in steps))
        head = _activated(cut.conv(_inside(image, (0, 0), cut.done), self._head), self._activation)
        maps, at_head = head, cut.done
        for block in self._blocks:
            before = cut.done
            branch = _activated(cut.conv(maps, block.first), block.activation)
            maps = cut.conv(branch, block.second).add_(_inside(maps, before, cut.done))
        maps = cut.conv(maps, self._fuse).add_(_inside(head, at_head, cut.done))
        if rim == (0, 0):
            return maps
        whole = maps.new_zeros(len(maps), *image.shape[2:], maps.shape[1]).permute(0, 3, 1, 2)
        _inside(whole, (0, 0), rim).copy_(maps)
        return whole


class _Cut:
    """How much of the rim the layers so far have left out.

    Args:
        rim: That may be left out in the end.
        reach: Of all layers together.
    """

    def __init__(self, rim: Rim, reach: int) -> None:
        self._rim, self._reach = rim, reach
        self.done = self._unread()

    def conv(self, maps: Tensor, layer: _Conv) -> Tensor:
        """Convolve, with zeros around the image, and leave out what no layer after this one reads."""
        self._reach -= layer.reach
        before, self.done = self.done, self._unread()
        around = [layer.reach - (now - then) for now, then in zip(self.done, before, strict=True)]
        return functional.conv2d(maps, layer.weight, layer.bias, padding=around)

    def _unread(self) -> Rim:
        rows, columns = self._rim
        return max(0, rows - self._reach), max(0, columns - self._reach)


def _inside(maps: Tensor, done: Rim, cut: Rim) -> Tensor:
    """Return maps that lack `done` of the rim without all of `cut`."""
    rows, columns = cut[0] - done[0], cut[1] - done[1]
    return maps[..., rows : maps.shape[2] - rows, columns : maps.shape[3] - columns]


def _activated(maps: Tensor, activation: nn.Module) -> Tensor:
    assert isinstance(activation, nn.PReLU)
    if activation.num_parameters > 1:
        return functional.prelu(maps, activation.weight)
    return functional.leaky_relu_(maps, float(activation.weight))


def _block(block: nn.Module) -> _Block:
    assert isinstance(block, ResidualBlock)
    first, norm, activation, second, last_norm = block.branch
    return _Block(_folded(first, norm), activation, _folded(second, last_norm, block.residual_scale))


def _folded(conv: nn.Module, norm: nn.Module, factor: float = 1.0) -> _Conv:
    """Return weights and bias of a convolution, what follows it, and a factor on both."""
    assert isinstance(conv, nn.Conv2d)
    weight, bias = conv.weight, conv.bias
    if isinstance(norm, nn.BatchNorm2d):
        assert norm.running_mean is not None  # `blocks.py` keeps them
        assert norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
    assert bias is not None  # the networks' convolutions have one
    weight = (weight.detach() * factor).contiguous(memory_format=torch.channels_last)
    return _Conv(weight, bias.detach() * factor)
