"""Objects that several write: of all who make one at once, one succeeds, and no change is lost."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest

from cluster.store import (
    AlreadyThereError,
    ChangedError,
    RetryPolicy,
    UnavailableError,
    Version,
    open_store,
    wait_for_store,
)
from tests.patience import PATIENCE_S

KEY = "runs/lease.json"
LARGE = os.urandom((16 << 20) + 1)  # more than is stored at once


def make(store, barrier, number):
    """Make an object together with others; return the number of the one that succeeded."""
    barrier.wait(PATIENCE_S)
    try:
        store.put_new(KEY, f"from {number}".encode())
    except AlreadyThereError:
        return None
    return number


@pytest.mark.parametrize("data", [b"", b"first", LARGE], ids=["empty", "small", "large"])
def test_a_new_object_is_made_once(store, data):
    version = store.put_new(KEY, data)
    with pytest.raises(AlreadyThereError, match="already there") as caught:
        store.put_new(KEY, b"second")
    assert KEY in str(caught.value)
    assert store.url in str(caught.value)
    assert store.get_with_version(KEY) == (data, version)


def test_a_large_object_does_not_take_the_place_of_another(store, tmp_path):
    (tmp_path / "large").write_bytes(LARGE)
    version = store.put_new(KEY, b"first")
    with pytest.raises(AlreadyThereError):
        store.put_new(KEY, tmp_path / "large")
    with pytest.raises(ChangedError):
        store.replace(KEY, tmp_path / "large", Version('"another"'))
    assert store.get_with_version(KEY) == (b"first", version)
    version = store.replace(KEY, tmp_path / "large", version)
    assert store.get_with_version(KEY) == (LARGE, version)


def test_a_deleted_object_can_be_made_anew(store):
    store.put_new(KEY, b"first")
    store.delete(KEY)
    store.put_new(KEY, b"second")
    assert store.get(KEY) == b"second"


def test_a_version_is_replaced_once(store):
    first = store.put_new(KEY, b"1")
    second = store.replace(KEY, b"2", first)
    assert first != second
    with pytest.raises(ChangedError, match="changed or deleted") as caught:
        store.replace(KEY, b"3", first)
    assert KEY in str(caught.value)
    assert store.get_with_version(KEY) == (b"2", second)
    assert store.stat(KEY).version == second


def test_a_swap_makes_an_object_or_replaces_the_version_that_was_read(store):
    first = store.swap(KEY, b"1", None)
    with pytest.raises(ChangedError, match="already there"):
        store.swap(KEY, b"another", None)
    second = store.swap(KEY, b"2", first)
    with pytest.raises(ChangedError, match="changed or deleted"):
        store.swap(KEY, b"another", first)
    assert store.get_with_version(KEY) == (b"2", second)


def test_what_is_gone_is_not_replaced(store):
    version = store.put_new(KEY, b"1")
    store.delete(KEY)
    with pytest.raises(ChangedError):
        store.replace(KEY, b"2", version)
    assert not store.exists(KEY)


@pytest.mark.parametrize("write", ["put", "put_new", "replace"])
def test_each_way_of_writing_returns_the_version_that_can_be_replaced(store, write):
    if write == "replace":
        version = store.replace(KEY, b"1", store.put(KEY, b"0"))
    else:
        version = getattr(store, write)(KEY, b"1")
    store.replace(KEY, b"2", version)
    assert store.get(KEY) == b"2"


def test_of_many_threads_that_make_an_object_one_succeeds(store):
    for _ in range(5):
        barrier = threading.Barrier(8)
        with ThreadPoolExecutor(8) as threads:
            made = [
                number for number in threads.map(make, [store] * 8, [barrier] * 8, range(8)) if number is not None
            ]
        assert len(made) == 1
        assert store.get(KEY) == f"from {made[0]}".encode()
        store.delete(KEY)


def test_of_two_processes_that_make_an_object_one_succeeds(store):
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as shared, ProcessPoolExecutor(2, mp_context=spawn) as processes:
        for _ in range(5):
            barrier = shared.Barrier(2)
            made = [n for n in processes.map(make, [store] * 2, [barrier] * 2, range(2)) if n is not None]
            assert len(made) == 1
            assert store.get(KEY) == f"from {made[0]}".encode()
            store.delete(KEY)


def increment(url, tell=print):
    """Count to five in a store that others count in."""
    store = open_store(url, RetryPolicy(max_pause_s=0.01))
    for _ in range(5):
        while True:
            count, version = store.get_with_version(KEY)
            try:
                wait_for_store(store, partial(store.replace, KEY, str(int(count) + 1).encode(), version), tell)
                break
            except ChangedError:
                continue


def test_no_increment_of_a_counter_is_lost(store):
    store.put_new(KEY, b"0")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(increment, [store.url] * 8))
    assert store.get(KEY) == b"40"


FROZEN = """
import os, signal, sys
from cluster.store import Version, open_store
url, key, version, moment = sys.argv[1:]
rename = os.replace
def freeze(source, target):
    if moment == "before":
        os.kill(os.getpid(), signal.SIGSTOP)
    rename(source, target)
    if moment == "after":
        os.kill(os.getpid(), signal.SIGSTOP)
os.replace = freeze
open_store(url).replace(key, b"1", Version(version))
"""


@contextmanager
def frozen(store, version, moment):
    """Run a process that replaces the version and is stopped just before, or just after, it has."""
    with subprocess.Popen([sys.executable, "-c", FROZEN, store.url, KEY, version, moment]) as process:
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def impatient(tmp_path, monkeypatch):
    """A folder whose lock is not waited for long."""
    monkeypatch.setattr("cluster.store.folder.LOCK_LIMIT_S", 0.2)
    return open_store(tmp_path.as_uri())


@pytest.mark.parametrize("moment", ["before", "after"])
def test_who_is_stopped_while_it_replaces_an_object_is_named_to_others_and_loses_nothing(impatient, moment):
    first = impatient.put_new(KEY, b"0")
    with frozen(impatient, first, moment) as process:
        data, version = impatient.get_with_version(KEY)
        assert data == (b"0" if moment == "before" else b"1")
        with pytest.raises(UnavailableError, match=rf"process {process.pid} on .*\.metasr\.lock.*kill -CONT"):
            impatient.replace(KEY, b"lost", version)
        process.send_signal(signal.SIGCONT)
        assert process.wait(PATIENCE_S) == 0
    with pytest.raises(ChangedError):
        impatient.replace(KEY, b"lost", first)
    data, version = impatient.get_with_version(KEY)
    assert data == b"1"
    impatient.replace(KEY, b"2", version)


def test_who_is_killed_while_it_replaces_an_object_keeps_nobody_else_from_it(impatient):
    version = impatient.put_new(KEY, b"0")
    with frozen(impatient, version, "before") as process:
        process.kill()
        process.wait(PATIENCE_S)
        impatient.replace(KEY, b"2", version)
    assert impatient.get(KEY) == b"2"


def test_of_many_that_wait_for_a_stopped_holder_none_loses_a_change(impatient):
    version = impatient.put_new(KEY, b"0")
    waited = threading.Event()

    with frozen(impatient, version, "before") as process, ThreadPoolExecutor(8) as threads:
        counting = [threads.submit(increment, impatient.url, lambda line: waited.set()) for _ in range(8)]
        assert waited.wait(PATIENCE_S)
        process.send_signal(signal.SIGCONT)
        assert process.wait(PATIENCE_S) == 0
        for one in counting:
            one.result(PATIENCE_S)
    assert impatient.get(KEY) == b"41"
