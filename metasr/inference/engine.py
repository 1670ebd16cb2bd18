"""The engine: a generator that enlarges many images, with what does not depend on the image kept between them."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from metasr.models import Features, Generator, Kept, SuperResolver, evaluating


class Engine:
    """Enlarge images with a generator, without gradients and with running statistics, in one thread at a time.

    The kernels of a scale are predicted once. On a CPU the convolutions have their channels last, which saves about a
    tenth of their time and is how meta-upscale reads the features.

    Args:
        generator: On the device to compute on. Its weights must not change while the engine is used.
        bfloat16: Whether the convolutions are computed in bfloat16: `metasr.arithmetic.has_bfloat16` says
            where that is fast. Kernels are predicted and used in float32 always.
    """

    def __init__(self, generator: SuperResolver, *, bfloat16: bool = False) -> None:
        self._generator, self._device = generator, generator.mean.device
        self._half = bfloat16
        self._kept = Kept()
        self._trunk: nn.Module | None = None
        if type(generator) is Generator and self._device.type == "cpu":
            trunk = copy.deepcopy(generator.trunk).eval()  # the caller's stays as it is
            self._trunk = trunk.to(memory_format=torch.channels_last)

    def __call__(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """Enlarge images `[N, C, h, w]` on any device to `[N, C, *size]` on the generator's."""
        generator, lr = self._generator, lr.to(self._device)
        if not isinstance(generator, Generator) or self._trunk is None:
            with self._computing():
                whole: Tensor = generator(lr, size)
                return whole
        with self._computing():
            maps = self._trunk((lr - generator.mean) / generator.std)
        with evaluating(generator):
            return generator.decode(Features(maps, lr), size, self._kept)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with evaluating(self._generator), torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            yield
