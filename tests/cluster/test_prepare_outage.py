"""Preparing into a server that is away for a while, and going on in one without fetching what is finished."""

import os
import uuid

import pytest

from cluster.prepare import prepare, verify
from cluster.store import RetryPolicy, UnavailableError, open_store
from tests.cluster.fault_proxy import FaultProxy, Refuse, Reset, always, outages
from tests.cluster.patients import OPTIONS, SUBJECTS

SMALL = OPTIONS.model_copy(update={"shard_mb": 0.03})  # as `original` was prepared
TWICE = RetryPolicy(attempts=2, first_pause_s=0.01, max_pause_s=0.02)


@pytest.fixture
def url(s3_url):
    return f"{s3_url}/{uuid.uuid4().hex}"


@pytest.fixture
def through(url, monkeypatch):
    """Use a store through a proxy with a plan; return what that gives, what was told, and what was asked for."""

    def go(plan, use):
        told = []
        with FaultProxy(os.environ["AWS_ENDPOINT_URL"], plan) as proxy, monkeypatch.context() as environment:
            environment.setenv("AWS_ENDPOINT_URL", proxy.url)
            result = use(open_store(url, TWICE), told.append)
        return result, told, [(seen.method, seen.path) for seen in proxy.seen]

    return go


@pytest.fixture
def prepare_through(volumes, through):
    def use(store, tell):
        return prepare(volumes, store, SMALL, tell, progress=lambda line: None)

    return lambda plan: through(plan, use)


@pytest.mark.parametrize("fault", [Refuse(), Reset()], ids=["before it heard", "before it answered"])
def test_a_server_that_is_away_for_longer_than_a_store_tries_is_waited_for(prepare_through, url, original, fault):
    beginnings = ("/val-000000-", "/prepare/", "/train-000001-", "/index.json")
    report, told, _ = prepare_through(outages(*beginnings, fault=fault))
    assert report.index.to_bytes() == (original / "index.json").read_bytes()
    assert verify(open_store(url), lambda line: None) == report.index
    assert len(told) == 2 * len(beginnings)
    assert all(line.startswith("waiting for the store: ") for line in told[::2])
    assert all(line.startswith(f"{url} is back after ") for line in told[1::2])


def test_verifying_waits_for_a_server_too(prepare_through, through):
    report, _, _ = prepare_through(lambda *_: None)
    index, told, _ = through(outages("/train-000001-", fault=Refuse(), method="GET"), verify)
    assert index == report.index
    assert [line for line in told if "waiting for the store: cannot read" in line] == [told[1]]


def test_a_server_that_is_not_there_from_the_start_is_told_at_once(prepare_through):
    with pytest.raises(UnavailableError, match="cannot write"):
        prepare_through(always(Refuse()))


def test_going_on_in_a_bucket_fetches_no_shard_that_is_finished(prepare_through, original):
    prepare_through(lambda *_: None)
    report, told, seen = prepare_through(lambda *_: None)
    assert report.index.to_bytes() == (original / "index.json").read_bytes()
    assert told == [
        "verifying the finished shards",
        f"4 shards with {len(SUBJECTS)} subjects are finished: continuing after them",
    ]
    assert {method for method, path in seen if ".tar" in path} == {"HEAD"}
