"""A run's records on local disk until MLflow has them: in order, through kills, outages and a full disk."""

import errno
import fcntl
import json
import logging
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from metasr import manifest

RESERVE_BYTES = 1 << 16
"""Kept free on the disk for the records that matter most."""
COMPACT_BYTES = 1 << 20
MAX_IN_MEMORY = 1000
MAX_READ = 500
log = logging.getLogger(__name__)


class BusyError(Exception):
    """Another process sends the records of this run."""


@dataclass(frozen=True)
class Record:
    """Something to tell MLflow.

    Attributes:
        kind: start, metrics, picture, text, tag, status or register.
        time_ms: When it was made, since 1970: sent twice, it is still the same point.
        payload: What it says, as JSON values.
        end: Byte of `records.jsonl` after it; 0 for one that the disk did not take.
    """

    kind: str
    time_ms: int
    payload: dict[str, Any]
    end: int = 0

    def to_line(self) -> bytes:
        """Return it as a line of JSON."""
        return json.dumps({"kind": self.kind, "time_ms": self.time_ms, "payload": self.payload}).encode() + b"\n"


class Spool:
    """The records of one run: `records.jsonl`, how many bytes of it are `sent`, and the files that go with them.

    Adding a record writes one line and waits for nobody. What the disk does not take stays in memory, metrics within
    bounds. Several processes may add; one at a time sends, see `sending`.

    Args:
        folder: Of this run; made if it is missing.

    Attributes:
        dropped: Number of records that neither the disk nor the memory had room for.
        refused: Number of records that were set aside in `refused.jsonl`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.dropped, self.refused = folder, 0, 0
        self._lock = threading.Lock()
        self._memory: deque[Record] = deque()
        self._is_full, self._file = False, -1
        try:
            self._open()
        except OSError as error:
            self._complain(error)

    def add(self, kind: str, payload: dict[str, Any]) -> None:
        """Add a record, made now. Never fails."""
        record = Record(kind, time.time_ns() // 1_000_000, payload)
        is_vital = kind not in ("metrics", "picture")
        with self._lock:
            while self._memory and self._write(self._memory[0]):
                self._memory.popleft()
            if (self._memory and not is_vital) or not self._write(record):
                self._keep(record, is_vital)

    def add_picture(self, step: int, key: str, png: bytes) -> None:
        """Add a picture, given as a PNG file. The first that a full disk goes without."""
        name = f"{key.encode().hex()[-150:]}-{step}.png"
        if self._save(name, lambda path: path.write_bytes(png)):
            self.add("picture", {"step": step, "key": key, "file": name})

    def add_bundle(self, bundle: Path) -> None:
        """Add a copy of a bundle that is to be registered.

        Raises:
            CheckpointError: It has no manifest.
        """
        name = f"bundle-{manifest.digest(bundle)[:12]}"
        if (self.folder / name).is_dir() or self._save(name, lambda path: shutil.copytree(bundle, path)):
            self.add("register", {"file": name})

    def pending(self) -> list[Record]:
        """Return the first records that are not sent, oldest first; not all if they are many."""
        with self._lock:
            records = list(islice(self._unsent(), MAX_READ))
            return records or list(islice(self._memory, MAX_READ))

    def remaining(self) -> int:
        """Return the number of records that are not sent."""
        with self._lock:
            return sum(1 for _ in self._unsent()) + len(self._memory)

    def mark_sent(self, records: Sequence[Record]) -> None:
        """Forget the first records, which were sent, and their files."""
        with self._lock:
            if records[-1].end:
                self._set_sent(records[-1].end)
            for record in records:
                if not record.end and self._memory and self._memory[0] is record:
                    self._memory.popleft()
            if self._sent() > COMPACT_BYTES:
                self._compact()
        for file in (record.payload.get("file") for record in records):
            if isinstance(file, str):
                shutil.rmtree(self.folder / file, ignore_errors=True)
                with suppress(OSError):
                    (self.folder / file).unlink(missing_ok=True)

    def refuse(self, record: Record, reason: str) -> None:
        """Set a record aside that will never be taken, so that it does not hold up those behind it."""
        self.refused += 1
        log.warning("MLflow refuses a record of kind %s, set aside in %s: %s", record.kind, self.folder, reason)
        with suppress(OSError), (self.folder / "refused.jsonl").open("ab") as file:
            file.write(json.dumps({"reason": reason}).encode()[:-1] + b", " + record.to_line()[1:])

    def compact(self) -> None:
        """Give the disk space of sent records back, if all are."""
        with self._lock, suppress(OSError):
            self._compact()

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Be the one process that sends this run's records.

        Raises:
            BusyError: Another is.
        """
        try:
            lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:  # no folder, or no room: nobody else can send what is in our memory
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise BusyError("another process is sending them") from None
        finally:
            os.close(lock)

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(self.folder / "records.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with self._file_locked():
            self._cut_torn_end()
        if not (self.folder / "sent").exists():
            self._set_sent(0)
        if not (self.folder / "reserve").exists():
            (self.folder / "reserve").write_bytes(bytes(RESERVE_BYTES))

    def _write(self, record: Record) -> bool:
        """Write a record to the disk; return whether it is there."""
        line = record.to_line()
        try:
            if self._file < 0:
                self._open()
            try:
                self._append(line)
            except OSError:
                if record.kind in ("metrics", "picture"):
                    raise
                (self.folder / "reserve").unlink()
                self._append(line)
        except OSError as error:
            self._complain(error)
            return False
        return True

    def _append(self, line: bytes) -> None:
        with self._file_locked():
            size = os.fstat(self._file).st_size
            try:
                if os.write(self._file, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.ftruncate(self._file, size)
                raise

    def _keep(self, record: Record, is_vital: bool) -> None:
        """Keep a record in memory; metrics and pictures make way for those that are newer."""
        if not is_vital:
            light = [kept for kept in self._memory if kept.kind in ("metrics", "picture")]
            if len(light) >= MAX_IN_MEMORY:
                self._memory.remove(light[0])
                self.dropped += 1
        self._memory.append(record)

    def _save(self, name: str, write: Callable[[Path], object]) -> bool:
        """Write a file or a folder beside the records, whole or not at all."""
        partial = self.folder / f".{name}"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            write(partial)
            os.replace(partial, self.folder / name)
        except (OSError, shutil.Error) as error:
            with suppress(OSError):
                partial.unlink()
            self.dropped += 1
            self._complain(error)
            return False
        return True

    def _complain(self, error: Exception) -> None:
        if not self._is_full:
            log.warning("records for MLflow cannot be written to %s, going on without: %s", self.folder, error)
        self._is_full = True

    def _unsent(self) -> Iterator[Record]:
        if self._file < 0:
            return
        with (self.folder / "records.jsonl").open("rb") as file:
            end = self._sent()
            file.seek(end)
            for line in file:
                end += len(line)
                if not line.endswith(b"\n"):
                    break  # torn by a kill, or not yet written
                yield _parse(line, end)

    def _sent(self) -> int:
        try:
            return min(int((self.folder / "sent").read_bytes()), os.fstat(self._file).st_size)
        except (OSError, ValueError):
            return 0  # sending again changes nothing

    def _set_sent(self, end: int) -> None:
        # One write of a fixed length in place: as whole as a replaced file, and it needs no room on a full disk.
        file = os.open(self.folder / "sent", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.write(file, b"%020d" % end)
        finally:
            os.close(file)

    def _compact(self) -> None:
        if self._file < 0:
            return
        with self._file_locked():
            self._cut_torn_end()
            if self._sent() == os.fstat(self._file).st_size:
                self._set_sent(0)  # first: killed in between, all is sent again, which changes nothing
                os.ftruncate(self._file, 0)

    @contextmanager
    def _file_locked(self) -> Iterator[None]:
        """Keep other processes from adding or compacting, for microseconds."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def _cut_torn_end(self) -> None:
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            whole = (self.folder / "records.jsonl").read_bytes().rfind(b"\n") + 1
            os.ftruncate(self._file, whole)


def _parse(line: bytes, end: int) -> Record:
    try:
        found = json.loads(line)
        return Record(str(found["kind"]), int(found["time_ms"]), dict(found["payload"]), end)
    except (ValueError, KeyError, TypeError):
        return Record("damaged", 0, {"line": line.decode(errors="replace")}, end)
