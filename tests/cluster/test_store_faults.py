"""The store in front of a real S3 server, with a proxy between them that breaks requests in chosen ways.

Every operation ends with the right bytes or the right named error, and within its deadline.
"""

import hashlib
import os
import uuid
from contextlib import ExitStack
from dataclasses import replace

import pytest

from cluster.store import AlreadyThereError, DamagedError, RetryPolicy, UnavailableError
from cluster.store.s3 import S3Store
from tests.cluster.fault_proxy import (
    Answer,
    CutShort,
    FaultProxy,
    Flip,
    Refuse,
    Reset,
    Slow,
    Stall,
    always,
    first,
    mixed,
)
from tests.patience import is_quick

KEY = "train/000001.tar"
BODY = os.urandom(300_000)
PART = 5 << 20  # servers take no smaller ones, but for the last
LARGE = os.urandom(2 * PART + 100_000)
SIZES = pytest.mark.parametrize("body", [BODY, LARGE], ids=["whole", "parts"])
QUICK = RetryPolicy(attempts=4, first_pause_s=0.01, max_pause_s=0.02, connect_s=5, stall_s=10, deadline_s=60)
IMPATIENT = replace(QUICK, stall_s=1)
TWICE = RetryPolicy(attempts=2, first_pause_s=0.01, connect_s=5, stall_s=1, deadline_s=60)
SHORT = RetryPolicy(attempts=4, first_pause_s=0.01, connect_s=5, stall_s=5, deadline_s=0.5)
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"

ON_THE_WAY_BACK = {
    "reset": (Reset(100_000), "connection", "no connection to 127"),
    "reset before the answer": (Reset(), "connection", "no connection to 127"),
    "reset before the request": (Refuse(), "connection", "no connection to 127"),
    "stall": (Stall(100_000), "stall", "stopped sending"),
    "cut short": (CutShort(100_000), "short body", "fewer bytes than it promised"),
    "no body": (CutShort(0), "short body", "fewer bytes than it promised"),
    "500": (Answer(500), "server error", "answered 500"),
    "502": (Answer(502, b"<html>Bad Gateway</html>"), "server error", "answered 502"),
    "503": (Answer(503), "server error", "answered 503"),
    "SlowDown": (Answer(503, SLOW_DOWN), "slow down", "fewer requests"),
    "429": (Answer(429), "slow down", "fewer requests"),
}
FLIPPED = {"flipped bit": (Flip(150_000), "wrong body", "not those that were stored")}


@pytest.fixture
def through(s3_url, monkeypatch):
    """Open a store that is reached through a proxy with a plan; all of a test have one prefix."""
    upstream = os.environ["AWS_ENDPOINT_URL"]
    bucket, _, prefix = f"{s3_url}/{uuid.uuid4().hex}".removeprefix("s3://").partition("/")
    with ExitStack() as proxies:

        def open_through(plan, policy=QUICK, part_bytes=PART):
            proxy = proxies.enter_context(FaultProxy(upstream, plan))
            store = S3Store(bucket, prefix, policy, part_bytes)
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            assert store._client  # made now, with this endpoint
            monkeypatch.setenv("AWS_ENDPOINT_URL", upstream)
            return store, proxy

        yield open_through


@pytest.fixture
def plain(through):
    """The same prefix without faults."""
    return through(lambda *_: None)[0]


def cases(table):
    return pytest.mark.parametrize(("fault", "reason", "why"), table.values(), ids=table)


# Reading


@cases(ON_THE_WAY_BACK | FLIPPED)
def test_a_read_that_fails_is_tried_again_and_counted(through, plain, fault, reason, why):
    plain.put(KEY, BODY)
    store, proxy = through(first(1, fault), IMPATIENT if reason == "stall" else QUICK)
    assert store.get(KEY) == BODY
    assert store.retries.counts == {reason: 1}
    assert [seen.fault for seen in proxy.seen] == [fault, None]


@cases(ON_THE_WAY_BACK | FLIPPED)
def test_a_read_that_always_fails_ends_with_the_cause(through, plain, fault, reason, why):
    plain.put(KEY, BODY)
    store, proxy = through(always(fault), TWICE)
    kind = DamagedError if reason == "wrong body" else UnavailableError
    with pytest.raises(kind, match=rf"{KEY}.*{why}.*, tried 2 times in \d s\. \w+"):
        store.get(KEY)
    assert len(proxy.seen) == 2


@cases(ON_THE_WAY_BACK)
def test_a_range_that_fails_is_tried_again(through, plain, fault, reason, why):
    plain.put(KEY, BODY)
    store, _ = through(first(1, fault), IMPATIENT if reason == "stall" else QUICK)
    assert store.get_range(KEY, 1000, 200_000) == BODY[1000:201_000]
    assert store.retries.counts == {reason: 1}


@pytest.mark.parametrize("fault", [Answer(500), Answer(503), Answer(429), Refuse(), Reset()])
@pytest.mark.parametrize("use", ["exists", "stat", "delete", "require"])
def test_questions_that_fail_are_asked_again(through, plain, fault, use):
    plain.put(KEY, BODY)
    store, _ = through(first(2, fault))
    {
        "exists": lambda: store.exists(KEY) or pytest.fail("it is there"),
        "stat": lambda: store.stat(KEY).num_bytes == len(BODY) or pytest.fail("it has another length"),
        "delete": lambda: store.delete(KEY),
        "require": store.require,
    }[use]()
    assert store.retries.counts.total() == 2


def test_a_shard_stored_in_parts_is_verified_as_a_whole(through):
    store, proxy = through(first(1, Flip(150_000), "GET"))
    store.put(KEY, LARGE)
    assert store.get(KEY) == LARGE
    assert store.retries.counts == {"wrong body": 1}
    assert sum("partNumber" in seen.path for seen in proxy.seen) == 3


def test_bytes_that_are_stored_so_are_not_fetched_again(through, plain):
    plain.put(KEY, BODY)
    store, proxy = through(lambda *_: None)
    with pytest.raises(DamagedError, match="its 300000 bytes are not the 300001 bytes expected"):
        store.get(KEY, num_bytes=300_001)
    with pytest.raises(DamagedError, match="not the one expected"):
        store.get(KEY, sha256=hashlib.sha256(b"other").hexdigest())
    assert len(proxy.seen) == 2


def test_what_another_tool_stored_without_a_checksum_is_verified_against_what_is_expected(through, plain):
    plain._client.put_object(**plain._object(KEY), Body=BODY)
    store, _ = through(first(2, Flip(7), "GET"))
    assert store.get(KEY, sha256=hashlib.sha256(BODY).hexdigest(), num_bytes=len(BODY)) == BODY
    assert store.retries.counts == {"wrong body": 2}


def test_a_slow_read_ends_well(through, plain):
    plain.put(KEY, BODY)
    store, _ = through(always(Slow(600_000)))
    assert store.get(KEY) == BODY
    assert not store.retries.counts


def test_a_read_that_trickles_ends_at_the_deadline(through, plain):
    plain.put(KEY, BODY)
    store, _ = through(always(Slow(10_000)), SHORT)

    def read():
        with pytest.raises(UnavailableError, match=r"too slow: it took longer than 0\.5 s"):
            store.get(KEY)

    assert is_quick(read, 5)


# Writing


@pytest.mark.parametrize("fault", [Answer(500), Answer(503, SLOW_DOWN), Refuse(), Reset(), Flip(7, in_request=True)])
@SIZES
def test_a_write_that_fails_is_tried_again(through, plain, fault, body):
    store, _ = through(first(2, fault, "PUT"))
    version = store.put(KEY, body)
    assert store.retries.counts.total() == 2
    assert plain.get_with_version(KEY) == (body, version)


def test_a_server_does_not_take_bytes_damaged_on_the_way(through, plain):
    store, _ = through(always(Flip(7, in_request=True), "PUT"), TWICE)
    with pytest.raises(DamagedError, match="not those that were sent"):
        store.put(KEY, BODY)
    assert not plain.exists(KEY)


@SIZES
def test_a_new_object_whose_answer_was_lost_is_known_as_our_own(through, plain, body):
    # The last request of a write makes the object appear: PUT of a whole one, the second POST of one in parts.
    last = "PUT" if body is BODY else "uploadId"
    broken = []

    def lose_the_last(number, method, path):
        if not broken and (method == last or (method == "POST" and last in path)):
            broken.append(number)
            return Reset()
        return None

    store, _ = through(lose_the_last)
    version = store.put_new(KEY, body)
    assert broken
    assert store.retries.counts == {"connection": 1}
    assert plain.get_with_version(KEY) == (body, version)
    with pytest.raises(AlreadyThereError):
        store.put_new(KEY, body)


@pytest.mark.parametrize("nth", [0, 1], ids=["begin", "end"])
@pytest.mark.parametrize("after", [0, 60])
def test_an_answer_about_an_upload_in_parts_may_be_cut_short(through, plain, nth, after):
    posts = []

    def cut_the_nth(number, method, path):
        posts.extend([number] * (method == "POST"))
        return CutShort(after) if method == "POST" and len(posts) == nth + 1 else None

    store, _ = through(cut_the_nth)
    version = store.put(KEY, LARGE)
    assert store.retries.counts.total() == 1
    assert plain.get_with_version(KEY) == (LARGE, version)


def test_a_replacement_whose_answer_was_lost_is_known_as_our_own(through, plain):
    version = plain.put_new(KEY, b"1")
    store, _ = through(first(1, Reset(), "PUT"))
    version = store.replace(KEY, b"2", version)
    assert plain.get_with_version(KEY) == (b"2", version)


def test_a_new_object_of_another_is_not_taken_for_our_own(through, plain):
    plain.put_new(KEY, BODY)
    store, _ = through(first(1, Answer(500), "PUT"))
    with pytest.raises(AlreadyThereError):
        store.put_new(KEY, BODY)


def test_an_upload_that_fails_leaves_no_parts_behind(through, plain):
    def refuse_the_third(number, method, path):
        return Answer(500) if "partNumber=3" in path else None

    store, proxy = through(refuse_the_third, TWICE)
    with pytest.raises(UnavailableError, match="answered 500"):
        store.put(KEY, LARGE)
    assert proxy.seen[-1].method == "DELETE"
    assert not plain.exists(KEY)
    uploads = plain._client.list_multipart_uploads(Bucket=plain._bucket).get("Uploads", [])
    assert not [upload for upload in uploads if upload["Key"] == plain._object(KEY)["Key"]]


def test_an_upload_may_take_longer_than_a_connection(through, plain):
    body, policy = os.urandom(8 << 20), RetryPolicy(attempts=1, connect_s=1, stall_s=10)
    store, _ = through(first(1, Slow(4 << 20, in_request=True)), policy)
    store.put(KEY, body)
    assert plain.get(KEY) == body


def test_an_upload_that_trickles_ends_at_the_deadline(through):
    store, _ = through(always(Slow(100_000, in_request=True), "PUT"), SHORT)

    def write():
        with pytest.raises(UnavailableError):
            store.put(KEY, os.urandom(8 << 20))

    assert is_quick(write, 8)


# Everything


def test_a_server_that_nobody_listens_for_is_named(through):
    store, proxy = through(lambda *_: None, TWICE)
    proxy.__exit__()
    with pytest.raises(UnavailableError, match=r"no connection to 127\.0\.0\.1:\d+, tried 2 times"):
        store.get(KEY)


@pytest.mark.parametrize("seed", [1, 2])
def test_work_goes_on_while_a_third_of_all_requests_fails(through, plain, seed):
    faults = [fault for fault, *_ in (ON_THE_WAY_BACK | FLIPPED).values() if not isinstance(fault, Stall)]
    draw = mixed(seed, 1 / 3, [*faults, Flip(9, in_request=True)])

    def plan(number, method, path):
        fault = draw(number, method, path)
        # The XML that begins and ends an upload in parts has no checksum: damage to it ends in errors.
        return None if method == "POST" and isinstance(fault, Flip) else fault

    patient = RetryPolicy(attempts=12, first_pause_s=0.001, max_pause_s=0.01, stall_s=5, deadline_s=60)
    store, proxy = through(plan, patient)
    bodies = {f"{size}.tar": os.urandom(size) for size in (0, 1, 10_000, 200_000, 300_000, PART + 1)}
    for key, body in bodies.items():
        version = store.put_new(key, body + b"an older version")
        store.replace(key, body, version)
    for key, body in bodies.items():
        assert store.get(key, sha256=hashlib.sha256(body).hexdigest(), num_bytes=len(body)) == body
        assert plain.get(key) == body
        assert store.stat(key).num_bytes == len(body)
        store.delete(key)
        assert not plain.exists(key)
    assert store.retries.counts.total() > 5
    assert [plan(*seen[:3]) for seen in proxy.seen] == [seen.fault for seen in proxy.seen]
