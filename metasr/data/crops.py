"""Where the crops of a training step come from."""

from collections.abc import Iterator
from itertools import count
from typing import Protocol

import numpy as np
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
            order: The order of all samples.
            first_step: First step to yield, from 0; above 0 where a run resumes.
            batch_size: Samples of a step, over all workers: equally many of each virtual shard of the order.
            part: This worker's samples within the batch: whole virtual shards.

        Yields:
            `[B, C, side, side]`, floating point.

        Raises:
            ValueError: The virtual shards do not divide the batch, or the part is not made of whole ones.
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
        virtual_shards, share = order.virtual_shards_of(batch_size, part), order.share(batch_size)
        for step in count(first_step):
            samples = np.concatenate([order.samples(number, step * share, share) for number in virtual_shards])
            yield self._crops[torch.from_numpy(samples).to(self._crops.device)]
