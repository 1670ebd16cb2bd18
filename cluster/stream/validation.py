"""Slices of the validation split, for evaluation and for training to look at."""

from itertools import groupby

import numpy as np
import torch

from cluster.shards import Index, Sample, Shard
from cluster.store import Store
from cluster.stream.cache import ShardCache
from cluster.stream.verified import read_samples, read_shard
from metasr.evaluation import HeldOutSlice


def held_out_slices(store: Store, index: Index, per_subject: int) -> list[HeldOutSlice]:
    """Return validation slices, `per_subject` of each subject evenly spread from feet to head; 0 returns all.

    In memory are those that are returned and the samples of one subject, which lie side by side, and of its shard.
    """
    chosen = []
    for _, group in groupby(read_samples(store, index, "val"), key=lambda sample: sample.subject):
        chosen += _chosen(list(group), index, per_subject)
    return chosen


def slices_of(store: Store, index: Index, shard: Shard, subject: str, per_subject: int) -> list[HeldOutSlice]:
    """Return those of the slices that `held_out_slices` returns which are of one subject; only its shard is read.

    Raises:
        StoreError: The shard cannot be read.
        DataError: It is not what the index says.
    """
    samples = [sample for sample in read_shard(store, index, shard) if sample.subject == subject]
    return _chosen(samples, index, per_subject)


def validation_slices(store: Store, index: Index, number: int, cache: ShardCache | None = None) -> list[HeldOutSlice]:
    """Return up to `number` slices, evenly spread over the validation split; only their shards are read."""
    shards = [shard for shard in index.shards if shard.split == "val"]
    total = sum(shard.num_samples for shard in shards)
    step = max(1, total // number)
    wanted = range(total)[step // 2 :: step][:number]
    chosen, first = [], 0
    for shard in shards:
        here = [position - first for position in wanted if first <= position < first + shard.num_samples]
        if here:
            samples = read_shard(store, index, shard, cache)
            chosen += [_held_out(samples[i], index) for i in here]
        first += shard.num_samples
    return chosen


def spread(length: int, count: int) -> list[int]:
    """Return up to `count` indices below `length`, evenly spaced, each in the middle of its part."""
    count = min(length, count)
    return [int((i + 0.5) * length / count) for i in range(count)]


def _chosen(samples: list[Sample], index: Index, per_subject: int) -> list[HeldOutSlice]:
    return [_held_out(samples[i], index) for i in spread(len(samples), per_subject or len(samples))]


def _held_out(sample: Sample, index: Index) -> HeldOutSlice:
    image = torch.from_numpy(sample.image.astype(np.float32))[None, None]
    return HeldOutSlice(sample.subject, sample.slice, image, index.recorded_patient(sample.subject))
