"""Which shards are finished, so that a preparation that was killed goes on after them."""

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
ORDER: tuple[Split, Split] = ("val", "train")  # in which shards are written
THREADS = 8
AT_A_TIME = 4 * THREADS  # entries that are looked at together, and then told of


class FinishedShard(Section):
    """A finished shard, and what the index will say of it and of all before it."""

    format: Literal[1] = FORMAT
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

    def read(self, tell: Callable[[str], None], progress: Callable[[str], None]) -> list[FinishedShard]:
        """Return the entries of shards that are in the store as they were written, up to the first that is not.

        Args:
            tell: Told before shards are looked at, if there are any: a folder reads them all again.
            progress: Told how many were looked at, now and then.
        """
        if not any(self._entry(split, 0) for split in ORDER):
            return []
        tell("looking whether the shards that are finished are whole")
        with ThreadPoolExecutor(THREADS) as pool:
            return [entry for split in ORDER for entry in self._read(split, pool, progress)]

    def write(self, entry: FinishedShard, number: int) -> None:
        """Note that a shard, the one of this number in its split, is in the store."""
        self._store.put(self._key(entry.shard.split, number), entry.model_dump_json().encode())

    def _read(
        self, split: Split, pool: ThreadPoolExecutor, progress: Callable[[str], None]
    ) -> Iterator[FinishedShard]:
        for start in count(0, AT_A_TIME):
            for entry in pool.map(partial(self._whole, split), range(start, start + AT_A_TIME)):
                if entry is None:
                    return
                yield entry
            progress(f"{split}: {start + AT_A_TIME} finished shards are whole")

    def _whole(self, split: Split, number: int) -> FinishedShard | None:
        """Return an entry whose shard is in the store as it was written."""
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
