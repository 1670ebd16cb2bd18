"""The order in which training samples are seen: a pure function of the seed and the position in the run."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SampleOrder:
    """Every sample once an epoch, epoch after epoch, each in an order of its own.

    Samples lie in shards, too many to have all of them at hand. The run is made of virtual shards: streams of
    samples, each of which gives every step equally many, one virtual shard after the other. An epoch lays the shards
    end to end in random order and cuts that row into one segment for each virtual shard, which goes through it a few
    shards at a time (a window) and mixes the samples of those. So the position in the run says which few shards are
    needed now and next.

    How many workers there are decides nothing: a worker takes the virtual shards of its part of the batch, and reads
    only the shards in their segments. Segments differ in length by one sample at most, and every epoch gives a
    virtual shard the segment after the one it had, so that after as many epochs as there are virtual shards all have
    gone equally far. With one virtual shard and one window for all shards, an epoch is one random permutation.

    Attributes:
        shard_sizes: Samples in each shard. Samples are numbered through all shards.
        window: Shards that are mixed, over all virtual shards, at least 1; each mixes at least one.
        seed: Decides the order.
        num_virtual_shards: Streams that together are the run, at least 1.
    """

    shard_sizes: tuple[int, ...]
    window: int
    seed: int
    num_virtual_shards: int = 1

    def __len__(self) -> int:
        """Return the samples of an epoch."""
        return sum(self.shard_sizes)

    def step(self, step: int, batch_size: int) -> NDArray[np.int64]:
        """Return the samples of a step, `[batch_size]`, counted from 0.

        Raises:
            ValueError: The virtual shards cannot have equal shares of the batch.
        """
        share = self.share(batch_size)
        parts = [self.samples(number, step * share, share) for number in range(self.num_virtual_shards)]
        return np.concatenate(parts)

    def share(self, batch_size: int) -> int:
        """Return how many samples of a batch come from each virtual shard.

        Raises:
            ValueError: They cannot be equally many.
        """
        if batch_size % self.num_virtual_shards:
            raise ValueError(
                f"a batch of {batch_size} cannot be shared equally by {self.num_virtual_shards} virtual shards"
            )
        return batch_size // self.num_virtual_shards

    def virtual_shards_of(self, batch_size: int, part: slice) -> range:
        """Return the virtual shards that make up a part of the batch.

        Raises:
            ValueError: The part does not begin and end with a virtual shard.
        """
        share, places = self.share(batch_size), range(batch_size)[part]
        if places.step != 1 or not places or places.start % share or places.stop % share:
            raise ValueError(f"{part} of a batch of {batch_size} is not made of whole virtual shards of {share}")
        return range(places.start // share, places.stop // share)

    def samples(self, virtual_shard: int, first: int, number: int) -> NDArray[np.int64]:
        """Return which samples a virtual shard gives, `number` of them from its position `first` on, from 0."""
        found = np.empty(number, np.int64)
        for window in self.windows(virtual_shard, first):
            low, high = max(window.start, first), min(window.stop, first + number)
            found[low - first : high - first] = _mixed_again(self, window)[low - window.start : high - window.start]
            if high == first + number:
                return found
        raise AssertionError  # windows have no end

    def windows(self, virtual_shard: int, first: int) -> "Iterator[Window]":
        """Yield the windows of a virtual shard, from the one that holds its position `first` on, without end."""
        # All segments of all epochs in a row: the cut before number k is at floor(k * samples / virtual shards), and
        # a virtual shard begins with the segment of its own number.
        place = first + virtual_shard * len(self) // self.num_virtual_shards
        for segment in count(((place + 1) * self.num_virtual_shards - 1) // len(self)):
            for window in _windows(self, virtual_shard, segment - virtual_shard):
                if window.stop > first:
                    yield window

    def mixed(self, window: "Window") -> NDArray[np.int64]:
        """Return the samples of a window in the order in which they are seen."""
        starts = np.concatenate([[0], np.cumsum(self.shard_sizes)])
        members = [starts[piece.shard] + _members(self, window.epoch, piece) for piece in sorted(window.pieces)]
        shuffle = np.random.default_rng([self.seed, 2, window.epoch, window.place])
        return shuffle.permutation(np.concatenate(members))


class Piece(NamedTuple):
    """The samples of a shard that are of a virtual shard: all, or `start` to `stop` of them in shuffled order."""

    shard: int
    start: int
    stop: int


class Window(NamedTuple):
    """Pieces of shards that are mixed, and the positions in their virtual shard that their samples take.

    Attributes:
        epoch: Counted from 0.
        place: Where the window begins in the row of the epoch's shards; no two windows of an epoch have the same.
        start: First position.
        stop: Position after the last.
        pieces: What is mixed.
    """

    epoch: int
    place: int
    start: int
    stop: int
    pieces: tuple[Piece, ...]

    @property
    def shards(self) -> tuple[int, ...]:
        """The shards that are needed."""
        return tuple(piece.shard for piece in self.pieces)


@lru_cache(maxsize=1024)
def _windows(order: SampleOrder, virtual_shard: int, epoch: int) -> tuple[Window, ...]:
    """Return the windows of a virtual shard's segment in an epoch."""
    num_samples, segment = len(order), virtual_shard + epoch
    total = order.num_virtual_shards
    start, stop = segment * num_samples // total, (segment + 1) * num_samples // total
    position = start - virtual_shard * num_samples // total
    rounds = segment // total * num_samples
    pieces = _pieces(order, epoch, start - rounds, stop - rounds)
    windows, place, size = [], start - rounds, max(1, order.window // total)
    for i in range(0, len(pieces), size):
        mixed = pieces[i : i + size]
        length = sum(piece.stop - piece.start for piece in mixed)
        windows.append(Window(epoch, place, position, position + length, mixed))
        place, position = place + length, position + length
    return tuple(windows)


def _pieces(order: SampleOrder, epoch: int, start: int, stop: int) -> tuple[Piece, ...]:
    """Return what lies between two places in the row of an epoch's shards."""
    row = np.random.default_rng([order.seed, 3, epoch]).permutation(len(order.shard_sizes))
    ends = np.cumsum(np.array(order.shard_sizes)[row])
    touched = slice(np.searchsorted(ends, start, side="right"), np.searchsorted(ends, stop) + 1)
    pieces = []
    for shard, end in zip(row[touched].tolist(), ends[touched].tolist(), strict=True):
        begin = end - order.shard_sizes[shard]
        pieces.append(Piece(shard, max(start, begin) - begin, min(stop, end) - begin))
    return tuple(piece for piece in pieces if piece.start < piece.stop)


# Who asks step by step asks for the same few windows again and again.
_mixed_again = lru_cache(maxsize=1024)(SampleOrder.mixed)


def _members(order: SampleOrder, epoch: int, piece: Piece) -> NDArray[np.int64]:
    """Return which samples of a shard, counted from its first, make up a piece."""
    size = order.shard_sizes[piece.shard]
    if piece == (piece.shard, 0, size):
        return np.arange(size)
    # Virtual shards that share a shard share it by lot: its samples are neighbours in a body.
    return np.random.default_rng([order.seed, 4, epoch, piece.shard]).permutation(size)[piece.start : piece.stop]
