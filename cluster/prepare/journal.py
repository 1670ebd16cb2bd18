"""The journal of finished shards, by which a preparation continues after a kill."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Literal

from pydantic import ValidationError

from cluster.prepare.cut import Spacing, Statistics
from cluster.shards import Shard, Split
from cluster.store import DamagedError, NotThereError, Store
from metasr.config import Section
from metasr.formats import FORMAT, require_known_format

FOLDER = "prepare"
ORDER: tuple[Split, Split] = ("val", "train")  # in which the splits are written
THREADS = 8
AT_A_TIME = 4 * THREADS  # entries that are checked together, then reported


class FinishedShard(Section):
    """A finished shard, and the facts for the index about it and all shards before it."""

    format: Literal[1] = FORMAT
    shard: Shard
    statistics: Statistics
    spacing_mm: Spacing | None
    skull_stripped: bool | None = None


class Journal:
    """An object `prepare/<inputs>/<split>-<number>.json` for every finished shard, written after the shard.

    Only `prepare` reads it; once the index is written it may be deleted.

    Args:
        store: Store of the shards.
        inputs: Digest of inputs and options: another preparation has another journal.
    """

    def __init__(self, store: Store, inputs: str) -> None:
        self._store, self._folder = store, f"{FOLDER}/{inputs}"

    def check(self) -> None:
        """Raise StoreError if the store cannot be written to: before subjects are read, which takes time."""
        key = f"{self._folder}/check"
        self._store.put(key, b"")
        self._store.delete(key)

    def read(self, tell: Callable[[str], None], progress: Callable[[str], None]) -> list[FinishedShard]:
        """Return the entries of finished shards, up to the first shard that is missing or damaged.

        Args:
            tell: Called before shards are verified, if there are any: in a folder each is read again.
            progress: Called now and then with the number of verified shards.
        """
        if not any(self._entry(split, 0) for split in ORDER):
            return []
        tell("verifying the finished shards")
        with ThreadPoolExecutor(THREADS) as pool:
            return [entry for split in ORDER for entry in self._read(split, pool, progress)]

    def write(self, entry: FinishedShard, number: int) -> None:
        """Record that a shard, the one of this number in its split, is in the store."""
        self._store.put(self._key(entry.shard.split, number), entry.model_dump_json().encode())

    def _read(
        self, split: Split, pool: ThreadPoolExecutor, progress: Callable[[str], None]
    ) -> Iterator[FinishedShard]:
        for start in count(0, AT_A_TIME):
            for entry in pool.map(partial(self._whole, split), range(start, start + AT_A_TIME)):
                if entry is None:
                    return
                yield entry
            progress(f"{split}: {start + AT_A_TIME} finished shards verified")

    def _whole(self, split: Split, number: int) -> FinishedShard | None:
        """Return an entry if its shard is in the store and undamaged."""
        entry = self._entry(split, number)
        if entry and self._store.holds(entry.shard.name, entry.shard.sha256, entry.shard.num_bytes):
            return entry
        return None

    def _entry(self, split: Split, number: int) -> FinishedShard | None:
        key = self._key(split, number)
        try:
            content = self._store.get(key)
            require_known_format(content, f"{key!r} in {self._store.url}")
            return FinishedShard.model_validate_json(content)
        except (NotThereError, ValidationError, DamagedError):
            return None

    def _key(self, split: Split, number: int) -> str:
        return f"{self._folder}/{split}-{number:06d}.json"
