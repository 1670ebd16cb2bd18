"""Meta-upscale as it is defined: a kernel of its own for every output pixel.

Let F be the features and r the scale. Output pixel (i, j) is

    (i', j')  = (floor(i / r), floor(j / r))                            the LR cell it falls into
    v         = (i / r - i', j / r - j', 1 / r)                         where in that cell, and how large cells are
    W         = gain * (A relu(B v + b) + a)                            the kernel, predicted by two linear layers
    I(i, j)   = sum over c, y, x of W[c, y, x] F[c, i' + y, j' + x]     with y and x from -1 to 1 for 3x3 kernels

where F is 0 outside the image. `MetaUpscale` computes the same image in a fraction of the time and memory; this is
what it is tested and measured against.

Source: Hu et al. 2019, section 3; paper, Fig. 3. Axes of different scales: see `metasr.models.meta_upscale`.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from metasr.models.meta_upscale import MetaUpscale


def per_pixel(layer: MetaUpscale, features: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the image `[N, out_channels, *size]` of `features` `[N, C, h, w]`.

    Args:
        layer: The weights. Computed in their precision, which the features must have too: float64 for a reference.
        features: LR feature maps.
        size: Height and width of the output in pixels; the scale of each axis follows from it.
    """
    height, width = features.shape[2:]
    cell_y, fraction_y = _project(height, size[0], features)
    cell_x, fraction_x = _project(width, size[1], features)
    inverse_scale = torch.full(size, math.sqrt(height / size[0] * width / size[1])).to(features)
    v = torch.stack([fraction_y[:, None].expand(size), fraction_x.expand(size), inverse_scale], dim=-1)

    side = layer.kernel_size
    kernels = layer.output_gain * layer.kernel(functional.relu(layer.position(v)))
    kernels = kernels.unflatten(-1, (layer.out_channels, layer.in_channels, side, side))

    padded = functional.pad(features, (side // 2,) * 4)
    image = features.new_zeros(len(features), layer.out_channels, *size)
    for y in range(side):
        for x in range(side):
            taps = padded[:, :, cell_y[:, None] + y, cell_x + x]
            image = image + torch.einsum("nchw,hwoc->nohw", taps, kernels[..., y, x])
    return image


def _project(lr_size: int, hr_size: int, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the LR cell of each pixel of an axis and its fraction, from integers: i / r = i * lr_size / hr_size."""
    numerator = torch.arange(hr_size, device=features.device) * lr_size
    return numerator // hr_size, (numerator % hr_size).to(features) / hr_size
