"""The start and the end of a command: where it has nothing to put in order, a signal ends it at once."""

import atexit
import importlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from metasr.errors import Interrupted

SIGNALS = signal.SIGTERM, signal.SIGINT
Handler = Callable[[int, FrameType | None], object]


def main() -> NoReturn:
    """Run `metasr VERB ...`."""
    with ended_at_once():
        cli = importlib.import_module("jobs.cli")  # which itself takes from here what it does with signals
    cli.main()
    raise SystemExit


@contextmanager
def ended_at_once() -> Iterator[None]:
    """Have a signal end the process with one line, in a block of imports: what they raise, libraries may catch."""
    with _handled_by(_end, *SIGNALS):
        yield


@contextmanager
def interrupted() -> Iterator[None]:
    """Have SIGTERM raise Interrupted in the block, so that it leaves nothing half done, as Ctrl-C does."""
    with _handled_by(_interrupt, signal.SIGTERM):
        yield


def end_with(code: int) -> None:
    """Have a signal change no exit code any more, once Python has begun to end."""

    def end(number: int, frame: FrameType | None) -> None:
        os._exit(code)

    def hear() -> None:
        for number in SIGNALS:
            signal.signal(number, end)

    atexit.register(hear)


@contextmanager
def _handled_by(handler: Handler, *numbers: signal.Signals) -> Iterator[None]:
    """Have signals handled until the block ends; only the main thread of a process can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _end(number: int, frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    os.write(2, f"stopped by {name}: run the same command again to continue\n".encode())
    os._exit(128 + number)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)
