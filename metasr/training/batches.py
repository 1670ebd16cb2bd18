"""From crops to the batches that training sees."""

import time
from collections.abc import Iterator, Sequence

import torch

from metasr.config import ExperimentConfig
from metasr.data.crops import CropSource
from metasr.data.degrade import Degradation
from metasr.data.order import SampleOrder
from metasr.data.sample import Batch, make_batch, plan_step


class Batches:
    """The batches of one step after the other, cut in the parts that this worker computes.

    Args:
        config: The experiment.
        crops: Training crops.
        step: Steps done before.
        parts: What this worker computes at once, each as patches within the batch.
        device: Where patches are cut and degraded.

    Attributes:
        waited_s: Seconds that training has waited for crops so far.
    """

    def __init__(
        self, config: ExperimentConfig, crops: CropSource, step: int, parts: Sequence[slice], device: torch.device
    ) -> None:
        self.waited_s = 0.0
        self._config, self._crops, self._step, self._parts, self._device = config, crops, step, parts, device

    def __iter__(self) -> Iterator[list[Batch]]:
        train, data = self._config.train, self._config.data
        order = SampleOrder(self._crops.shard_sizes, data.shuffle_shards, train.seed, train.num_virtual_shards)
        mine = slice(self._parts[0].start, self._parts[-1].stop)
        stream = self._crops.stream(order, first_step=self._step, batch_size=train.batch_size, part=mine)
        degrade = Degradation(data.degradation, data.noise)
        while True:
            began = time.perf_counter()
            crops = next(stream).to(self._device)
            self.waited_s += time.perf_counter() - began
            plan = plan_step(self._config, self._step)
            pieces = crops.split([part.stop - part.start for part in self._parts])
            yield [
                make_batch(piece, plan, part, degrade, min_brain=data.min_brain)
                for piece, part in zip(pieces, self._parts, strict=True)
            ]
            self._step += 1


def made_aside(batches: Batches, device: torch.device) -> Iterator[list[Batch]]:
    """Yield batches that are made on a stream of their own, while a GPU computes the step before."""
    stream, made = torch.cuda.Stream(device), iter(batches)
    while True:
        with torch.cuda.stream(stream):
            parts = next(made)
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)
        for part in parts:
            part.lr.record_stream(current)
            part.hr.record_stream(current)
        yield parts
