"""A perceptual distance to report beside PSNR and SSIM: like LPIPS, without its learned weights."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from metasr.vgg import ImageNetInput, load_vgg

Network = Literal["vgg16", "vgg19"]


class PerceptualDistance(nn.Module):
    """Squared distance between the unit-normalised features of two images, averaged over pixels and layers.

    0 is equal, 2 is the largest. Values of different networks cannot be compared.

    Args:
        features: The layers of a VGG up to the last one compared. They are frozen.
        layers: Indices of the layers compared.

    Source: Zhang et al. 2018, Eq. 1 with all weights 1; the mean over layers, not the sum.
    """

    def __init__(self, features: nn.Sequential, layers: list[int]) -> None:
        super().__init__()
        self.input = ImageNetInput()
        self.features = features.eval().requires_grad_(False)
        self.layers = layers

    @torch.inference_mode()
    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Return the distances `[N]` of images `[N, 1 or 3, H, W]`: intensities in [0, 1], sides of 16 or more."""
        pairs = zip(self._directions(image), self._directions(reference), strict=True)
        distances = [(one - other).square().sum(dim=1).mean(dim=(1, 2)) for one, other in pairs]
        return torch.stack(distances).mean(dim=0)

    def _directions(self, image: Tensor) -> list[Tensor]:
        """Return the features of each compared layer, of length 1 at each pixel."""
        maps, kept = self.input(image), []
        for index, layer in enumerate(self.features):
            maps = layer(maps)
            if index in self.layers:
                kept.append(maps / maps.norm(dim=1, keepdim=True).clamp(min=1e-10))
        return kept


def load_perceptual_distance(network: Network = "vgg16", file: Path | None = None) -> PerceptualDistance:
    """Build the distance on the last activation of each stage of a trained VGG.

    Args:
        network: LPIPS uses vgg16.
        file: Its weights; without a file, torchvision's, downloaded if they are not on this machine.

    Raises:
        ConfigError: The weights cannot be read or downloaded, or belong to another network.
    """
    features = load_vgg(network, None, file)
    poolings = [index for index, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
    return PerceptualDistance(features[: poolings[-1]], [index - 1 for index in poolings])
