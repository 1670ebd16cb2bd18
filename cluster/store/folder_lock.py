"""The lock of a folder, which a process that is stopped while it holds it does not hold for ever.

The system lets go of a lock whose process died. One that was stopped (SIGSTOP, a debugger, a machine that sleeps)
keeps it and may go on at any time, so whoever waits may not just pass it by: the write that it was about to make
would then undo theirs. A holder therefore notes in the lock the one file that it will rename. Whoever waits too long
puts a lock of its own in the place of the old one and removes that file, so that the rename of the other fails.
"""

import fcntl
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_NAME = ".metasr.lock"
_TAKING_OVER = ".metasr.lock.next"
_POLL_S = 0.005


def hold_lock(part: Path, patience_s: float) -> BinaryIO:
    """Return the lock of the folder of `part`, which the caller will rename and then close the lock.

    A holder that has not renamed its file within `patience_s` seconds loses the lock and the file.
    """
    path = part.parent / _NAME
    while True:
        lock = _open(path)
        if not _wait(lock, patience_s):
            with lock:
                mine = _taken_over(lock, path, part)
            if mine is not None:
                return mine
        else:
            _note(lock, part)
            if _is_at(lock, path):
                return lock
            lock.close()


def _wait(lock: BinaryIO, patience_s: float) -> bool:
    """Return whether the lock was got before one holder had it for too long."""
    holder, since = None, time.monotonic()
    while not _try(lock):
        if (now := _noted(lock)) != holder:
            holder, since = now, time.monotonic()
        elif time.monotonic() - since > patience_s:
            return False
        time.sleep(_POLL_S)
    return True


def _taken_over(old: BinaryIO, path: Path, part: Path) -> BinaryIO | None:
    with _open(path.with_name(_TAKING_OVER)) as others:
        fcntl.flock(others, fcntl.LOCK_EX)  # of several that have waited for too long, one replaces the lock
        if not _is_at(old, path):
            return None
        new = path.with_name(f".{uuid.uuid4().hex}.lock")
        lock = _open(new)
        fcntl.flock(lock, fcntl.LOCK_EX)
        _note(lock, part)
        os.replace(new, path)
        # A holder of the old lock has noted its file by now, or will see after that that its lock is gone.
        if name := _noted(old):
            path.with_name(name).unlink(missing_ok=True)
        return lock


def _open(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")


def _try(lock: BinaryIO) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _is_at(lock: BinaryIO, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    return False


def _noted(lock: BinaryIO) -> str:
    return os.pread(lock.fileno(), 255, 0).decode()


def _note(lock: BinaryIO, part: Path) -> None:
    os.pwrite(lock.fileno(), part.name.encode(), 0)  # the names of parts are equally long
