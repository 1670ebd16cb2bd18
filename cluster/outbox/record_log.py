"""The records of an outbox on the disk: lines appended by several processes, through kills and a full disk."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from cluster.outbox.record import Record

RESERVE_BYTES = 1 << 16
"""Kept free on the disk for the records that matter most."""
COMPACT_BYTES = 1 << 20
REFUSED = "refused.jsonl"
REMOVED = "+removed"
"""End of the name of a folder that is being removed; no run's folder has a plus sign."""


class RecordLog:
    """A folder with `records.jsonl` and the number of its bytes that are `sent`. It is opened by making it.

    Whoever has it open holds a shared lock on the file `in_use`, and who wants to remove the folder an exclusive one.

    Args:
        folder: Made if it is missing.

    Raises:
        OSError: The disk is full or refuses.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._in_use = _use(folder)
        self._file = -1
        try:
            self._file = os.open(folder / "records.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            with self._locked():
                self._cut_torn_end()
                if not (folder / "sent").exists():
                    self._write_sent(0)
            with suppress(OSError):  # a full disk may still take records
                if not (folder / "reserve").exists():
                    (folder / "reserve").write_bytes(bytes(RESERVE_BYTES))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close its files."""
        for descriptor in (self._file, self._in_use):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._in_use = -1

    def append(self, record: Record) -> None:
        """Append a record, whole or not at all; one that is not light may use the reserve.

        Raises:
            OSError: The disk is full or refuses.
        """
        line = record.to_line()
        try:
            self._append(line)
        except OSError:
            if record.is_light:
                raise
            (self._folder / "reserve").unlink()
            self._append(line)

    def unsent(self, at_most: int | None = None) -> list[Record]:
        """Return the records that are not sent, oldest first. Others wait meanwhile.

        The lock keeps number and bytes together: a number read before another process compacts the file would point
        behind records that nobody has sent.
        """
        with self._locked(), (self._folder / "records.jsonl").open("rb") as file:
            end, records = self._sent(), []
            file.seek(end)
            for line in islice(file, at_most):
                end += len(line)
                if not line.endswith(b"\n"):
                    break  # torn by a kill
                records.append(Record.parse(line, end))
        return records

    def mark_sent(self, end: int) -> None:
        """Note that the records up to a byte are sent."""
        with self._locked():
            self._write_sent(end)

    def compact(self, min_bytes: int = 0) -> None:
        """Free the disk space of sent records if all are sent and they take more than `min_bytes`."""
        if self._sent() <= min_bytes:
            return
        with self._locked():
            self._cut_torn_end()
            if self._sent() == os.fstat(self._file).st_size:
                self._write_sent(0)  # first: killed in between, all is sent again, which changes nothing
                os.ftruncate(self._file, 0)

    def remove_if_sent(self) -> None:
        """Remove the folder if all its records are sent, none was refused, and no other process has it open.

        Raises:
            BlockingIOError: Another process has it open.
        """
        fcntl.flock(self._in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_at(self._in_use, self._folder) or (self._folder / REFUSED).exists():
            return
        if not self.unsent(at_most=1):
            removed = self._folder.with_name(self._folder.name + REMOVED)
            shutil.rmtree(removed, ignore_errors=True)  # left by a killed process
            self._folder.rename(removed)  # at once: who opens the folder from here on makes a new one
            shutil.rmtree(removed, ignore_errors=True)

    def _append(self, line: bytes) -> None:
        with self._locked():
            size = os.fstat(self._file).st_size
            try:
                if os.write(self._file, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.ftruncate(self._file, size)
                raise

    def _write_sent(self, end: int) -> None:
        # One write of a fixed length in place: as atomic as replacing the file, and it needs no room on a full disk.
        file = os.open(self._folder / "sent", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.write(file, b"%020d" % end)
        finally:
            os.close(file)

    def _sent(self) -> int:
        try:
            return min(int((self._folder / "sent").read_bytes()), os.fstat(self._file).st_size)
        except (OSError, ValueError):
            return 0  # sending again changes nothing

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes from reading, appending and compacting."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _cut_torn_end(self) -> None:
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            whole = (self._folder / "records.jsonl").read_bytes().rfind(b"\n") + 1
            os.ftruncate(self._file, whole)


def _use(folder: Path) -> int:
    """Take the shared lock of a folder, which is made if it is missing, and return its descriptor."""
    while True:
        with suppress(FileExistsError):  # also raised for a folder that is removed at that moment
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(folder / "in_use", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_SH)
        if _is_at(lock, folder):
            return lock
        os.close(lock)  # the folder was removed meanwhile


def _is_at(lock: int, folder: Path) -> bool:
    """Return whether a lock is that of the folder which is there now."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(lock), os.stat(folder / "in_use"))
    return False
