"""VGG-16 and VGG-19 before their classifier (Simonyan and Zisserman 2015), as torchvision builds them."""

from pathlib import Path

import torch
from torch import Tensor, nn

from metasr.errors import ConfigError
from metasr.vgg_weights import find_weights, read_weights, torchvision_models


class ImageNetInput(nn.Module):
    """Normalise an image as these networks were trained: RGB with ImageNet's mean and standard deviation.

    torchvision's `normalize` computes the same, but copies both to the device, and waits for it, at every call.
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        trained_on = torchvision_models().VGG19_Weights.IMAGENET1K_V1.transforms()
        self.register_buffer("mean", torch.tensor(trained_on.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(trained_on.std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Map `[N, 1 or 3, H, W]` with intensities in [0, 1] to `[N, 3, H, W]`."""
        return (image.expand(-1, 3, -1, -1) - self.mean) / self.std


def untrained_vgg(network: str) -> nn.Sequential:
    """Return the convolutional layers of vgg16 or vgg19 on the meta device: no memory, no random numbers drawn."""
    with torch.device("meta"):
        features: nn.Sequential = torchvision_models().get_model(network, weights=None, init_weights=False).features
    return features


def layer_index(network: str, layer: str) -> int:
    """Return the index of the layer named reluX_Y: the Yth activation of the Xth stage; a pooling ends a stage.

    Raises:
        ConfigError: `network` has no such layer, or torchvision cannot be imported.
    """
    indices, stage, number = {}, 1, 0
    for index, module in enumerate(untrained_vgg(network)):
        if isinstance(module, nn.ReLU):
            number += 1
            indices[f"relu{stage}_{number}"] = index
        elif isinstance(module, nn.MaxPool2d):
            stage, number = stage + 1, 0
    if layer not in indices:
        raise ConfigError(
            f"loss.vgg_layer {layer}", f"{network} has no such layer", f"Choose one of {', '.join(indices)}"
        )
    return indices[layer]


def load_vgg(network: str, last: str | None, file: Path | None) -> nn.Sequential:
    """Return the trained layers of vgg16 or vgg19, frozen.

    Args:
        network: vgg16 or vgg19.
        last: The last layer wanted, such as relu5_4; None for all up to the classifier.
        file: The weights, see `find_weights`.

    Raises:
        ConfigError: There is no such layer, torchvision cannot be imported, or the weights are missing or belong to
            another network.
    """
    features = untrained_vgg(network)
    if last is not None:
        features = features[: layer_index(network, last) + 1]
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
