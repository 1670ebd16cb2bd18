"""Copies of shards on the disk of a node, shared by all processes that run there."""

import errno
import fcntl
import hashlib
import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cluster.shards import quick_checksum
from cluster.store import Store

log = logging.getLogger(__name__)

_LEFTOVER_S = 3600
_IS_COPY = re.compile("[0-9a-f]{64}").fullmatch
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def shard_cache(store: Store, folder: str, max_gb: float) -> "ShardCache | None":
    """Return a cache for the shards of a store; None where the store itself is a folder, or `folder` is empty."""
    if not folder or store.is_local:
        return None
    return ShardCache(Path(folder).expanduser().absolute(), int(max_gb * 1e9))


class ShardCache:
    """Files named by their SHA-256, which their bytes had when they came, and checked again at every use.

    Nobody depends on the folder: what is missing or damaged is fetched again, any file may be removed at any time,
    and where the disk is full or refuses, reading goes on without copies and says so once.

    Args:
        folder: Made when it is first needed, for its owner alone.
        max_bytes: When the copies take more, those that were not used for the longest time are removed.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._has_warned, self._warning = False, threading.Lock()

    def get(self, sha256: str, fetch: Callable[[], bytes], *, quick: str = "") -> bytes:
        """Return bytes by their SHA-256: a copy, or what `fetch` returns, of which a copy is kept.

        Of all processes and threads that ask for the same bytes at once, one fetches them.

        Args:
            sha256: Of the bytes.
            fetch: Gets them from elsewhere, verified.
            quick: Their `quick_checksum`, which a copy is checked by. Where it is not known, the SHA-256 is.
        """
        if (data := self._read(sha256, quick)) is not None:
            return data
        with self._one_at_a_time(sha256):
            if (data := self._read(sha256, quick)) is None:
                data = fetch()
                self._keep(sha256, data)
        return data

    def give_way(self, num_bytes: int) -> None:
        """Remove copies of so many bytes, or all there are: on a full disk, something else needs the room more."""
        with suppress(OSError):
            if removed := self._shrink(at_least=num_bytes):
                log.warning("the disk is full: %.1f MB of copies in %s give way", removed / 1e6, self._folder)

    def _read(self, sha256: str, quick: str) -> bytes | None:
        path = self._folder / sha256
        try:
            data = path.read_bytes()
            if quick_checksum(data) != quick if quick else hashlib.sha256(data).hexdigest() != sha256:
                log.warning("%s is damaged and will be fetched again", path)
                path.unlink(missing_ok=True)
                return None
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(error)
            return None
        with suppress(OSError):  # removed just now, or not ours
            os.utime(path)
        return data

    @contextmanager
    def _one_at_a_time(self, sha256: str) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                # Few files, never removed: a lock on a removed file would lock nothing. Kept by the operating
                # system, it ends with its process.
                lock = stack.enter_context((self._folder / f"{sha256[:2]}.lock").open("wb"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:
                self._warn(error)
            yield

    def _keep(self, sha256: str, data: bytes) -> None:
        if len(data) > self._max_bytes:
            return
        try:
            try:
                self._write(sha256, data)
            except OSError as error:
                if error.errno not in _DISK_FULL:
                    raise
                self._shrink(at_least=len(data))
                self._write(sha256, data)
        except OSError as error:
            self._warn(error)

    def _write(self, sha256: str, data: bytes) -> None:
        part = self._folder / f".{uuid.uuid4().hex}.part"
        try:
            with part.open("xb") as file:
                file.write(data)
            self._shrink()
            os.replace(part, self._folder / sha256)
        finally:
            part.unlink(missing_ok=True)

    def _shrink(self, at_least: int = 0) -> int:
        """Remove copies, the least recently used first, until `at_least` bytes are free and all fit in the bound.

        Returns:
            How many bytes they took.
        """
        copies, total = [], 0
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                status = path.stat()
                if path.suffix == ".part" and status.st_mtime < time.time() - _LEFTOVER_S:
                    path.unlink()  # of a process that was killed
                    continue
                if path.suffix == ".part":
                    total += status.st_size
                elif _IS_COPY(path.name):  # nobody else's file is counted or removed
                    total += status.st_size
                    copies.append((status.st_mtime_ns, status.st_size, path))
        allowed, removed = min(self._max_bytes, total - at_least), 0
        for _, num_bytes, path in sorted(copies):
            if total - removed <= allowed:
                break
            path.unlink(missing_ok=True)
            removed += num_bytes
        return removed

    def _warn(self, error: OSError) -> None:
        with self._warning:
            if not self._has_warned:
                reason = error.strerror or type(error).__name__
                log.warning("cannot keep shards in %s (%s): going on without copies", self._folder, reason)
            self._has_warned = True
