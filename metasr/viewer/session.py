"""Volumes that are open on the page: each under a secret of its own, for some time, in bounded memory."""

import hashlib
import math
import secrets
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from metasr.data.volume import Volume
from metasr.errors import MetaSRError
from metasr.viewer.desk import Desk
from metasr.viewer.model import Model
from metasr.viewer.scene import Scene

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """How much may be open.

    Attributes:
        sessions: Volumes at a time.
        memory_bytes: Of all volumes and their features together.
        features_bytes: Of the features of one volume.
        idle_s: After which a volume that nobody looks at is closed.
    """

    sessions: int = 1
    memory_bytes: int = sys.maxsize
    features_bytes: int = 512 * MIB
    idle_s: float = math.inf


ONE = Limits()
"""A volume that its owner looks at."""


class FullError(MetaSRError):
    """There is no room for another volume now."""


class Session:
    """A volume that is open.

    Args:
        scene: What is shown.
        desk: Where its windows are asked for.
        now: When it was opened.
    """

    def __init__(self, scene: Scene, desk: Desk, now: float) -> None:
        self.scene, self.desk, self.used = scene, desk, now
        self.description = scene.description()


class Sessions:
    """All that is open.

    Args:
        model: What super-resolves them.
        limits: How much may be open.
        clock: Tells seconds.
    """

    def __init__(self, model: Model, limits: Limits = ONE, clock: Callable[[], float] = time.monotonic) -> None:
        self.model, self.limits, self._clock = model, limits, clock
        self._worker = ThreadPoolExecutor(1, "decode")
        self._lock = threading.Lock()
        self._open: dict[bytes, Session] = {}

    def open(self, volume: Volume) -> str:
        """Open a volume, and return the secret that leads to it.

        Raises:
            FullError: There is no room for it.
        """
        scene = Scene.of(volume)
        desk = Desk(scene, self.model, self._worker, self.limits.features_bytes)
        session, secret = Session(scene, desk, self._clock()), secrets.token_urlsafe(24)
        with self._lock:
            self._check_room(volume.data.nbytes)
            self._open[_key(secret)] = session
        return secret

    def find(self, secret: str) -> Session | None:
        """Return what a secret leads to, which is thereby in use; None where it leads to nothing."""
        with self._lock:
            self._expire()
            session = self._open.get(_key(secret))
            if session is not None:
                session.used = self._clock()
            return session

    def check_room(self, volume_bytes: int = 0) -> None:
        """Raise FullError where there is no room for a volume of so many bytes."""
        with self._lock:
            self._check_room(volume_bytes)

    def close_idle(self) -> int:
        """Close what nobody looks at, and return how many volumes are open."""
        with self._lock:
            self._expire()
            return len(self._open)

    def _check_room(self, volume_bytes: int) -> None:
        self._expire()
        limits = self.limits
        per_session = limits.features_bytes
        if volume_bytes + per_session > limits.memory_bytes:
            most = max(0, limits.memory_bytes - per_session) / MIB
            raise FullError(
                "the volume", f"it takes more memory than the {most:,.0f} MiB there are", "Cut it in parts"
            )
        taken = sum(one.scene.volume.data.nbytes + per_session for one in self._open.values())
        if len(self._open) < limits.sessions and taken + volume_bytes + per_session <= limits.memory_bytes:
            return
        first = min(one.used for one in self._open.values()) + limits.idle_s - self._clock()
        what = f"all room is taken by {len(self._open)} open volumes"
        why = f"the first is closed in {math.ceil(first / 60):.0f} minutes if nobody looks at it"
        raise FullError(what, why, "Try again then")

    def _expire(self) -> None:
        oldest = self._clock() - self.limits.idle_s
        self._open = {key: session for key, session in self._open.items() if session.used > oldest}


def _key(secret: str) -> bytes:
    """Return what a secret is kept as: how long the search takes tells nothing of it."""
    return hashlib.sha256(secret.encode()).digest()
