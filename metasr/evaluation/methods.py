"""The compared methods: bicubic and Lanczos interpolation, and networks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from metasr.data.degrade import resize_bicubic
from metasr.models import SuperResolver, evaluating
from metasr.models.baselines import FixedScale
from metasr.scale import Scale

LANCZOS_LOBES = 3
BICUBIC_NAME, LANCZOS_NAME, MODEL_NAME = "bicubic", "lanczos", "model"


@dataclass(frozen=True)
class Method:
    """A way to enlarge images.

    Attributes:
        name: Name in tables.
        enlarge: Maps LR `[N, C, h, w]` and a size to `[N, C, *size]`.
    """

    name: str
    enlarge: Callable[[Tensor, tuple[int, int]], Tensor]

    @property
    def network(self) -> SuperResolver | None:
        """The network, if it is one."""
        return self.enlarge if isinstance(self.enlarge, SuperResolver) else None

    @property
    def parameters(self) -> int | None:
        """Number of parameters of the network, if it is one."""
        return None if self.network is None else self.network.num_parameters

    @property
    def only_scale(self) -> Scale | None:
        """The single scale that it supports; None for any."""
        return Scale.parse(self.enlarge.scale) if isinstance(self.enlarge, FixedScale) else None

    def __call__(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """Enlarge images on the CPU; a network runs on its own device, without gradients, and keeps its mode."""
        if self.network is None:
            return self.enlarge(lr, size)
        device = next(self.network.parameters()).device
        with evaluating(self.network):
            return self.enlarge(lr.to(device), size).cpu()


def resize_lanczos(lr: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge `[N, C, h, w]` to `[N, C, *size]` with the Lanczos-3 kernel on half-pixel centres, as Pillow does.

    At the borders the weights of the existing pixels are normalised to sum to 1.
    """
    rows, columns = (_lanczos_weights(old, new).to(lr) for old, new in zip(lr.shape[-2:], size, strict=True))
    return rows @ lr @ columns.T


@lru_cache(maxsize=128)
def _lanczos_weights(old: int, new: int) -> Tensor:
    """Return the weights of LR pixels in each HR pixel, `[new, old]`."""
    centres = (torch.arange(new, dtype=torch.float64)[:, None] + 0.5) * old / new - 0.5
    distance = torch.arange(old) - centres
    weights = torch.sinc(distance) * torch.sinc(distance / LANCZOS_LOBES) * (distance.abs() < LANCZOS_LOBES)
    return weights / weights.sum(dim=1, keepdim=True)


BICUBIC = Method(BICUBIC_NAME, resize_bicubic)
LANCZOS = Method(LANCZOS_NAME, resize_lanczos)
