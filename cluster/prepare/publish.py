"""Publishes the index: last, and only if nobody else has published one since the start."""

from cluster.shards import INDEX, Index, index_key
from cluster.store import ChangedError, Store
from metasr.errors import DataError


class Publication:
    """The publication of an index by compare-and-set: of several preparations at a time, one succeeds."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._before = store.stat(INDEX)

    def check(self) -> None:
        """Raise DataError if another preparation has published its index since the start."""
        if self._store.stat(INDEX) != self._before:
            raise self._too_late()

    def publish(self, index: Index) -> None:
        """Write the index, first under its digest, where it stays.

        Raises:
            DataError: Another preparation has published a different index since the start.
        """
        content = index.to_bytes()
        self._store.put(index_key(index.digest()), content)
        try:
            self._store.swap(INDEX, content, self._before and self._before.version)
        except ChangedError:
            if self._store.get(INDEX) != content:
                raise self._too_late() from None

    def _too_late(self) -> DataError:
        return DataError(
            f"store {self._store.url}",
            "another preparation has written its index in the meantime",
            "Run the same command again to replace it, or prepare into another store",
        )
