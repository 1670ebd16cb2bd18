"""Preparing into a server that is away for a while, and going on in one without fetching what is finished."""

import os
import uuid

import pytest

from cluster.prepare import prepare, verify
from cluster.store import RetryPolicy, UnavailableError, open_store
from tests.cluster.fault_proxy import FaultProxy, Refuse, Reset, always
from tests.cluster.patients import OPTIONS, SUBJECTS

SMALL = OPTIONS.model_copy(update={"shard_mb": 0.03})  # as `original` was prepared
TWICE = RetryPolicy(attempts=2, first_pause_s=0.01, max_pause_s=0.02)


@pytest.fixture
def url(s3_url):
    return f"{s3_url}/{uuid.uuid4().hex}"


@pytest.fixture
def prepare_through(volumes, url, monkeypatch):
    """Prepare through a proxy with a plan; return the report, what was told, and what was asked for."""

    def go(plan):
        told = []
        with FaultProxy(os.environ["AWS_ENDPOINT_URL"], plan) as proxy, monkeypatch.context() as environment:
            environment.setenv("AWS_ENDPOINT_URL", proxy.url)
            report = prepare(volumes, open_store(url, TWICE), SMALL, told.append, progress=lambda line: None)
        return report, told, [(seen.method, seen.path) for seen in proxy.seen]

    return go


def outages(*beginnings, fault, requests=7):
    """Plan that the server is away for so many requests, each time that an object is first written."""
    waiting, left = list(beginnings), 0

    def plan(number, method, path):
        nonlocal left
        if waiting and method == "PUT" and waiting[0] in path:
            waiting.pop(0)
            left = requests
        left -= 1
        return fault if left >= 0 else None

    return plan


@pytest.mark.parametrize("fault", [Refuse(), Reset()], ids=["before it heard", "before it answered"])
def test_a_server_that_is_away_for_longer_than_a_store_tries_is_waited_for(prepare_through, url, original, fault):
    beginnings = ("/val-000000-", "/prepare/", "/train-000001-", "/index.json")
    report, told, _ = prepare_through(outages(*beginnings, fault=fault))
    assert report.index.to_bytes() == (original / "index.json").read_bytes()
    assert verify(open_store(url), lambda line: None) == report.index
    assert len(told) == len(beginnings)
    assert all(line.startswith("waiting for the store: ") for line in told)


def test_a_server_that_is_not_there_from_the_start_is_told_at_once(prepare_through):
    with pytest.raises(UnavailableError, match="cannot write"):
        prepare_through(always(Refuse()))


def test_going_on_in_a_bucket_fetches_no_shard_that_is_finished(prepare_through, original):
    prepare_through(lambda *_: None)
    report, told, seen = prepare_through(lambda *_: None)
    assert report.index.to_bytes() == (original / "index.json").read_bytes()
    assert told == [
        "looking whether the shards that are finished are whole",
        f"4 shards with {len(SUBJECTS)} subjects are finished: going on after them",
    ]
    assert {method for method, path in seen if ".tar" in path} == {"HEAD"}
