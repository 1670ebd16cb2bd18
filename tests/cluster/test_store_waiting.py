"""Waiting for a store that is away: how often it is said, what ends it, and what is an answer."""

import copy
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.store import (
    BusyError,
    NotThereError,
    RetryPolicy,
    StoreWait,
    UnavailableError,
    WaitingStore,
    open_store,
    wait_while_busy,
)
from tests.cluster.fault_proxy import Answer, FaultProxy, always
from tests.patience import PATIENCE_S

AWAY = UnavailableError("cannot read 'a'", "no connection", "Wait")


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path), RetryPolicy(max_pause_s=0.01))


@pytest.fixture
def told():
    return []


def test_however_many_threads_wait_it_is_said_once_that_the_store_is_away_and_once_that_it_is_back(store, told):
    together, thread = threading.Barrier(8), threading.local()

    def action():
        together.wait(PATIENCE_S)  # a second time only when all have failed once, and wait
        if not hasattr(thread, "has_failed"):
            thread.has_failed = True
            raise AWAY
        return "read"

    wait = StoreWait(store, told.append, "training goes on")
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(wait.run, [action] * 8)) == ["read"] * 8
    away, back = told
    assert away == f"training goes on: {AWAY}"
    assert re.fullmatch(rf"{re.escape(store.url)} is back after \d+ s", back)


def test_a_wait_that_is_closed_ends_with_the_error_of_the_store(store, told):
    closed = threading.Event()

    def action():
        closed.set()
        raise AWAY

    with pytest.raises(UnavailableError, match="no connection"):
        StoreWait(store, told.append).run(action, closed)
    assert told == [f"waiting for the store: {AWAY}"]


def test_an_object_that_is_not_there_is_an_answer_that_ends_the_wait(store, told):
    errors = [AWAY, AWAY, NotThereError("cannot read 'a'")]

    def action():
        raise errors.pop(0)

    with pytest.raises(NotThereError):
        StoreWait(store, told.append).run(action)
    (back,) = told[1:]
    assert back.startswith(f"{store.url} is back after ")


def test_a_store_that_waits_is_a_store_like_any_other(store, told, tmp_path):
    waiting = WaitingStore(store, told.append)
    version = waiting.put_new("a", b"1")
    version = waiting.replace("a", b"22", version)
    assert waiting.get_with_version("a") == (b"22", version)
    assert waiting.get_range("a", 1, 1) == b"2"
    assert waiting.stat("a") == (2, version)
    assert waiting.holds("a", version, 2)
    waiting.require()
    waiting.delete("a")
    assert not waiting.exists("a")
    with pytest.raises(NotThereError, match="cannot read 'a'"):
        waiting.get("a")
    assert copy.copy(waiting).url == store.url
    assert told == []


def test_at_the_start_a_server_that_asks_for_patience_gets_it_and_one_that_is_not_there_does_not(store, told):
    answers = [BusyError("cannot read 'a'", "SlowDown"), BusyError("cannot read 'a'", "SlowDown"), AWAY]

    def action():
        raise answers.pop(0)

    with pytest.raises(UnavailableError, match="no connection"):
        wait_while_busy(store, action, told.append)
    assert answers == []
    assert told == ["waiting for the store: cannot read 'a': SlowDown"]


@pytest.mark.parametrize("body", [b"", b"<Error><Code>SlowDown</Code></Error>"])
def test_a_bucket_that_asks_for_patience_is_told_from_one_that_is_away(s3_url, monkeypatch, body):
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], always(Answer(503, body))) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with pytest.raises(BusyError):
            open_store(s3_url, RetryPolicy(attempts=1)).require()
