"""Reading shards: every byte is verified before webdataset sees it."""

import hashlib
import io
import json
import tarfile
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
            yield from _read_shard(store, index, shard)


def training_crops(store: Store, index: Index) -> Tensor:
    """Return all training crops, `[N, 1, side, side]` float16, in memory."""
    images = [sample.image for sample in read_samples(store, index, "train")]
    if len({image.shape for image in images}) != 1:
        raise DataError(f"training shards in {store.url}", "their crops differ in size", "Prepare the data again")
    return torch.from_numpy(np.stack(images))[:, None]


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


def _read_shard(store: Store, index: Index, shard: Shard) -> Iterator[Sample]:
    data = store.get(shard.name)
    if len(data) != shard.num_bytes or hashlib.sha256(data).hexdigest() != shard.sha256:
        raise DataError(
            f"shard {shard.name} in {store.url}",
            f"its {len(data)} bytes are not the {shard.num_bytes} bytes that the index names",
            "Prepare the data again, or restore the shard from a copy",
        )
    try:
        samples = _decode(shard.name, data)
    except (tarfile.TarError, KeyError, ValueError, TypeError, OverflowError, OSError, EOFError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"shard {shard.name}", f"it is not one that `metasr prepare` writes ({reason})", "Prepare the data again"
        ) from error
    strangers = {sample.subject for sample in samples} - set(index.subjects[shard.split])
    if strangers:
        raise DataError(
            f"shard {shard.name}",
            f"subject {min(strangers)} is not in the {shard.split} split",
            "Prepare the data again",
        )
    if len(samples) != shard.num_samples:
        raise DataError(
            f"shard {shard.name}", f"{len(samples)} samples instead of {shard.num_samples}", "Prepare the data again"
        )
    yield from samples


def _decode(name: str, data: bytes) -> list[Sample]:
    """Return the samples of a tar; it is nobody's program, and neither are its members."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        if not all(member.isreg() for member in tar):
            raise ValueError("it holds more than files")
    samples = []
    for member in group_by_keys(tar_file_expander([{"url": name, "stream": io.BytesIO(data)}])):
        key = member["__key__"]
        if member.keys() != {"__key__", "__url__", "npy", "json"} or "/" in key:
            raise ValueError(f"{key} is not an image with its description")
        image = np.load(io.BytesIO(member["npy"]), allow_pickle=False)
        if not isinstance(image, np.ndarray) or image.dtype != np.float16 or image.ndim != 2:
            raise ValueError(f"{key} is not a float16 image")
        meta = json.loads(member["json"])
        samples.append(Sample(str(meta["subject"]), int(meta["slice"]), image))
    return samples
