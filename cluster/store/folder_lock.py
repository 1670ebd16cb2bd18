"""A lock on a folder, for changes that nobody else's change may come between."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

_NAME = ".metasr.lock"
_POLL_S = 0.005


class LockHeldError(Exception):
    """Another process holds the lock, and has for too long. For the store's own parts: callers get a StoreError."""


@contextmanager
def folder_lock(folder: Path, limit_s: float) -> Iterator[None]:
    """Hold the lock of a folder, of all processes and threads one at a time.

    The system releases the lock of a process that ends, however it ends. A process that is frozen keeps it, because
    it may go on at any moment with what it holds the lock for.

    Args:
        folder: Which. The lock is a file in it that stays: a lock on a removed file would lock nothing.
        limit_s: How long to wait for the lock.

    Raises:
        LockHeldError: Another still holds it after `limit_s` seconds.
    """
    with open(os.open(folder / _NAME, os.O_RDWR | os.O_CREAT, 0o666), "r+") as file:
        until = time.monotonic() + limit_s
        while not _is_taken(file):
            if time.monotonic() > until:
                holder = file.read() or "another process"
                raise LockHeldError(f"{holder} still holds the lock {folder / _NAME} after {limit_s:g} s")
            time.sleep(_POLL_S)
        file.truncate(0)
        print(f"process {os.getpid()} on {socket.gethostname()}", end="", file=file, flush=True)
        yield


def _is_taken(file: TextIO) -> bool:
    """Take the lock if it is free, and return whether it was."""
    with suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
