"""The perceptual loss: distance between VGG features (paper, Eq. 5). The home of torchvision."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from metasr.config import LossConfig
from metasr.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PerceptualLoss(nn.Module):
    """Mean squared distance between the features of two images.

    Eq. 5 writes a Euclidean norm divided by the number of elements; this is its square, as in SRGAN (Eq. 5 there).

    Args:
        features: The layers of a VGG up to the one compared. They are frozen.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Compare images `[N, 1 or 3, H, W]` with intensities in [0, 1]."""
        with torch.no_grad():
            target = self._extract(hr)
        return functional.mse_loss(self._extract(sr), target)

    def _extract(self, image: Tensor) -> Tensor:
        features: Tensor = self.features((image.expand(-1, 3, -1, -1) - self.mean) / self.std)
        return features


def check_perceptual(config: LossConfig) -> None:
    """Raise ConfigError unless the perceptual loss is off or its weights file is there."""
    if not config.perceptual:
        return
    if config.vgg_weights is None:
        raise ConfigError(
            f"loss.perceptual is {config.perceptual} but loss.vgg_weights names no file",
            "the perceptual loss compares features of a trained VGG",
            "Give --loss.vgg-weights FILE.safetensors, or --loss.perceptual 0 to train without it",
        )
    if not config.vgg_weights.is_file():
        raise ConfigError(
            f"loss.vgg_weights {config.vgg_weights}",
            "there is no such file",
            "Give the path of a safetensors file on every node, or --loss.perceptual 0 to train without it",
        )


def load_perceptual(config: LossConfig) -> PerceptualLoss | None:
    """Build the perceptual loss of `config` from its weights file; None where its weight is 0."""
    check_perceptual(config)
    if not config.perceptual or config.vgg_weights is None:
        return None
    with torch.device("meta"):  # no memory and no random numbers for the classifier, which is not needed
        network = _import_torchvision_models().get_model(config.vgg_network, weights=None).features
    network = network[: _layer_index(network, config) + 1]
    _load_weights(network, config.vgg_weights, config.vgg_network)
    return PerceptualLoss(network)


def _layer_index(network: nn.Sequential, config: LossConfig) -> int:
    """Return the index of the layer named reluX_Y: the Yth activation of the Xth stage between poolings."""
    names, stage, number = {}, 1, 0
    for index, layer in enumerate(network):
        if isinstance(layer, nn.MaxPool2d):
            stage, number = stage + 1, 0
        elif isinstance(layer, nn.ReLU):
            number += 1
            names[f"relu{stage}_{number}"] = index
    if config.vgg_layer not in names:
        raise ConfigError(
            f"loss.vgg_layer {config.vgg_layer}",
            f"{config.vgg_network} has no such layer",
            f"Choose one of {', '.join(names)}",
        )
    return names[config.vgg_layer]


def _load_weights(network: nn.Sequential, file: Path, name: str) -> None:
    """Fill `network` from a safetensors file with torchvision's keys (`features.0.weight` ...)."""
    try:
        stored = safetensors.torch.load_file(file)
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"loss.vgg_weights {file}", f"not a safetensors file ({error})", "Check the file"
        ) from error
    wanted = network.state_dict()
    weights = {key: stored.get(f"features.{key}") for key in wanted}
    wrong = [key for key, value in weights.items() if value is None or value.shape != wanted[key].shape]
    if wrong:
        raise ConfigError(
            f"loss.vgg_weights {file}",
            f"it does not hold {name}: features.{wrong[0]} is missing or has another shape",
            "Give the weights of the network that loss.vgg_network names",
        )
    network.load_state_dict(weights, assign=True)


def _import_torchvision_models() -> Any:
    """Import torchvision.models, also beside a torch without CUDA.

    The wheels on PyPI are built for CUDA; beside a CPU-only torch their compiled part does not load, and the import
    fails on two operators that nobody here calls. Declaring their schemas first is enough.
    """
    try:
        import torchvision.models as models
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _import_torchvision_models.library = library  # type: ignore[attr-defined]  # must outlive this call
        import torchvision.models as models
    return models
