import base64
import copy
import hashlib
import multiprocessing
import os
import re
import subprocess
import sys
import tracemalloc
import uuid
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime

import pytest

from cluster.store import DamagedError, NotThereError, RetryPolicy, Version, open_store
from cluster.store.s3 import S3Store
from metasr.errors import StoreError
from tests.patience import PATIENCE_S

KEY = "train/000001.tar"
BAD_KEYS = [
    "",
    "/",
    "{folder}/outside",
    "..",
    "../outside",
    "a/../../outside",
    "a/..",
    ".",
    "./a",
    "a//b",
    "a/",
    "a\\b",
    "a\0b",
]


@pytest.fixture
def s3_store(s3_url):
    return open_store(f"{s3_url}/{uuid.uuid4().hex}")


@pytest.fixture(params=["folder", "s3"])
def absent_store(request, tmp_path):
    if request.param == "folder":
        return open_store(str(tmp_path / "absent"))
    request.getfixturevalue("s3_url")
    return open_store("s3://no-such-bucket/prefix")


def files_under(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# Both kinds of store


def test_a_store_knows_whether_it_is_a_folder_with_a_disk_that_can_be_full(store, tmp_path):
    is_folder = store.url.startswith("file:")
    assert store.is_local == is_folder
    assert (store.free_bytes() is None) != is_folder
    assert open_store(str(tmp_path / "not" / "there" / "yet")).free_bytes() > 0


def test_the_first_parts_of_keys_are_listed_in_order(store):
    assert store.names() == ()
    for key in ("b/1/x", "b/2", "a", "c/1"):
        store.put(key, b"1")
    assert store.names() == ("a", "b", "c")


def test_the_time_of_writing_is_that_of_the_server(store):
    assert store.written(KEY) is None
    store.put(KEY, b"1")
    assert abs((datetime.now(UTC) - store.written(KEY)).total_seconds()) < 60


def test_what_lies_below_a_prefix_is_removed_and_nothing_else(store):
    for key in ("runs/a/state", "runs/a/step/bundle/weights", "runs/ab", "b"):
        store.put(key, b"x")
    store.remove_all("runs/a", ["runs/a/state", "runs/a/step/bundle/weights", "runs/a/never-written"])
    store.remove_all("runs/a", ["runs/a/state"])
    found = [key for key in ("runs/a/state", "runs/a/step/bundle/weights", "runs/ab", "b") if store.exists(key)]
    assert found == ["runs/ab", "b"]
    with pytest.raises(StoreError, match="cannot use the key"):
        store.remove_all("..", [])


def test_a_folder_removes_what_was_not_named_and_the_folders_that_it_leaves_empty(tmp_path):
    store = open_store(str(tmp_path / "store"))
    store.replace("runs/a/ledger", b"2", store.put("runs/a/ledger", b"1"))  # which leaves a lock
    store.remove_all("runs/a", [])
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"bytes\0\xff", os.urandom(9 << 20)], ids=["empty", "small", "9 MiB"])
def test_get_returns_what_was_put(store, data):
    store.put(KEY, data)
    assert store.get(KEY) == data


def test_a_file_is_stored_like_its_bytes(store, tmp_path):
    (tmp_path / "file").write_bytes(data := os.urandom(100_000))
    assert store.put(KEY, tmp_path / "file") == store.put("copy", data)
    assert store.get(KEY) == data


@pytest.mark.parametrize("num_bytes", [1000, 17 << 20], ids=["whole", "in parts"])
def test_bytes_whose_sha256_the_caller_knows_are_stored_like_others(store, num_bytes):
    data = os.urandom(num_bytes)
    sha256 = hashlib.sha256(data).hexdigest()
    assert store.put(KEY, data, sha256=sha256) == store.put("other", data)
    assert store.holds(KEY, sha256, num_bytes)
    assert store.get(KEY, sha256=sha256) == data


def test_bytes_that_changed_since_their_sha256_was_computed_are_not_taken_by_a_bucket(s3_url):
    store = open_store(f"{s3_url}/{uuid.uuid4().hex}", RetryPolicy(attempts=2, first_pause_s=0.01))
    with pytest.raises(DamagedError, match="not those that were sent"):
        store.put(KEY, b"changed", sha256=hashlib.sha256(b"sealed").hexdigest())
    assert not store.exists(KEY)


def test_a_file_that_cannot_be_read_is_named(store, tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(StoreError, match=f"cannot read the file {path}"):
            store.put(KEY, path)


def test_put_replaces(store):
    store.put(KEY, b"a long first version")
    store.put(KEY, b"second")
    assert store.get(KEY) == b"second"


@pytest.mark.parametrize("key", ["a b.json", "été.json", "a+b%20c?d#e&f.json", "~/x", ".hidden", "a/b/c/d"])
def test_keys_are_taken_literally(store, key):
    store.put(key, b"x")
    assert store.get(key) == b"x"
    assert store.exists(key)


def test_objects_exist_once_put(store):
    assert not store.exists(KEY)
    store.put(KEY, b"x")
    assert store.exists(KEY)


def test_stat_tells_length_and_version(store):
    assert store.stat(KEY) is None
    version = store.put(KEY, b"twelve bytes")
    assert store.stat(KEY) == (12, version)


def test_a_store_says_whether_it_holds_certain_bytes(store):
    digest = hashlib.sha256(b"right").hexdigest()
    assert not store.holds(KEY, digest, 5)
    store.put(KEY, b"right")
    assert store.holds(KEY, digest, 5)
    assert not store.holds(KEY, digest, 4)
    store.put(KEY, b"wrong")
    assert not store.holds(KEY, digest, 5)


def test_deleting_is_done_once_and_for_all(store):
    store.put(KEY, b"x")
    store.put("train/other", b"y")
    for _ in range(2):
        store.delete(KEY)
        assert not store.exists(KEY)
    store.delete("train")
    assert store.get("train/other") == b"y"


def test_bytes_are_returned_if_they_are_those_expected(store):
    store.put(KEY, b"right")
    digest = hashlib.sha256(b"right").hexdigest()
    assert store.get(KEY, sha256=digest, num_bytes=5) == b"right"
    assert store.get(KEY, sha256=digest.upper()) == b"right"


@pytest.mark.parametrize(
    "expected", [{"num_bytes": 4}, {"num_bytes": 0}, {"sha256": hashlib.sha256(b"wrong").hexdigest()}]
)
def test_other_bytes_than_expected_are_not_returned(store, expected):
    store.put(KEY, b"right")
    with pytest.raises(DamagedError, match="expected") as caught:
        store.get(KEY, **expected)
    assert KEY in str(caught.value)
    assert store.url in str(caught.value)


def most_memory(action):
    """Bytes that an action has at a time."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_object_is_in_memory_once_while_it_is_read(store):
    store.put(KEY, os.urandom(32 << 20))
    assert most_memory(lambda: store.get(KEY)) < 1.25 * (32 << 20)
    assert most_memory(lambda: store.get_range(KEY, 0, 32 << 20)) < 1.25 * (32 << 20)


def test_an_object_of_another_length_is_refused_without_being_read(store):
    store.put(KEY, os.urandom(32 << 20))

    def read():
        with pytest.raises(DamagedError, match="its 33554432 bytes are not the 1000 bytes expected"):
            store.get(KEY, sha256=hashlib.sha256(b"").hexdigest(), num_bytes=1000)

    assert most_memory(read) < 4 << 20


@pytest.mark.parametrize(("start", "length"), [(0, 1), (0, 10), (3, 4), (9, 1)])
def test_a_range_is_exactly_these_bytes(store, start, length):
    store.put(KEY, b"0123456789")
    assert store.get_range(KEY, start, length) == b"0123456789"[start : start + length]


@pytest.mark.parametrize(("start", "length"), [(0, 11), (9, 2), (10, 1), (99, 5)])
def test_a_range_that_is_not_there_is_an_error(store, start, length):
    store.put(KEY, b"0123456789")
    with pytest.raises(DamagedError, match="it ends before that"):
        store.get_range(KEY, start, length)


def test_a_range_of_a_missing_object_is_an_error(store):
    store.put(KEY, b"x")
    with pytest.raises(NotThereError, match="no such object"):
        store.get_range("absent", 0, 1)


def test_a_folder_of_objects_is_no_object(store):
    store.put(KEY, b"x")
    assert not store.exists("train")
    with pytest.raises(StoreError, match="no such object"):
        store.get("train")


@pytest.mark.parametrize("key", ["absent.json", "train/absent", f"{KEY}/below"])
def test_a_missing_object_is_named_with_its_store(store, key):
    store.put(KEY, b"x")
    assert not store.exists(key)
    with pytest.raises(StoreError, match="no such object") as caught:
        store.get(key)
    assert key in str(caught.value)
    assert store.url in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_that_could_leave_the_store_is_refused(store, tmp_path, key):
    key = key.format(folder=tmp_path)
    uses = (
        lambda: store.put(key, b"x"),
        lambda: store.put_new(key, b"x"),
        lambda: store.replace(key, b"x", Version("any")),
        lambda: store.get(key),
        lambda: store.get_range(key, 0, 1),
        lambda: store.exists(key),
        lambda: store.stat(key),
        lambda: store.delete(key),
    )
    for use in uses:
        with pytest.raises(StoreError, match="cannot use the key"):
            use()
    assert files_under(tmp_path) == []


def test_two_prefixes_are_two_stores(store):
    one, other = open_store(f"{store.url}/one"), open_store(f"{store.url}/other")
    one.put(KEY, b"one")
    assert not other.exists(KEY)
    assert store.get(f"one/{KEY}") == b"one"


def test_require_accepts_a_store_that_is_there(store):
    store.put(KEY, b"x")
    store.require()


def test_a_store_that_is_not_there_is_named(absent_store):
    for use in (absent_store.require, lambda: absent_store.get(KEY)):
        with pytest.raises(StoreError, match=r"(folder|bucket) does not exist") as caught:
            use()
        assert absent_store.url in str(caught.value)
        assert caught.value.fix
        assert "\n" not in str(caught.value)
    assert not absent_store.exists(KEY)


def test_another_process_uses_a_store_already_in_use(store):
    store.put(KEY, b"ours")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn) as worker:
        assert worker.submit(store.get, KEY).result(timeout=PATIENCE_S) == b"ours"
        worker.submit(store.put, KEY, b"theirs").result(timeout=PATIENCE_S)
    assert store.get(KEY) == b"theirs"


def test_importing_the_module_imports_no_boto3():
    code = "import sys, cluster.store; sys.exit('boto3' in sys.modules or 'botocore' in sys.modules)"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


# URLs


@pytest.mark.parametrize("url", ["file://{}", "file:{}", "FILE://localhost{}", "{}"])
def test_a_folder_has_several_urls(tmp_path, url):
    open_store(url.format(tmp_path)).put(KEY, b"x")
    assert (tmp_path / KEY).read_bytes() == b"x"


@pytest.mark.parametrize("url", ["file:sub/dir", "sub/dir", "./sub/dir"])
def test_a_relative_folder_means_the_same_everywhere(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    url = open_store(url).url
    monkeypatch.chdir("/")
    open_store(url).put(KEY, b"x")
    assert (tmp_path / "sub" / "dir" / KEY).read_bytes() == b"x"


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_store("~/runs").url == (tmp_path / "runs").as_uri()


def test_the_url_of_a_folder_opens_it_again_whatever_its_name(tmp_path):
    store = open_store(str(tmp_path / "50% é #1?"))
    store.put(KEY, b"x")
    assert open_store(store.url).get(KEY) == b"x"


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "S3://bucket//"])
def test_a_bucket_needs_no_prefix(url):
    assert open_store(url).url == "s3://bucket"


@pytest.mark.parametrize(
    "url",
    ["http://u:hush@h/b", "gs://bucket", "s3:/bucket", "s3://", "s3:///x", "s3://u:hush@bucket", "file://host/x", ""],
)
def test_a_url_of_no_store_is_refused_without_repeating_it(url):
    with pytest.raises(StoreError, match=re.escape("s3://bucket/prefix, file:///folder")) as caught:
        open_store(url)
    assert "hush" not in str(caught.value)


def test_an_s3_prefix_is_checked_like_a_key():
    with pytest.raises(StoreError, match="cannot use the key"):
        open_store("s3://bucket/a/../b")


# S3


def test_put_sends_a_sha256_that_the_server_keeps(s3_store):
    s3_store.put(KEY, b"checked")
    head = s3_store._client.head_object(**s3_store._object(KEY), ChecksumMode="ENABLED")
    assert head["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(b"checked").digest()).decode()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_does_not_share_connections(s3_store):
    s3_store.put(KEY, b"x")
    client = s3_store._client
    fork = multiprocessing.get_context("fork")
    receive, send = fork.Pipe(duplex=False)
    with receive, send:
        child = fork.Process(target=lambda: send.send((s3_store.get(KEY), s3_store._client is client)))
        child.start()
        assert receive.poll(120)
        assert receive.recv() == (b"x", False)
        child.join()
    assert s3_store._client is client


def test_a_store_that_is_sent_to_another_process_stores_in_parts_of_the_same_size(s3_url):
    bucket, _, prefix = f"{s3_url}/{uuid.uuid4().hex}".removeprefix("s3://").partition("/")
    here = S3Store(bucket, prefix, RetryPolicy(attempts=2), part_bytes=5 << 20)
    there = copy.copy(here)
    data = os.urandom(6 << 20)
    assert there.put("there", data) == here.put("here", data)  # an ETag tells the number of parts
    assert (there.url, there.retries.policy) == (here.url, here.retries.policy)
