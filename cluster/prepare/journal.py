"""Which shards are finished, so that a preparation that was killed goes on after them."""

from collections.abc import Iterator
from itertools import count

from pydantic import ValidationError

from cluster.prepare.cut import Spacing, Statistics
from cluster.shards import Shard, Split
from cluster.store import DamagedError, NotThereError, Store
from metasr.config import Section

FOLDER = "prepare"
ORDER: tuple[Split, Split] = ("val", "train")  # in which shards are written


class Entry(Section):
    """A finished shard, and what the index will say of it and of all before it."""

    shard: Shard
    statistics: Statistics
    spacing_mm: Spacing | None


class Journal:
    """An object `prepare/<inputs>/<split>-<number>.json` for every finished shard, written after the shard.

    Nobody reads it but `prepare`; when the index is written it may be removed.

    Args:
        store: That of the shards.
        inputs: What identifies inputs and options: another preparation has another journal.
    """

    def __init__(self, store: Store, inputs: str) -> None:
        self._store, self._folder = store, f"{FOLDER}/{inputs}"

    def check(self) -> None:
        """Raise StoreError if the store takes nothing: that is said before subjects are read, which takes time."""
        key = f"{self._folder}/check"
        self._store.put(key, b"")
        self._store.delete(key)

    def read(self) -> list[Entry]:
        """Return the entries of shards that are in the store, byte for byte, up to the first that is not."""
        return [entry for split in ORDER for entry in self._read(split)]

    def write(self, entry: Entry, number: int) -> None:
        """Note that a shard, the one of this number in its split, is in the store."""
        self._store.put(self._key(entry.shard.split, number), entry.model_dump_json().encode())

    def _read(self, split: Split) -> Iterator[Entry]:
        for number in count():
            key = self._key(split, number)
            if not self._store.exists(key):
                return
            try:
                entry = Entry.model_validate_json(self._store.get(key))
            except (ValidationError, DamagedError):
                return
            if not self._is_stored(entry.shard):
                return
            yield entry

    def _is_stored(self, shard: Shard) -> bool:
        try:
            self._store.get(shard.name, sha256=shard.sha256, num_bytes=shard.num_bytes)
        except (NotThereError, DamagedError):
            return False
        return True

    def _key(self, split: Split, number: int) -> str:
        return f"{self._folder}/{split}-{number:06d}.json"
