"""One driver for each run, without trust in clocks."""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

from pydantic import ValidationError

from cluster.store import ChangedError, NotThereError, Store, Version
from metasr.config import Section
from metasr.errors import MetaSRError, StoreError
from metasr.formats import FORMAT, require_known_format

log = logging.getLogger(__name__)

LEASE = "lease.json"
POLLS = 20  # looks at a silent holder before it is given up
LAST_RENEWAL_S = 5.0  # for a renewal that is under way when a lease is given back


class RunTakenError(MetaSRError):
    """Another driver is at work on the run."""


class Holder(Section):
    """A process, such that no other is ever mistaken for it."""

    host: str
    boot: str
    """Boot of the host, and its namespace of process numbers: containers have their own. Empty if unknown."""
    pid: int
    started: str
    """When the process started, in ticks since the boot: process numbers come again. Empty if unknown."""

    @classmethod
    def me(cls) -> "Holder":
        """Return this process."""
        return cls(host=socket.gethostname(), boot=_boot(), pid=os.getpid(), started=_started(os.getpid()))

    def is_gone(self) -> bool:
        """Return whether the process has certainly ended; False for one that cannot be seen from here."""
        is_here = self.host == socket.gethostname() and bool(self.boot) and self.boot == _boot()
        return is_here and _started(self.pid) != self.started


class Held(Section):
    """What `lease.json` says. No content of it ever comes again."""

    format: Literal[1] = FORMAT
    fence: int
    """How often the lease was acquired."""
    beat: int
    """Grows for as long as the holder is alive."""
    holder: Holder | None
    """Who has it; None once it was released."""

    def to_bytes(self) -> bytes:
        """Return the object's content."""
        return (self.model_dump_json(indent=1) + "\n").encode()


class Lease:
    """The right to drive a run, renewed by a thread until it is released or lost.

    A process that was stopped for long can lose it and go on for a moment before it notices. Hence the fence: what
    the driver does carries that number, and whoever keeps things for the run refuses one that is lower than the
    highest so far.

    Attributes:
        fence: Grows by one with each acquisition of the run's lease.
        lost: Set when another driver has taken the run over: stop.
    """

    def __init__(self, store: Store, key: str, held: Held, version: Version, renew_every_s: float) -> None:
        self.fence, self.lost = held.fence, threading.Event()
        self._store, self._key, self._held, self._version = store, key, held, version
        self._renew_every_s, self._is_away, self._released = renew_every_s, False, threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(
        cls,
        store: Store,
        run_name: str,
        tell: Callable[[str], None],
        *,
        renew_every_s: float = 3.0,
        patience_s: float = 10.0,
    ) -> Self:
        """Take the lease of a run: a free one or that of a dead process at once, another if its holder is silent.

        Args:
            store: Where the run keeps its checkpoints.
            run_name: Of the run.
            tell: Told of a wait.
            renew_every_s: Time between two signs of life. The same for all drivers.
            patience_s: How long a holder may be silent; several times `renew_every_s`.

        Raises:
            RunTakenError: Another driver has it, and is alive.
            StoreError: The store is away or refuses.
        """
        key = f"{run_name}/{LEASE}"
        watch = _HolderWatch(run_name, tell, patience_s)
        while True:
            found, version = _read(store, key)
            if found is None or found.holder is None or found.holder.is_gone() or watch.is_silent(found):
                held = Held(fence=found.fence + 1 if found else 1, beat=0, holder=Holder.me())
                try:
                    version = store.swap(key, held.to_bytes(), version)
                    return cls(store, key, held, version, renew_every_s)
                except ChangedError:
                    continue  # somebody was faster: look who
            time.sleep(patience_s / POLLS)

    def release(self) -> None:
        """Give the lease back, so that the next driver need not wait. Never fails: a lease runs out by itself."""
        self._released.set()
        self._thread.join(LAST_RENEWAL_S)
        if self.lost.is_set():
            return
        try:
            free = self._held.model_copy(update={"beat": self._held.beat + 1, "holder": None})
            self._store.replace(self._key, free.to_bytes(), self._version)
        except StoreError as error:
            log.warning("the lease was not given back: %s", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _keep(self) -> None:
        while not (self._released.wait(self._renew_every_s) or self.lost.is_set()):
            try:
                self._renew()
                self._is_away = False
            except StoreError as error:  # a rival cannot reach it either
                if not self._is_away:
                    log.warning("cannot renew the lease, going on without: %s", error)
                self._is_away = True

    def _renew(self) -> None:
        held = self._held.model_copy(update={"beat": self._held.beat + 1})
        try:
            self._version = self._store.replace(self._key, held.to_bytes(), self._version)
            self._held = held
        except ChangedError:
            found, version = _read(self._store, self._key)
            if found is None or version is None:
                raise  # deleted, or its disk is not mounted: nobody else has it
            if (found.fence, found.holder) != (self.fence, self._held.holder):
                log.warning("the lease of this run is lost: %s", _who(found))
                self.lost.set()
            else:  # a renewal whose answer was lost
                self._held, self._version = found, version


def is_driven(store: Store, run_name: str, tell: Callable[[str], None], patience_s: float = 10.0) -> bool | None:
    """Return whether a driver is at work on a run; None if the run has no lease here.

    Args:
        store: Where the run keeps its checkpoints.
        run_name: Of the run.
        tell: Told of a wait for a sign of life.
        patience_s: How long a holder may be silent.

    Raises:
        StoreError: The store is away or refuses.
    """
    watch = _HolderWatch(run_name, tell, patience_s)
    while True:
        found, _ = _read(store, f"{run_name}/{LEASE}")
        if found is None:
            return None
        try:
            if found.holder is None or found.holder.is_gone() or watch.is_silent(found):
                return False
        except RunTakenError:
            return True
        time.sleep(patience_s / POLLS)


class _HolderWatch:
    """Finds out whether the holder of a lease is alive, by our own clock alone."""

    def __init__(self, run_name: str, tell: Callable[[str], None], patience_s: float) -> None:
        self._run, self._tell, self._patience_s = run_name, tell, patience_s
        self._seen: Held | None = None
        self._since = self._looked = 0.0

    def is_silent(self, found: Held) -> bool:
        """Look once more at a lease; return whether it stayed as it is for long enough.

        Raises:
            RunTakenError: Its holder has moved.
        """
        now, before = time.monotonic(), self._looked
        self._looked = now
        if self._seen is None:
            self._tell(
                f"waiting {self._patience_s:g} s to see whether run {self._run} is still driven: {_who(found)}"
            )
            self._seen, self._since = found, now
        elif found != self._seen:
            raise RunTakenError(
                f"run {self._run}",
                f"another driver is at work on it: {_who(found)}",
                "Wait for its end, or end it there",
            )
        elif now - before > self._patience_s / 2:
            self._since = now  # a store that was away says nothing about the holder, who could not reach it either
        return now - self._since >= self._patience_s


def _read(store: Store, key: str) -> tuple[Held | None, Version | None]:
    what = f"the lease {key!r} in {store.url}"
    try:
        content, version = store.get_with_version(key)
        require_known_format(content, what)
        return Held.model_validate_json(content), version
    except NotThereError:
        return None, None
    except ValidationError:
        raise StoreError(what, "it is not one", "Delete it if no driver runs") from None


def _who(held: Held) -> str:
    return f"process {held.holder.pid} on {held.holder.host} has it" if held.holder else "it was given back"


def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when a process started; empty for one that does not exist, or is a zombie."""
    try:
        # After the name, which may hold anything: the state first, the start as number 20.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
