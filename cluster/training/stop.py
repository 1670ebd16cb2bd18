"""Stop requests: SIGTERM, Ctrl-C, or a sweep."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from metasr.context import Request
from metasr.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE_S = 30.0
"""Time for a checkpoint, its upload and the last records after a signal."""


class Stop:
    """A stop request: if there are workers they save a checkpoint first. A second signal ends the run at once.

    Args:
        tell: Called with a line on the request.

    Attributes:
        signal: The first signal; 0 without one. SIGTERM stands for a sweep.
        name: Who requested it, such as SIGTERM.
        status: Status of the run in MLflow then: KILLED or FAILED.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.signal, self.name, self.status = 0, "nobody", "KILLED"
        self._tell = tell
        self._forward: Callable[[Request], None] | None = None
        self._is_heard, self._is_deferred, self._deferred = False, False, 0
        self._has_workers: Callable[[], bool] = lambda: True

    def request(self, name: str, number: int = signal.SIGTERM, *, status: str = "KILLED") -> None:
        """Request a checkpoint and the end of the run. A second request changes nothing."""
        if not self.signal:
            self.signal, self.name, self.status = number, name, status
            if self._forward is not None:
                self._forward(Request.STOP)

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Handle signals until the block ends; does nothing outside the main thread.

        A signal that comes while Python forks or finalizes cannot raise: it counts as a request, and Python's report
        of the ignored exception is suppressed.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before, was_heard = {number: signal.getsignal(number) for number in SIGNALS}, self._is_heard
        self._is_heard, report_unraisable = True, sys.unraisablehook
        sys.unraisablehook = lambda found: None if found.exc_type is Interrupted else report_unraisable(found)
        self.hear()
        try:
            yield
        finally:
            self._is_heard, sys.unraisablehook = was_heard, report_unraisable
            for number, handler in before.items():
                signal.signal(number, handler)

    def hear(self) -> None:
        """Install the handlers again in a block of `heard`: Ray replaces them when it starts and ends."""
        if self._is_heard and threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, self._on_signal)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Delay the first signal until the block ends."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
        if self._deferred:
            raise Interrupted(self._deferred)

    @contextmanager
    def forwarded_to(
        self, forward: Callable[[Request], None], has_workers: Callable[[], bool] = lambda: True
    ) -> Iterator[None]:
        """Forward requests, and signals as requests, until the block ends.

        Args:
            forward: Receives the requests.
            has_workers: Returns whether there are workers to save a checkpoint.
        """
        with self.heard():
            self._forward, self._has_workers = forward, has_workers
            try:
                if self.signal:  # requested before the block
                    forward(Request.STOP)
                yield
            finally:
                self._forward = None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._is_deferred and not self.signal:
            self.request(signal.Signals(number).name, number)
            self._deferred = number
            return
        if self.signal or self._forward is None:
            self.request(signal.Signals(number).name, number)
            raise Interrupted(number)
        self.request(signal.Signals(number).name, number)
        now = "saving a checkpoint after this step" if self._has_workers() else "no workers, ending"
        with suppress(Exception):  # the terminal was closed
            self._tell(f"{self.name}: {now}; once more ends at once")


def short_grace() -> str:
    """Return a warning if Ray kills a submitted job too soon after `ray job stop`; empty if it does not."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        return ""
    try:
        seconds = float(os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", "3"))
    except ValueError:
        return ""
    if seconds >= GRACE_S:
        return ""
    return (
        f"`ray job stop` kills this job after {seconds:g} s, maybe before its checkpoint is saved: "
        f"set RAY_JOB_STOP_WAIT_TIME_S={GRACE_S:g} where Ray is started"
    )
