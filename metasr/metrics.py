"""PSNR and SSIM, with their conventions stated."""

import math

import torch
from torch import Tensor
from torch.nn import functional

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


def crop_border(image: Tensor, border_px: int) -> Tensor:
    """Drop `border_px` pixels on each side of `[..., H, W]`."""
    if border_px == 0:
        return image
    return image[..., border_px:-border_px, border_px:-border_px]


def psnr(image: Tensor, reference: Tensor, data_range: float = 1.0) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of each image of `[N, C, H, W]`, `[N]`.

    Computed in float64; infinite where the images are the same.
    """
    error = (image.double() - reference.double()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(data_range**2 / error)


def ssim(image: Tensor, reference: Tensor, data_range: float = 1.0) -> Tensor:
    """Return the structural similarity of each image of `[N, C, H, W]`, `[N]`.

    11 x 11 Gaussian window with sigma 1.5, K1 = 0.01, K2 = 0.03, population covariance, in float64; the mean is taken
    where the window lies inside the image.

    Source: Wang et al. 2004.
    """
    channels = image.shape[1]
    window = _gaussian_window(image.device).expand(channels, 1, -1, -1)

    def local_mean(x: Tensor) -> Tensor:
        return functional.conv2d(x, window, groups=channels)

    x, y = image.double(), reference.double()
    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x = local_mean(x * x) - mean_x**2
    variance_y = local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def border_px(scale: float) -> int:
    """Return the border that the protocol drops at this scale: ceil(r) pixels."""
    return math.ceil(scale)


def _gaussian_window(device: torch.device) -> Tensor:
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64, device=device) - SSIM_WINDOW // 2
    line = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    line = line / line.sum()
    return line[:, None] * line[None, :]
