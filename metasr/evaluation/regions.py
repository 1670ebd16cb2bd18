"""The regions of a slice in which scores are computed."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metasr.data.slices import informational_window
from metasr.metrics import SSIM_WINDOW, nrmse, psnr

RegionName = Literal["whole", "brain", "crop128"]
REGIONS: tuple[RegionName, ...] = ("whole", "brain", "crop128")
CROP_PX = 128
MARGIN = SSIM_WINDOW // 2


@dataclass(frozen=True)
class Region:
    """A part of a slice without its border.

    Attributes:
        name: Name of the region.
        pixels: Mask for PSNR and NRMSE, `[H, W]`.
        windows: Mask for the mean of the SSIM map, `[H - 10, W - 10]`.
    """

    name: RegionName
    pixels: Tensor
    windows: Tensor

    def measure(self, image: Tensor, hr: Tensor, similarity: Tensor) -> tuple[float, float, float]:
        """Return PSNR, SSIM and NRMSE.

        Args:
            image: Image without its border, `[1, 1, H, W]`.
            hr: The original, of the same shape.
            similarity: SSIM map of the two, `[1, 1, H - 10, W - 10]`.
        """
        chosen = image[..., self.pixels][..., None], hr[..., self.pixels][..., None]
        return psnr(*chosen).item(), similarity[..., self.windows].mean().item(), nrmse(*chosen).item()


def regions_of(hr: Tensor, border_px: tuple[int, int]) -> list[Region]:
    """Return the non-empty regions of a slice `[1, 1, H, W]`, border included.

    `whole` is the whole slice. `brain` has the pixels that are not background (0), and the SSIM windows centred on
    them. `crop128` is the paper's maximal informational crop, and the SSIM windows within it. All exclude the border.
    """
    image = hr[0, 0]
    inside = tuple(slice(px, length - px) for px, length in zip(border_px, image.shape, strict=True))
    crop = torch.zeros_like(image, dtype=torch.bool)
    crop[informational_window(image.numpy(), CROP_PX)] = True
    whole, brain, crop = torch.ones_like(crop)[inside], (image != 0)[inside], crop[inside]
    regions = [
        Region("whole", whole, _middles(whole)),
        Region("brain", brain, _middles(brain)),
        Region("crop128", crop, _whole_windows(crop)),
    ]
    return [region for region in regions if region.windows.any()]


def _middles(mask: Tensor) -> Tensor:
    """Return whether the central pixel of each SSIM window is in the mask."""
    return mask[MARGIN:-MARGIN, MARGIN:-MARGIN]


def _whole_windows(mask: Tensor) -> Tensor:
    """Return whether each SSIM window lies within the mask, which is a rectangle."""
    corners = mask.unfold(0, SSIM_WINDOW, 1).unfold(1, SSIM_WINDOW, 1)
    return corners.all(dim=3).all(dim=2)
