"""The order in which the parts of a batch are computed and added up, and what may be computed side by side."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple, Protocol

import torch


class Part(NamedTuple):
    """Compute a virtual shard, on the lane of its number."""

    shard: int


class Sum(NamedTuple):
    """Add the sum that lies on lane `right` to the one on lane `left`, where the new sum stays."""

    left: int
    right: int


def schedule(shards: range) -> Iterator[Part | Sum]:
    """Yield what to compute and to add, so that sums are those of one fixed binary tree over all virtual shards.

    Subtrees 2**k virtual shards wide begin at multiples of 2**k. Two siblings are added as soon as both are there,
    the right one to the left one: whoever computes which shards, each sum has the same two terms. A subtree lies on
    the lane of its first shard.

    Args:
        shards: Those computed here. What they do not complete is left as sums on several lanes, see `roots`.
    """
    for shard in shards:
        yield Part(shard)
        first, width = shard, 1
        while first // width % 2 and first - width >= shards.start:
            yield Sum(first - width, first)
            first, width = first - width, 2 * width


def roots(shards: range) -> list[int]:
    """Return the lanes on which sums are left when the schedule of some virtual shards is done, in order."""
    used = {task.right for task in schedule(shards) if isinstance(task, Sum)}
    return [shard for shard in shards if shard not in used]


class Lanes(Protocol):
    """Where parts are computed, each lane in order."""

    def on(self, lane: int, after: int | None = None) -> AbstractContextManager[object]:
        """Compute on a lane, after what lies before the lanes, or after what was asked of another lane so far."""

    def join(self) -> None:
        """Go on after all lanes."""


class InTurn:
    """One after the other: all there is on a CPU."""

    def on(self, lane: int, after: int | None = None) -> AbstractContextManager[object]:
        """Compute at once."""
        return nullcontext()

    def join(self) -> None:
        """All is done."""


class Streams:
    """Each lane is a stream of a GPU, so that small kernels of different parts run at the same time.

    A lane's memory goes back to it alone, and it continues only after all lanes were joined: what another lane read
    is then read.

    Args:
        device: A GPU.
        shards: The lanes.
    """

    def __init__(self, device: torch.device, shards: range) -> None:
        self._device = device
        self._streams = {shard: torch.cuda.Stream(device) for shard in shards}

    @contextmanager
    def on(self, lane: int, after: int | None = None) -> Iterator[None]:
        """Issue work to the lane's stream."""
        stream = self._streams[lane]
        stream.wait_stream(torch.cuda.current_stream(self._device) if after is None else self._streams[after])
        with torch.cuda.stream(stream):
            yield

    def join(self) -> None:
        """Have the current stream wait for all lanes."""
        for stream in self._streams.values():
            torch.cuda.current_stream(self._device).wait_stream(stream)
