"""The interface of every generator: images in, larger images out, in the intensity units of its training data."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class SuperResolver(nn.Module, ABC):
    """A network that enlarges images.

    Args:
        mean: Mean intensity of the training data; the network sees (image - mean) / std.
        std: Standard deviation of the training data.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, mean: float, std: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    @property
    def num_parameters(self) -> int:
        """Number of trainable values; running statistics, mean and std are buffers and do not count."""
        return sum(parameter.numel() for parameter in self.parameters())

    @abstractmethod
    def forward(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """Super-resolve `[N, C, h, w]` to `[N, C, *size]`."""


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluate without gradients and with running statistics; restore the mode of the module afterwards."""
    training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        module.train(training)
