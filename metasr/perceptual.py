"""The perceptual loss: distance between VGG features (paper, Eq. 5)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from metasr.config import LossConfig
from metasr.vgg import ImageNetInput, layer_index, load_vgg
from metasr.vgg_weights import find_weights


class PerceptualLoss(nn.Module):
    """Mean squared distance between the features of two images.

    Eq. 5 writes a Euclidean norm divided by the number of elements; this is its square, as in SRGAN (Eq. 5 there).

    Args:
        features: The layers of a VGG up to the one compared. They are frozen.
    """

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.input = ImageNetInput()
        self.features = features.eval().requires_grad_(False)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Compare images `[N, 1 or 3, H, W]` with intensities in [0, 1]."""
        with torch.no_grad():
            target = self.features(self.input(hr))
        return functional.mse_loss(self.features(self.input(sr)).float(), target.float())


def check_perceptual(config: LossConfig) -> None:
    """Check what `load_perceptual` needs, without reading the weights; download them if no file is named.

    Raises:
        ConfigError: The layer does not exist, torchvision cannot be imported, or there are no weights.
    """
    if config.perceptual:
        layer_index(config.vgg_network, config.vgg_layer)
        find_weights(config.vgg_network, config.vgg_weights)


def load_perceptual(config: LossConfig) -> PerceptualLoss | None:
    """Build the perceptual loss of `config`; None where its weight is 0.

    Raises:
        ConfigError: See `load_vgg`.
    """
    if not config.perceptual:
        return None
    return PerceptualLoss(load_vgg(config.vgg_network, config.vgg_layer, config.vgg_weights))
