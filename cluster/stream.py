"""Reading shards: every byte is verified before webdataset sees it."""

import hashlib
import io
import json
from collections.abc import Iterator

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor
from webdataset.tariterators import group_by_keys, tar_file_expander

from cluster.shards import INDEX, Index, Sample, Shard, Split
from cluster.store import Store
from metasr.errors import DataError
from metasr.evaluation import HeldOutSlice


def read_index(store: Store) -> Index:
    """Return the index of a store, checked.

    Raises:
        StoreError: The store is not there.
        DataError: It holds no data set, or one that must not be trained on.
    """
    store.require()
    if not store.exists(INDEX):
        raise DataError(
            f"store {store.url}", f"it has no {INDEX}", f"Make one with `metasr prepare -i FOLDER -o {store.url}`"
        )
    try:
        index = Index.model_validate_json(store.get(INDEX))
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise DataError(
            f"{INDEX} in {store.url}", f"it cannot be read ({reason})", "Prepare the data again"
        ) from None
    index.check()
    return index


def read_samples(store: Store, index: Index, split: Split) -> Iterator[Sample]:
    """Yield the samples of a split in the order of the index.

    Raises:
        DataError: A shard is not what the index says.
    """
    for shard in index.shards:
        if shard.split == split:
            yield from _read_shard(store, shard)


def training_crops(store: Store, index: Index) -> Tensor:
    """Return all training crops, `[N, 1, side, side]` float16, in memory."""
    return torch.from_numpy(np.stack([sample.image for sample in read_samples(store, index, "train")]))[:, None]


def held_out_slices(store: Store, index: Index, per_subject: int) -> list[HeldOutSlice]:
    """Return validation slices, `per_subject` of each subject evenly spread from feet to head; 0 returns all."""
    by_subject: dict[str, list[Sample]] = {}
    for sample in read_samples(store, index, "val"):
        by_subject.setdefault(sample.subject, []).append(sample)
    chosen = []
    for samples in by_subject.values():
        chosen += samples if not per_subject else [samples[i] for i in spread(len(samples), per_subject)]
    return [
        HeldOutSlice(s.subject, s.slice, torch.from_numpy(s.image.astype(np.float32))[None, None]) for s in chosen
    ]


def spread(length: int, count: int) -> list[int]:
    """Return up to `count` indices below `length`, evenly spaced, each in the middle of its part."""
    count = min(length, count)
    return [int((i + 0.5) * length / count) for i in range(count)]


def _read_shard(store: Store, shard: Shard) -> Iterator[Sample]:
    data = store.get(shard.name)
    if len(data) != shard.num_bytes or hashlib.sha256(data).hexdigest() != shard.sha256:
        raise DataError(
            f"shard {shard.name} in {store.url}",
            f"its {len(data)} bytes are not the {shard.num_bytes} bytes that the index names",
            "Prepare the data again, or restore the shard from a copy",
        )
    members = tar_file_expander([{"url": shard.name, "stream": io.BytesIO(data)}])
    samples = [_decode(member, shard) for member in group_by_keys(members)]
    if len(samples) != shard.num_samples:
        raise DataError(f"shard {shard.name}", f"{len(samples)} samples instead of {shard.num_samples}")
    yield from samples


def _decode(member: dict[str, bytes], shard: Shard) -> Sample:
    try:
        image = np.load(io.BytesIO(member["npy"]), allow_pickle=False)
        meta = json.loads(member["json"])
        return Sample(str(meta["subject"]), int(meta["slice"]), image)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"shard {shard.name}", f"a sample cannot be read ({error})", "Prepare the data again"
        ) from error
