"""Geometric self-ensemble: the mean over the eight flips and quarter turns of an image."""

from itertools import product

import torch
from torch import Tensor

from metasr.models import SuperResolver

NUM_VIEWS = 8


class Ensemble(SuperResolver):
    """A generator that is asked eight times: for the image, flipped and turned, and back. It takes as much longer.

    Args:
        generator: What is asked; on its device, with its mean and standard deviation.

    Source: Timofte et al. 2016, "Seven ways to improve example-based single image super resolution", section 3.6.
    """

    def __init__(self, generator: SuperResolver) -> None:
        super().__init__(mean=float(generator.mean), std=float(generator.std))
        self.generator = generator
        self.to(generator.mean.device)

    def forward(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """Super-resolve `[N, C, h, w]` to `[N, C, *size]`."""
        total = torch.zeros(*lr.shape[:2], *size, dtype=lr.dtype, device=lr.device)
        for rows, columns, transposed in product((False, True), repeat=3):
            axes = [axis for axis, flipped in ((-2, rows), (-1, columns)) if flipped]
            view, view_size = (lr.mT, (size[1], size[0])) if transposed else (lr, size)
            sr = self.generator(view.flip(axes).contiguous(), view_size).flip(axes)
            total += sr.mT if transposed else sr
        return total / NUM_VIEWS
