"""A store that is waited for: hours of work do not end because a server is started again."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from cluster.store import Stat, Store, Version
from cluster.store.patience import patiently

T = TypeVar("T")


class PatientStore:
    """What preparing asks of a store: each request is made again until the store is there.

    Args:
        store: Which.
        tell: Told when it is waited for.

    Attributes:
        url: Of the store.
    """

    def __init__(self, store: Store, tell: Callable[[str], None]) -> None:
        self.url = store.url
        self._store, self._tell = store, tell

    def put(self, key: str, data: bytes) -> Version:
        """See `Store.put`."""
        return self._wait(partial(self._store.put, key, data))

    def put_new(self, key: str, data: bytes) -> Version:
        """See `Store.put_new`. What is already there may be from a request of ours whose answer did not arrive."""
        return self._wait(partial(self._store.put_new, key, data))

    def replace(self, key: str, data: bytes, version: Version) -> Version:
        """See `Store.replace`. What has changed it may be a request of ours whose answer did not arrive."""
        return self._wait(partial(self._store.replace, key, data, version))

    def get(self, key: str, *, sha256: str = "", num_bytes: int | None = None) -> bytes:
        """See `Store.get`."""
        return self._wait(partial(self._store.get, key, sha256=sha256, num_bytes=num_bytes))

    def stat(self, key: str) -> Stat | None:
        """See `Store.stat`."""
        return self._wait(partial(self._store.stat, key))

    def _wait(self, request: Callable[[], T]) -> T:
        return patiently(self._store, request, self._tell)
