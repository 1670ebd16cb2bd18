"""The index and the shards of a store, each checked before anything in it is used."""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from pydantic import ValidationError

from cluster.shards import INDEX, Index, Sample, Shard, Split, index_key, quick_checksum, require_index
from cluster.store import DamagedError, NotThereError, Store
from cluster.stream.cache import ShardCache
from cluster.stream.decode import decode, shown
from metasr.errors import DataError, StoreError
from metasr.formats import require_known_format

MAX_NAMED = 5
CORRUPT = (DamagedError, NotThereError, DataError)
"""What a shard that cannot be used raises, however often it is asked for."""


def read_index(store: Store, digest: str = "") -> Index:
    """Return the index of a store, checked.

    Args:
        store: Where it is.
        digest: That of the index which is wanted, whatever was prepared into the store since; empty for the newest.

    Raises:
        StoreError: The store is not there.
        DataError: It holds no data set, not the one that is wanted, or one that must not be trained on.
    """
    require_index(store)
    index = _index(store, INDEX)
    if digest and index.digest() != digest:
        if not store.exists(key := index_key(digest)):
            reason = f"it holds another data set than the run began with, whose index {key} is not there"
            fix = "Prepare that data set again, or give the same command for a new run on what is there now"
            raise DataError(f"store {store.url}", reason, fix)
        index = _index(store, key)
    index.check()
    return index


def _index(store: Store, key: str) -> Index:
    content = store.get(key)
    require_known_format(content, f"{key} in {store.url}")
    try:
        return Index.model_validate_json(content)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise DataError(f"{key} in {store.url}", f"it cannot be read ({reason})", "Prepare the data again") from None


def read_samples(store: Store, index: Index, split: Split, cache: ShardCache | None = None) -> Iterator[Sample]:
    """Yield the samples of a split in the order of the index.

    Raises:
        StoreError: A shard cannot be read.
        DataError: A shard is not what the index says.
    """
    for shard in index.shards:
        if shard.split == split:
            yield from read_shard(store, index, shard, cache)


class ShardReader:
    """Reads the shards of a store as often as they are needed.

    A shard is checked by its SHA-256 the first time that it comes from the store: nobody has put other bytes in its
    place. When it comes again, or from a copy on this disk, the quick checksum of the index checks it: that finds
    accidental damage just as surely, and takes a fraction of the time.

    Args:
        store: Where the shards are.
        index: Of that store.
        cache: Asked for a shard before the store is.
    """

    def __init__(self, store: Store, index: Index, cache: ShardCache | None = None) -> None:
        self._store, self._index, self._cache = store, index, cache
        self._known: set[str] = set()  # those that the store has given as they should be

    def read(self, shard: Shard) -> list[Sample]:
        """Return the samples of a shard, whose images are views of its bytes.

        Raises:
            StoreError: It cannot be read.
            DataError: It is not what the index says. Like that of an object that is missing or damaged, the error
                says whose samples cannot be had.
        """
        fetch = partial(self._fetch, shard)
        try:
            data = self._cache.get(shard.sha256, fetch, quick=shard.xxh3_128) if self._cache else fetch()
            return samples_of(data, self._index, shard)
        except CORRUPT as error:
            raise type(error)(error.what, f"{error.why} (it should hold {_contents(shard)})", error.fix) from error

    def _fetch(self, shard: Shard) -> bytes:
        if shard.xxh3_128 and shard.name in self._known:
            with suppress(StoreError):
                data = self._store.get_range(shard.name, 0, shard.num_bytes)
                if quick_checksum(data) == shard.xxh3_128:
                    return data
        # The first time; or again, for the store to find out what is wrong with those bytes.
        data = self._store.get(shard.name, sha256=shard.sha256, num_bytes=shard.num_bytes)
        self._known.add(shard.name)
        return data


def read_shard(store: Store, index: Index, shard: Shard, cache: ShardCache | None = None) -> list[Sample]:
    """Return the samples of a shard, whose images are views of its bytes.

    Raises:
        StoreError: It cannot be read.
        DataError: It is not what the index says.
    """
    return ShardReader(store, index, cache).read(shard)


def _contents(shard: Shard) -> str:
    """Return how many samples a shard holds, and whose, for a message: not all where they are many."""
    named = ", ".join(shown(name) for name in shard.subjects[:MAX_NAMED])
    more = f" and {len(shard.subjects) - MAX_NAMED} more" if len(shard.subjects) > MAX_NAMED else ""
    return f"{shard.num_samples} samples" + (f" of {named}{more}" if named else "")


def samples_of(data: bytes, index: Index, shard: Shard) -> list[Sample]:
    """Return the samples in the bytes of a shard, whose images are views of them.

    Raises:
        DataError: They are not what the index says.
    """
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
