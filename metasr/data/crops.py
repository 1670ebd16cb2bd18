"""Where the crops of a training step come from."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from metasr.data.order import SampleOrder


class CropSource(Protocol):
    """Training crops in shards, handed out in an order that is known in advance."""

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Crops in each shard."""

    def stream(self, order: SampleOrder, *, first_step: int, batch_size: int, part: slice) -> Iterator[Tensor]:
        """Yield for `first_step` and every step after it a worker's part of the batch.

        Args:
            order: Which sample comes when: a batch after the other.
            first_step: Steps before it were done already.
            batch_size: Samples of a step, over all workers.
            part: This worker's samples within the batch.

        Yields:
            `[B, C, side, side]`, floating point.
        """


class MemoryCrops:
    """Crops that are all in memory, as one shard: for a laptop, a notebook, a test.

    Args:
        crops: `[num_crops, C, side, side]`, on any device.
    """

    def __init__(self, crops: Tensor) -> None:
        self._crops = crops

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Crops in each shard."""
        return (len(self._crops),)

    def stream(self, order: SampleOrder, *, first_step: int, batch_size: int, part: slice) -> Iterator[Tensor]:
        """Yield a worker's part of each step's crops, see `CropSource`."""
        step = first_step
        while True:
            samples = order.samples(step * batch_size, batch_size)[part]
            yield self._crops[torch.from_numpy(samples).to(self._crops.device)]
            step += 1
