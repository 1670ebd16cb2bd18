"""The index goes into the store last, and only in place of the one that was there at the start."""

from cluster.shards import INDEX, Index, index_key
from cluster.store import AlreadyThereError, ChangedError, Store
from metasr.errors import DataError


class Publication:
    """The right to write the index of a store: of several preparations at a time, one has it in the end."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._before = store.stat(INDEX)

    def check(self) -> None:
        """Raise DataError if another preparation has written an index since: ours could not be written."""
        if self._store.stat(INDEX) != self._before:
            raise self._too_late()

    def publish(self, index: Index) -> None:
        """Write the index, first under its digest, where it stays.

        Raises:
            DataError: Another preparation wrote another one since.
        """
        content = index.to_bytes()
        self._store.put(index_key(index.digest()), content)
        try:
            if self._before is None:
                self._store.put_new(INDEX, content)
            else:
                self._store.replace(INDEX, content, self._before.version)
        except (AlreadyThereError, ChangedError):
            if self._store.get(INDEX) != content:
                raise self._too_late() from None

    def _too_late(self) -> DataError:
        return DataError(
            f"store {self._store.url}",
            "another preparation has written its index in the meantime",
            "Run the same command again to take its place, or prepare into a store of your own",
        )
