"""Prefetching: which shards are read before they are needed, and the threads that do it."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from heapq import merge
from itertools import chain, islice
from operator import attrgetter
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

import numpy as np

from metasr.data.order import SampleOrder, Window

T = TypeVar("T")
_START = attrgetter("start")
_Task = tuple[Future[T], Callable[[], T]]


class PrefetchedShards(Generic[T]):
    """The shards whose samples come now, and those whose samples come next, read or being read.

    Args:
        order: Which sample comes when.
        virtual_shards: Those that are taken from.
        first: Position at which each of them begins.
        read: Begins to read a shard.
        num_shards: How many, those that are needed first; at least as many as the current windows can have.
        keeps_all: Whether shards stay when their window has passed.
    """

    def __init__(
        self,
        order: SampleOrder,
        virtual_shards: range,
        first: int,
        read: Callable[[int], Future[T]],
        num_shards: int,
        *,
        keeps_all: bool,
    ) -> None:
        self._positions = {number: _Position(order, number, first) for number in virtual_shards}
        self._read, self._num_shards, self._keeps_all = read, num_shards, keeps_all
        self._held: dict[int, Future[T]] = {}
        self._hold()

    def take(self, virtual_shard: int, number: int) -> Iterator[tuple[Future[T], int]]:
        """Yield for the next samples of a virtual shard the shard of each, and which of the shard's samples it is.

        Nobody may keep a shard when the next one is asked for: that is what bounds the memory.
        """
        for _ in range(number):
            while (place := next(self._positions[virtual_shard].left, None)) is None:
                self._positions[virtual_shard].go_on()
                self._hold()
            shard, sample = place
            yield self._held[shard], sample

    def _hold(self) -> None:
        positions = self._positions.values()
        windows = chain(
            (one.current for one in positions), merge(*(one.next_windows() for one in positions), key=_START)
        )
        shards = (shard for window in windows for shard in window.shards)
        needed = dict.fromkeys(islice(shards, self._num_shards))
        if not self._keeps_all:
            for shard in self._held.keys() - needed.keys():
                self._held.pop(shard).cancel()
        for shard in needed:
            if shard not in self._held:
                self._held[shard] = self._read(shard)


class _Position:
    """Where a virtual shard is.

    Attributes:
        current: The window in use.
        left: Of the samples of the current window those that were not taken yet: shard, and number in the shard.
    """

    def __init__(self, order: SampleOrder, virtual_shard: int, first: int) -> None:
        self._order, self._virtual_shard = order, virtual_shard
        self._ends = np.cumsum(order.shard_sizes)
        self._enter(first)

    def go_on(self) -> None:
        """Enter the next window."""
        self._enter(self.current.stop)

    def next_windows(self) -> Iterator[Window]:
        """Yield the windows that follow, without end."""
        return self._order.windows(self._virtual_shard, self.current.stop)

    def _enter(self, place: int) -> None:
        self.current = next(self._order.windows(self._virtual_shard, place))
        samples = self._order.mixed(self.current)[place - self.current.start :]
        shards = np.searchsorted(self._ends, samples, side="right")
        numbers = samples - (self._ends - self._order.shard_sizes)[shards]
        self.left = zip(shards.tolist(), numbers.tolist(), strict=True)


class PrefetchThreads(Generic[T]):
    """A few threads that take tasks in order, and never keep a process from ending.

    Python waits for the threads of a ThreadPoolExecutor, and for all its tasks, before it exits; not for these.

    Attributes:
        closed: Set when nobody waits for the results any more.
    """

    def __init__(self, num_threads: int) -> None:
        self.closed = threading.Event()
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
        self.closed.set()
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
