"""Progress of a long computation: a bar on a terminal, now and then a line in a log."""

import time
from collections.abc import Callable
from typing import TextIO

BAR = 30
EVERY_S = 10.0


class Progress:
    """Called with what is done and the total.

    Args:
        stream: Where it is told.
        clock: Seconds that pass.
        label: What every line begins with, such as the name of a file.
        things: What is counted.
    """

    def __init__(
        self, stream: TextIO, clock: Callable[[], float] = time.monotonic, label: str = "", things: str = "slices"
    ) -> None:
        self._stream, self._clock, self._label, self._things = stream, clock, label, things
        self._began = self._told = clock()
        self._terminal = stream.isatty()

    def __call__(self, done: int, total: int) -> None:
        """Tell that `done` of `total` are done: on a terminal always, in a log every 10 s."""
        now = self._clock()
        left = (now - self._began) / done * (total - done)
        text = f"{done}/{total} {self._things}" + (f", about {_duration(left)} left" if done < total else "")
        if self._terminal:
            filled = BAR * done // total
            end = "\n" if done == total else ""
            line = f"\r{self._label}[{'#' * filled}{'.' * (BAR - filled)}] {text}"
            print(f"{line:<80}", end=end, file=self._stream, flush=True)
        elif now - self._told >= EVERY_S:
            self._told = now
            print(f"{self._label}{text}", file=self._stream, flush=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
