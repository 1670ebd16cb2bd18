"""Work in a thread that the process does not wait for at its end."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def in_daemon_thread(work: Callable[[], T], name: str) -> "Future[T]":
    """Do work in a thread of its own, which may hang without keeping the process from ending.

    Args:
        work: What to do.
        name: Of the thread.

    Returns:
        What will hold the result, or the error.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return outcome
