"""Threads that do things ahead of need, and never keep a process from ending."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")
_Task = tuple[Future[T], Callable[[], T]]


class Ahead(Generic[T]):
    """A few threads that take tasks in order.

    Python waits for the threads of a ThreadPoolExecutor, and for all its tasks, before it exits; not for these.
    """

    def __init__(self, num_threads: int) -> None:
        self._tasks: SimpleQueue[_Task[T] | None] = SimpleQueue()
        self._num_threads = num_threads
        for _ in range(num_threads):
            threading.Thread(target=_work, args=(self._tasks,), daemon=True).start()

    def submit(self, task: Callable[[], T]) -> Future[T]:
        """Return what will hold the result of `task`, or its error; cancelled in time, the task is not begun."""
        future: Future[T] = Future()
        self._tasks.put((future, task))
        return future

    def close(self) -> None:
        """Drop the tasks that wait; the threads end after those that they are at."""
        with suppress(Empty):
            while True:
                self._tasks.get_nowait()
        for _ in range(self._num_threads):
            self._tasks.put(None)


def _work(tasks: "SimpleQueue[_Task[T] | None]") -> None:
    while (task := tasks.get()) is not None:
        _do(*task)
        del task  # or an idle thread would keep the last result in memory


def _do(future: Future[T], task: Callable[[], T]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(task())
        except BaseException as error:
            future.set_exception(error)
