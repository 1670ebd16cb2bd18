"""VGG-16 and VGG-19 before their classifier (Simonyan and Zisserman 2015), numbered and fed as torchvision does."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from metasr.errors import ConfigError
from metasr.vgg_weights import find_weights, read_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
WIDTHS = (64, 128, 256, 512, 512)
# Convolutions of each stage; there is a pooling between stages.
CONVOLUTIONS: Mapping[str, tuple[int, ...]] = MappingProxyType({"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)})


class ImageNetInput(nn.Module):
    """Make of an image what these networks were trained on: RGB with ImageNet's mean and standard deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Map `[N, 1 or 3, H, W]` with intensities in [0, 1] to `[N, 3, H, W]`."""
        return (image.expand(-1, 3, -1, -1) - self.mean) / self.std


def layer_index(network: str, layer: str) -> int:
    """Return the index of the layer named reluX_Y: the Yth activation of the Xth stage.

    Raises:
        ConfigError: `network` has no such layer.
    """
    indices, index = {}, 0
    for stage, convolutions in enumerate(CONVOLUTIONS[network], start=1):
        for number in range(1, convolutions + 1):
            indices[f"relu{stage}_{number}"] = index + 1
            index += 2
        index += 1
    if layer not in indices:
        raise ConfigError(
            f"loss.vgg_layer {layer}", f"{network} has no such layer", f"Choose one of {', '.join(indices)}"
        )
    return indices[layer]


def load_vgg(network: str, last: str, file: Path | None) -> nn.Sequential:
    """Return the trained layers of vgg16 or vgg19 up to the one named `last`, frozen.

    Args:
        network: vgg16 or vgg19.
        last: Such as relu5_4.
        file: Its weights, as `find_weights` takes them.

    Raises:
        ConfigError: There is no such layer, or the weights cannot be had or belong to another network.
    """
    count = layer_index(network, last) + 1
    with torch.device("meta"):  # no memory and no random numbers for what the file brings
        features = nn.Sequential(*vgg_layers(network)[:count])
    file = find_weights(network, file)
    stored = read_weights(file, network)
    wanted = features.state_dict()
    weights = {key: stored.get(f"features.{key}") for key in wanted}
    wrong = [key for key, value in weights.items() if value is None or value.shape != wanted[key].shape]
    if wrong:
        raise ConfigError(
            f"VGG weights {file}",
            f"it does not hold {network}: features.{wrong[0]} is missing or has another shape",
            "Give the weights of the network that loss.vgg_network names",
        )
    features.load_state_dict(weights, assign=True)
    features.eval().requires_grad_(False)
    return features


def vgg_layers(network: str) -> list[nn.Module]:
    """Return all convolutional layers of vgg16 or vgg19, with random weights."""
    layers: list[nn.Module] = []
    channels = 3
    for width, convolutions in zip(WIDTHS, CONVOLUTIONS[network], strict=True):
        for _ in range(convolutions):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return layers
