"""Crops through faults: the same as without, or the error that names the shard, or another in its place."""

import logging
import os
import shutil
import threading
import uuid
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from cluster.store import DamagedError, FolderStore, NotThereError, RetryPolicy, open_store
from cluster.store.s3 import S3Store
from cluster.stream import ShardCache, ShardCrops, read_index, shard_cache
from cluster.stream.verified import ShardReader
from metasr.data.crops import MemoryCrops
from metasr.data.order import SampleOrder
from metasr.errors import DataError, StoreError
from tests.cluster.fault_proxy import Answer, CutShort, FaultProxy, Flip, Refuse, Reset, Slow, Stall, first, mixed
from tests.cluster.plain_shards import write_index, write_shard
from tests.patience import PATIENCE_S

SIZES = (5, 5, 3, 5, 4, 6)
NAMES = [f"train-{number:06d}.tar" for number in range(len(SIZES))]
IN_MEMORY, BY_WINDOW = {"keep_bytes": 1e9}, {"keep_bytes": 0}
KEPT = pytest.mark.parametrize("kept", [IN_MEMORY, BY_WINDOW], ids=["in memory", "by window"])
QUICK = RetryPolicy(attempts=4, first_pause_s=0.001, max_pause_s=0.002, connect_s=5, stall_s=10, deadline_s=60)
TWICE = RetryPolicy(attempts=2, first_pause_s=0.001, max_pause_s=0.002, connect_s=5, stall_s=10, deadline_s=60)
BATCH, NUM_VIRTUAL_SHARDS = 4, 4


@pytest.fixture(scope="module")
def crops():
    return np.random.default_rng(0).random((sum(SIZES), 9, 9)).astype(np.float16)


@pytest.fixture(scope="module")
def original(crops, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    parts = np.split(crops, np.cumsum(SIZES)[:-1])
    shards = [write_shard(folder, name, part, "one") for name, part in zip(NAMES, parts, strict=True)]
    write_index(folder, [*shards, write_shard(folder, "val-000000.tar", crops[:2], "two")])
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """A copy, to be damaged."""
    return shutil.copytree(original, tmp_path / "shards")


@pytest.fixture
def through(s3_url, original, monkeypatch):
    """Open a bucket with the shards through a proxy with a plan."""
    upstream = os.environ["AWS_ENDPOINT_URL"]
    bucket, _, prefix = f"{s3_url}/{uuid.uuid4().hex}".removeprefix("s3://").partition("/")
    plain = S3Store(bucket, prefix, QUICK)
    for path in original.iterdir():
        plain.put(path.name, path.read_bytes())
    with ExitStack() as proxies:

        def open_through(plan, policy=QUICK):
            proxy = proxies.enter_context(FaultProxy(upstream, plan))
            store = S3Store(bucket, prefix, policy)
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            assert store._client  # made now, with this endpoint
            monkeypatch.setenv("AWS_ENDPOINT_URL", upstream)
            return store

        yield open_through


def source_of(store, folder, cache=None, **options):
    return ShardCrops(store, read_index(open_store(str(folder))), cache, **options)


def batches(source, steps=20, rank=0, workers=1):
    """What a worker gets in the first steps."""
    order = SampleOrder(SIZES, 2, seed=1, num_virtual_shards=NUM_VIRTUAL_SHARDS)
    part = slice(BATCH * rank // workers, BATCH * (rank + 1) // workers)
    return torch.stack(list(islice(source.stream(order, first_step=0, batch_size=BATCH, part=part), steps)))


@pytest.fixture(scope="module")
def expected(crops):
    return batches(in_memory(crops))


def in_memory(crops):
    return MemoryCrops(torch.from_numpy(crops)[:, None])


# On the way


def test_a_shard_that_is_downloaded_again_is_checked_by_the_quick_checksum_alone(through, original, monkeypatch):
    gets = []

    def third_is_damaged(number, method, path):
        if method != "GET" or not path.endswith(NAMES[0]):
            return None
        gets.append(path)
        return Flip(2000) if len(gets) == 3 else None

    index = read_index(open_store(str(original)))
    reader, shard = ShardReader(through(third_is_damaged), index), index.shards[0]
    first_time = reader.read(shard)
    with monkeypatch.context() as without:
        without.setattr("hashlib.sha256", lambda *_: pytest.fail("SHA-256 was asked for"))
        assert_same(reader.read(shard), first_time)
    assert_same(reader.read(shard), first_time)
    assert len(gets) == 4  # what was damaged on the way was fetched once more


def test_a_shard_that_was_read_from_a_copy_is_checked_by_sha256_when_it_first_comes_from_the_store(
    original, tmp_path
):
    store = FolderStore(original)
    index = read_index(store)
    shard = index.shards[0].model_copy(update={"sha256": "0" * 64})  # as if other bytes had its XXH3
    (tmp_path / shard.sha256).write_bytes((original / shard.name).read_bytes())
    reader = ShardReader(store, index, ShardCache(tmp_path, 10**9))
    assert reader.read(shard)
    (tmp_path / shard.sha256).unlink()
    with pytest.raises(DamagedError, match="SHA-256"):
        reader.read(shard)


def assert_same(samples, others):
    for one, other in zip(samples, others, strict=True):
        assert (one.subject, one.slice) == (other.subject, other.slice)
        np.testing.assert_array_equal(one.image, other.image)


FAULTS = {
    "reset": (Reset(1000), "connection"),
    "reset before the answer": (Reset(), "connection"),
    "cut short": (CutShort(1000), "short body"),
    "stalled": (Stall(1000), "stall"),
    "flipped bit": (Flip(2000), "wrong body"),
    "500": (Answer(500), "server error"),
    "503": (Answer(503), "server error"),
}


@pytest.mark.parametrize(("fault", "reason"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("on_corrupt", ["stop", "skip"])
def test_a_fault_on_the_way_changes_no_crop_and_is_counted(through, original, expected, fault, reason, on_corrupt):
    store = through(first(2, fault, "GET"), replace(QUICK, stall_s=1) if reason == "stall" else QUICK)
    source = source_of(store, original, on_corrupt=on_corrupt)
    assert torch.equal(batches(source), expected)
    assert store.retries.counts == {reason: 2}
    assert source.substituted == []


def test_a_slow_store_changes_no_crop(through, original, expected):
    store = through(lambda *_: Slow(100_000))
    source = source_of(store, original)
    assert torch.equal(batches(source), expected)
    assert not store.retries.counts
    assert source.waited_s > 0


@pytest.mark.parametrize("seed", [1, 2])
def test_crops_are_the_same_while_a_third_of_all_requests_fails(through, original, expected, tmp_path, seed):
    faults = [fault for fault, _ in FAULTS.values() if not isinstance(fault, Stall)]
    store = through(mixed(seed, 1 / 3, faults))
    cache = shard_cache(store, str(tmp_path / "cache"), 1)
    source = source_of(store, original, cache, on_corrupt="skip", **BY_WINDOW)
    assert torch.equal(batches(source), expected)
    assert store.retries.counts.total() > 0
    assert source.substituted == []


@pytest.mark.parametrize("on_corrupt", ["stop", "skip"])
def test_a_bit_that_flips_at_the_last_try_is_no_damage_at_the_source(through, original, expected, on_corrupt):
    faults = [Answer(500), Flip(2000)]
    store = through(lambda number, *_: faults[number] if number < len(faults) else None, TWICE)
    source = source_of(store, original, num_threads=1, on_corrupt=on_corrupt)
    assert torch.equal(batches(source), expected)
    assert source.substituted == []


# Away


AWAY = {"nobody listens": Refuse(), "503": Answer(503), "cut short": CutShort(1000)}


@pytest.mark.parametrize("fault", AWAY.values(), ids=AWAY)
@pytest.mark.parametrize("on_corrupt", ["stop", "skip"])
def test_while_the_store_is_away_the_stream_waits_and_says_so_once(
    through, original, expected, caplog, fault, on_corrupt
):
    store = through(first(25, fault, "GET"), TWICE)
    source = source_of(store, original, num_threads=1, on_corrupt=on_corrupt)
    assert torch.equal(batches(source), expected)
    away, back = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert away.startswith("waiting for the store: ")
    assert "train-" in away
    assert back.startswith(f"{store.url} is back after ")
    assert source.substituted == []


def test_what_is_in_the_cache_is_trained_on_while_the_store_is_away(through, original, expected, tmp_path, caplog):
    store = through(lambda *_: None)
    batches(source_of(store, original, shard_cache(store, str(tmp_path / "cache"), 1)))
    away = through(lambda *_: Refuse(), TWICE)
    source = source_of(away, original, shard_cache(away, str(tmp_path / "cache"), 1), **BY_WINDOW)
    assert torch.equal(batches(source), expected)
    assert not caplog.records


def test_a_stream_that_is_closed_while_the_store_is_away_ends_its_threads(through, original):
    gone = threading.Event()
    store = through(lambda *_: Refuse() if gone.is_set() else None, TWICE)
    source = source_of(store, original, num_threads=1, **BY_WINDOW)
    order = SampleOrder(SIZES, 1, seed=1)
    before = set(threading.enumerate())
    stream = source.stream(order, first_step=0, batch_size=1, part=slice(0, 1))
    next(stream)
    gone.set()
    threads = [thread for thread in set(threading.enumerate()) - before if thread.daemon and "_work" in thread.name]
    stream.close()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert threads
    assert not any(thread.is_alive() for thread in threads)


# At the source


def flip_a_pixel(path):
    data = bytearray(path.read_bytes())
    assert data[1536:1542] == b"\x93NUMPY"  # a first image, with a header of 128 bytes
    data[1536 + 128 + 40] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "bit flipped": flip_a_pixel,
    "truncated": lambda path: os.truncate(path, 1500),
    "missing": lambda path: path.unlink(),
}
KINDS = pytest.mark.parametrize("kind", DAMAGE)


@KINDS
@KEPT
def test_a_damaged_shard_is_named_when_it_is_needed_and_not_before(folder, kind, kept):
    source = source_of(open_store(str(folder)), folder, **kept)
    order = SampleOrder(source.shard_sizes, 1, seed=0)
    window = next(islice(order.windows(0, 0), 2, None))
    name = NAMES[window.shards[0]]
    DAMAGE[kind](folder / name)
    stream = source.stream(order, first_step=0, batch_size=1, part=slice(0, 1))
    for _ in range(window.start):
        next(stream)
    with pytest.raises((DataError, StoreError), match=name):
        next(stream)


@KINDS
def test_damage_to_a_shard_that_was_read_before_is_found_too(folder, kind):
    source = source_of(open_store(str(folder)), folder, **BY_WINDOW)
    order = SampleOrder(source.shard_sizes, 1, seed=0)
    stream = source.stream(order, first_step=0, batch_size=1, part=slice(0, 1))
    for _ in range(2 * len(order)):
        next(stream)
    for name in NAMES:
        DAMAGE[kind](folder / name)
    with pytest.raises((DataError, StoreError), match="train-"):
        list(islice(stream, len(order)))


def stood_in(crops, substituted):
    """The crops with those of shards that were replaced, as `ShardCrops` promises it."""
    parts = np.split(crops, np.cumsum(SIZES)[:-1])
    ours = list(parts)
    for shard, by in ((NAMES.index(found.shard), NAMES.index(found.by)) for found in substituted):
        ours[shard] = parts[by][np.arange(SIZES[shard]) % SIZES[by]]
    return np.concatenate(ours)


@KINDS
@KEPT
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_with_skip_another_shard_stands_in_the_same_on_any_number_of_workers(
    folder, crops, kind, kept, workers, caplog
):
    DAMAGE[kind](folder / NAMES[2])
    parts, noted = [], set()
    for rank in range(workers):
        source = source_of(open_store(str(folder)), folder, on_corrupt="skip", **kept)
        parts.append(batches(source, 30, rank, workers))
        noted |= set(source.substituted)
    (only,) = noted
    assert (only.shard, only.by in NAMES) == (NAMES[2], True)
    assert only.by != NAMES[2]
    assert NAMES[2] in only.reason
    assert torch.equal(torch.cat(parts, dim=1), batches(in_memory(stood_in(crops, noted)), 30))
    assert 1 <= len(caplog.records) <= workers


def test_a_stand_in_may_itself_need_one(folder, crops):
    DAMAGE["missing"](folder / NAMES[0])
    source = source_of(open_store(str(folder)), folder, on_corrupt="skip")
    batches(source)
    (found,) = source.substituted
    DAMAGE["bit flipped"](folder / found.by)
    source = source_of(open_store(str(folder)), folder, on_corrupt="skip")
    ours = batches(source)
    assert {found.shard for found in source.substituted} == {NAMES[0], found.by}
    assert torch.equal(ours, batches(in_memory(stood_in(crops, source.substituted))))


def test_a_missing_object_in_a_bucket_is_an_error_or_replaced(through, original, crops):
    store = through(lambda *_: None)
    store.delete(NAMES[1])
    with pytest.raises(NotThereError, match=NAMES[1]):
        batches(source_of(store, original))
    source = source_of(store, original, on_corrupt="skip")
    ours = batches(source)
    assert torch.equal(ours, batches(in_memory(stood_in(crops, source.substituted))))
    assert [found.shard for found in source.substituted] == [NAMES[1]]


def test_where_nothing_is_left_there_is_no_stand_in(folder):
    for name in NAMES:
        DAMAGE["truncated"](folder / name)
    with pytest.raises(StoreError, match="train-"):
        batches(source_of(FolderStore(folder), folder, on_corrupt="skip"))


def test_a_folder_that_is_gone_is_an_error_and_no_reason_for_stand_ins(folder, tmp_path):
    source = source_of(FolderStore(folder), folder, on_corrupt="skip")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="the folder does not exist"):
        batches(source)
    assert source.substituted == []
