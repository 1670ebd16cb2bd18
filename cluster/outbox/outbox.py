"""The outbox of a run: what it tells MLflow, kept in order until MLflow has it."""

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
from itertools import islice
from pathlib import Path
from typing import Any, Self

from cluster.outbox.record import Record
from cluster.outbox.record_log import COMPACT_BYTES, REFUSED, RecordLog
from metasr import manifest

MAX_IN_MEMORY = 1000
MAX_READ = 500
log = logging.getLogger(__name__)


class SendingError(Exception):
    """Another process is sending the records of this run."""


class Outbox:
    """The records of one run that MLflow has not got yet, with the pictures and bundles that belong to them.

    Adding a record writes one line and waits for nobody. What the disk does not take stays in memory, metrics and
    pictures within bounds. Several processes may add; one at a time sends, see `sending`.

    Args:
        folder: Of this run; made if it is missing.

    Attributes:
        dropped: Number of records that neither the disk nor the memory had room for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.dropped = folder, 0
        self._lock = threading.Lock()
        self._memory: deque[Record] = deque()
        self._is_full = False
        self._log: RecordLog | None = None
        try:
            self._log = RecordLog(folder)
        except OSError as error:
            self._complain(error)

    def add(self, kind: str, payload: dict[str, Any]) -> None:
        """Add a record, made now. Never fails."""
        record = Record(kind, time.time_ns() // 1_000_000, payload)
        with self._lock:
            while self._memory and self._write(self._memory[0]):
                self._memory.popleft()
            if (self._memory and record.is_light) or not self._write(record):
                self._keep(record)

    def add_picture(self, step: int, key: str, png: bytes) -> None:
        """Add a picture, given as a PNG file. Pictures are the first to go when the disk is full."""
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
        """Return the first records that are not sent, oldest first; at most `MAX_READ`."""
        with self._lock:
            return self._unsent(MAX_READ) or list(islice(self._memory, MAX_READ))

    def remaining(self) -> int:
        """Return the number of records that are not sent."""
        with self._lock:
            return len(self._unsent()) + len(self._memory)

    def holds(self, kind: str) -> bool:
        """Return whether a record of a kind is not sent."""
        with self._lock:
            return any(record.kind == kind for record in (*self._unsent(), *self._memory))

    def mark_sent(self, records: Sequence[Record]) -> None:
        """Forget the first records, which were sent, and their files."""
        with self._lock:
            if records[-1].end and self._log:
                self._log.mark_sent(records[-1].end)
                self._log.compact(COMPACT_BYTES)
            for record in records:
                if not record.end and self._memory and self._memory[0] is record:
                    self._memory.popleft()
        for file in (record.payload.get("file") for record in records):
            if isinstance(file, str):
                shutil.rmtree(self.folder / file, ignore_errors=True)
                with suppress(OSError):
                    (self.folder / file).unlink(missing_ok=True)

    def refuse(self, record: Record, reason: str) -> None:
        """Set a record aside that MLflow will never take, so that it does not hold up those behind it."""
        log.warning("MLflow refuses a record of kind %s, set aside in %s: %s", record.kind, self.folder, reason)
        with suppress(OSError), (self.folder / REFUSED).open("ab") as file:
            file.write(json.dumps({"reason": reason}).encode()[:-1] + b", " + record.to_line()[1:])

    def refusals(self) -> list[str]:
        """Return why each record was refused that was ever set aside in `refused.jsonl`."""
        with suppress(OSError, ValueError), (self.folder / REFUSED).open() as file:
            return [str(json.loads(line).get("reason", "")) for line in file]
        return []

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Be the one process that sends this run's records.

        Raises:
            SendingError: Another is.
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
            raise SendingError("another process is sending them") from None
        finally:
            os.close(lock)

    def close(self) -> None:
        """Close the files. A folder that nobody needs goes: all is sent, none was refused, and nobody has it open."""
        with self._lock:
            if self._log is None:
                return
            with suppress(OSError, SendingError):
                self._log.compact()
                with self.sending():  # a request of ours may still be under way
                    if not self._memory:
                        self._log.remove_if_sent()
            self._log.close()
            self._log = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, record: Record) -> bool:
        """Write a record to the disk; return whether it is there."""
        try:
            self._log = self._log or RecordLog(self.folder)
            self._log.append(record)
        except OSError as error:
            self._complain(error)
            return False
        return True

    def _unsent(self, at_most: int | None = None) -> list[Record]:
        return self._log.unsent(at_most) if self._log else []

    def _keep(self, record: Record) -> None:
        """Keep a record in memory; metrics and pictures make way for newer ones."""
        if record.is_light:
            light = [kept for kept in self._memory if kept.is_light]
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
