"""PSNR, SSIM and NRMSE, with their conventions stated."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from metasr.scale import Scale

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5


def crop_border(image: Tensor, border_px: tuple[int, int]) -> Tensor:
    """Drop rows above and below and columns left and right of `[..., H, W]`."""
    rows, columns = border_px
    return image[..., rows : image.shape[-2] - rows, columns : image.shape[-1] - columns]


def psnr(image: Tensor, reference: Tensor, data_range: float = 1.0) -> Tensor:
    """Return the peak signal-to-noise ratio in dB of each image of `[N, C, H, W]`, `[N]`.

    Computed in float64; infinite where the images are the same.
    """
    error = (image.double() - reference.double()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(data_range**2 / error)


def ssim(image: Tensor, reference: Tensor, data_range: float = 1.0) -> Tensor:
    """Return the structural similarity of each image of `[N, C, H, W]`, `[N]`: the mean of its map."""
    return ssim_map(image, reference, data_range).mean(dim=(1, 2, 3))


def ssim_map(image: Tensor, reference: Tensor, data_range: float = 1.0) -> Tensor:
    """Return the structural similarity where the window lies inside the image, `[N, C, H - 10, W - 10]`.

    11 x 11 Gaussian window with sigma 1.5, K1 = 0.01, K2 = 0.03, population covariance, in float64.

    Source: Wang et al. 2004.
    """
    channels = image.shape[1]
    line = _gaussian_line(image.device).expand(channels, 1, 1, -1)

    def local_mean(x: Tensor) -> Tensor:
        along_rows = functional.conv2d(x, line, groups=channels)
        return functional.conv2d(along_rows, line.mT, groups=channels)

    x, y = image.double(), reference.double()
    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x = local_mean(x * x) - mean_x**2
    variance_y = local_mean(y * y) - mean_y**2
    covariance = local_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return luminance * structure


def nrmse(image: Tensor, reference: Tensor) -> Tensor:
    """Return the norm of the error over the norm of the reference of each image of `[N, C, H, W]`, `[N]`.

    The Euclidean normalisation: dark background around the brain changes nothing. Computed in float64.
    """
    error = (image.double() - reference.double()).square().sum(dim=(1, 2, 3))
    return (error / reference.double().square().sum(dim=(1, 2, 3))).sqrt()


def border_px(scale: Scale) -> tuple[int, int]:
    """Return the rows and columns that the protocol drops on each side at this scale: ceil(r) pixels."""
    return math.ceil(scale.rows), math.ceil(scale.columns)


def _gaussian_line(device: torch.device) -> Tensor:
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64, device=device) - SSIM_WINDOW // 2
    line = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    return line / line.sum()
