"""The engine: a generator that enlarges many images, with what does not depend on the image kept between them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from metasr.inference.trunk import FoldedTrunk, Rim
from metasr.models import Features, Generator, Kept, SuperResolver, Window, evaluating


class Engine:
    """Enlarge images with a generator, without gradients and with running statistics, in one thread at a time.

    The kernels of a scale are predicted once. On a CPU the trunk is a `FoldedTrunk`.

    Args:
        generator: On the device to compute on. Its weights must not change while the engine is used.
        bfloat16: Whether the convolutions are computed in bfloat16: `metasr.arithmetic.has_bfloat16` says
            where that is fast. Kernels are predicted and used in float32 always.
    """

    def __init__(self, generator: SuperResolver, *, bfloat16: bool = False) -> None:
        self.generator, self._device = generator, generator.mean.device
        self._half = bfloat16
        self._kept = Kept()
        self._trunk: FoldedTrunk | None = None
        if type(generator) is Generator and self._device.type == "cpu":
            self._trunk = FoldedTrunk(generator.trunk)

    def __call__(self, lr: Tensor, size: tuple[int, int], rim: Rim = (0, 0)) -> Tensor:
        """Enlarge images `[N, C, h, w]` on any device to `[N, C, *size]` on the generator's.

        Args:
            lr: The images.
            size: Height and width of the result in pixels.
            rim: LR pixels at both ends of rows, and of columns, whose place in the result nobody asks for.
        """
        if isinstance(self.generator, Generator):
            return self.decode(self.encode(lr, rim), size)
        with self._computing():
            whole: Tensor = self.generator(lr.to(self._device), size)
            return whole

    def encode(self, lr: Tensor, rim: Rim = (0, 0)) -> Features:
        """Return the features of images `[N, C, h, w]` on any device.

        Args:
            lr: The images.
            rim: LR pixels at both ends of rows, and of columns, whose place in any result nobody asks for: their
                features may be 0.

        Raises:
            TypeError: The generator has one scale, and no features.
        """
        generator, lr = self._with_features(), lr.to(self._device)
        with self._computing():
            if self._trunk is None:
                return generator.encode(lr)
            # A pixel may begin in the cell before the one that its centre is in, and reads the cells around that.
            read = 1 + generator.upscale.kernel_size // 2
            unread = max(0, rim[0] - read), max(0, rim[1] - read)
            return Features(self._trunk((lr - generator.mean) / generator.std, unread), lr)

    def decode(self, features: Features, size: tuple[int, int]) -> Tensor:
        """Return the images `[N, C, *size]` for features."""
        generator = self._with_features()
        with evaluating(generator):
            return generator.decode(features, size, self._kept)

    def decode_window(self, features: Features, size: tuple[int, int], window: Window) -> Tensor:
        """Return the part `[N, C, window.height, window.width]` of the images that `decode` makes."""
        return self._with_features().decode_window(features, size, window, self._kept)

    def _with_features(self) -> Generator:
        if not isinstance(self.generator, Generator):
            raise TypeError("a generator of one scale has no features to decode")
        return self.generator

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with evaluating(self.generator), torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            yield
