"""The index and the shards of a store, each checked before anything in it is used."""

from collections.abc import Iterator
from functools import partial

from pydantic import ValidationError

from cluster.shards import INDEX, Index, Sample, Shard, Split
from cluster.store import Store
from cluster.stream.cache import ShardCache
from cluster.stream.decode import decode, shown
from metasr.errors import DataError


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


def read_samples(store: Store, index: Index, split: Split, cache: ShardCache | None = None) -> Iterator[Sample]:
    """Yield the samples of a split in the order of the index.

    Raises:
        StoreError: A shard cannot be read.
        DataError: A shard is not what the index says.
    """
    for shard in index.shards:
        if shard.split == split:
            yield from read_shard(store, index, shard, cache)


def read_shard(store: Store, index: Index, shard: Shard, cache: ShardCache | None = None) -> list[Sample]:
    """Return the samples of a shard, whose images are views of its bytes.

    Raises:
        StoreError: It cannot be read.
        DataError: It is not what the index says.
    """
    fetch = partial(store.get, shard.name, sha256=shard.sha256, num_bytes=shard.num_bytes)
    data = cache.get(shard.sha256, fetch) if cache else fetch()
    try:
        samples = decode(data)
    except ValueError as error:
        raise DataError(
            f"shard {shard.name}", f"it is not one that `metasr prepare` writes ({error})", "Prepare the data again"
        ) from error
    strangers = {sample.subject for sample in samples} - set(index.subjects[shard.split])
    if strangers:
        raise DataError(
            f"shard {shard.name}",
            f"subject {shown(min(strangers))} is not in the {shard.split} split",
            "Prepare the data again",
        )
    if len(samples) != shard.num_samples:
        raise DataError(
            f"shard {shard.name}", f"{len(samples)} samples instead of {shard.num_samples}", "Prepare the data again"
        )
    return samples
