"""Waiting for a store that is away, however long."""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cluster.store.errors import BusyError, Reason, UnavailableError
from cluster.store.interface import Stat, Store, Version
from metasr.errors import MetaSRError

T = TypeVar("T")
WAITS_FOR_STORE, IS_BACK = "waiting for the store", "is back after"
"""How the lines begin, or what they hold, that say that something stands still for a store, and that one is back."""


def wait_for_store(store: Store, action: Callable[[], T], tell: Callable[[str], None]) -> T:
    """Return what an action returns, which is done again while the store is away. See `StoreWait`."""
    return StoreWait(store, tell).run(action)


def wait_while_busy(store: Store, action: Callable[[], T], tell: Callable[[str], None]) -> T:
    """Return what an action returns, which is done again while the server is there and asks for patience.

    For the start of a job, where a store that is away may be one that was never there.
    """
    return StoreWait(store, tell, kind=BusyError).run(action)


class StoreWait:
    """Does actions again while their store is away.

    However many threads wait, it says once that the store is away, and once that it is back.

    Args:
        store: Which the actions use. Its policy says how long the pauses are at most.
        tell: Called with those two lines.
        meanwhile: What happens while the store is away, for the first of them.
        kind: Of the errors after which an action is done again.
    """

    def __init__(
        self,
        store: Store,
        tell: Callable[[str], None],
        meanwhile: str = WAITS_FOR_STORE,
        kind: type[UnavailableError] = UnavailableError,
    ) -> None:
        self._store, self._tell, self._meanwhile, self._kind = store, tell, meanwhile, kind
        self._lock = threading.Lock()
        self._num_waiting, self._began = 0, 0.0

    def run(self, action: Callable[[], T], closed: threading.Event | None = None) -> T:
        """Return what an action returns.

        Args:
            action: Can be done again after it failed.
            closed: Ends the wait when it is set.

        Raises:
            UnavailableError: The wait was ended before the store was back.
        """
        try:
            return action()
        except self._kind as error:
            first = error
        closed = closed or threading.Event()
        with self._waiting(first):
            while not closed.wait(self._pause_s()):
                with suppress(self._kind):
                    return action()
            raise first

    def _pause_s(self) -> float:
        """Return a random pause: of many that wait, few ask at once."""
        return random.uniform(0.5, 1) * self._store.retries.policy.max_pause_s

    @contextmanager
    def _waiting(self, error: UnavailableError) -> Iterator[None]:
        with self._lock:
            self._num_waiting += 1
            if self._num_waiting == 1:
                self._began = time.monotonic()
                self._tell(f"{self._meanwhile}: {error}")
        is_back = False
        try:
            yield
            is_back = True
        except MetaSRError as other:
            is_back = not isinstance(other, UnavailableError)  # any other error is an answer
            raise
        finally:
            with self._lock:
                self._num_waiting -= 1
                if is_back and not self._num_waiting:
                    self._tell(f"{self._store.url} {IS_BACK} {time.monotonic() - self._began:.0f} s")


class WaitingStore(Store):
    """A store whose every request is made again while it is away.

    A write whose answer was lost is made again too: the AlreadyThereError or ChangedError that it then ends with may
    be about its own first try.

    Args:
        store: Which.
        tell: Told when it is waited for, and when it is back.
    """

    def __init__(self, store: Store, tell: Callable[[str], None]) -> None:
        super().__init__(store.retries.policy)
        self.url, self.retries = store.url, store.retries
        self._store, self._tell = store, tell
        self._wait = StoreWait(store, tell).run

    @property
    def is_local(self) -> bool:
        """See `Store.is_local`."""
        return self._store.is_local

    def _put(self, key: str, data: bytes | Path, sha256: str) -> Version:
        return self._wait(partial(self._store.put, key, data, sha256=sha256))

    def _put_new(self, key: str, data: bytes | Path) -> Version:
        return self._wait(partial(self._store.put_new, key, data))

    def _replace(self, key: str, data: bytes | Path, version: Version) -> Version:
        return self._wait(partial(self._store.replace, key, data, version))

    def _get(self, key: str, sha256: str, num_bytes: int | None) -> tuple[bytes, Version]:
        return self._wait(partial(self._store.get_with_version, key, sha256=sha256, num_bytes=num_bytes))

    def _get_range(self, key: str, start: int, length: int) -> bytes:
        return self._wait(partial(self._store.get_range, key, start, length))

    def _exists(self, key: str) -> bool:
        return self._wait(partial(self._store.exists, key))

    def _stat(self, key: str) -> Stat | None:
        return self._wait(partial(self._store.stat, key))

    def _holds(self, key: str, sha256: str, num_bytes: int) -> bool:
        return self._wait(partial(self._store.holds, key, sha256, num_bytes))

    def _names(self) -> Iterable[str]:
        return self._wait(self._store.names)

    def _keys(self) -> Iterable[str]:
        return self._wait(self._store.all_keys)

    def _written(self, key: str) -> datetime | None:
        return self._wait(partial(self._store.written, key))

    def _delete(self, key: str) -> None:
        self._wait(partial(self._store.delete, key))

    def _require(self) -> None:
        self._wait(self._store.require)

    def _free_bytes(self) -> int | None:
        return self._store.free_bytes()

    def _remove_all(self, prefix: str, keys: Iterable[str]) -> None:
        self._wait(partial(self._store.remove_all, prefix, tuple(keys)))

    def _reason(self, error: Exception) -> Reason | None:
        return None  # the store itself explains its errors

    def __reduce__(self) -> tuple[Any, ...]:
        return WaitingStore, (self._store, self._tell)
