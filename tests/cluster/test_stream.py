"""Crops streamed from shards: the same as from memory, from any step, for any number of workers."""

import uuid
from itertools import islice

import pytest
import torch

from cluster.config import StorageConfig
from cluster.store import FolderStore, open_store
from cluster.stream import ShardCrops, held_out_slices, read_index, shard_cache, validation_slices
from metasr.data.order import SampleOrder
from tests.cluster.streaming import BY_WINDOW, SIZES, WatchedStore, few_shards, many_shards

IN_MEMORY = {"keep_bytes": 1e9}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A store with few shards, and its crops in memory."""
    folder = tmp_path_factory.mktemp("few")
    return folder, few_shards(folder)


@pytest.fixture
def folder(few):
    return few[0]


@pytest.fixture
def memory(few):
    return few[1]


@pytest.fixture
def index(folder):
    return read_index(open_store(str(folder)))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    return folder, many_shards(folder)


@pytest.mark.parametrize("kept", [IN_MEMORY, BY_WINDOW], ids=["in memory", "by window"])
@pytest.mark.parametrize("window", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(("batch", "num_virtual_shards"), [(4, 1), (24, 4), (64, 1), (64, 64)])
def test_the_stream_is_that_of_the_same_crops_in_memory(
    folder, index, memory, window, batch, num_virtual_shards, kept
):
    source = ShardCrops(open_store(str(folder)), index, **kept)
    assert source.shard_sizes == SIZES
    order = SampleOrder(source.shard_sizes, window, seed=1, num_virtual_shards=num_virtual_shards)
    whole = {"batch_size": batch, "part": slice(0, batch)}
    found = islice(source.stream(order, first_step=0, **whole), 20)
    expected = islice(memory.stream(order, first_step=0, **whole), 20)
    for step, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours.dtype == torch.float16
        assert torch.equal(ours, theirs), step


@pytest.mark.parametrize("num_threads", [1, 4])
@pytest.mark.parametrize(("batch", "window"), [(8, 4), (8, 12), (64, 4), (288, 12)])
def test_virtual_shards_may_go_through_many_windows_in_a_step(many, batch, window, num_threads):
    folder, memory = many
    store = FolderStore(folder)
    source = ShardCrops(store, read_index(store), **BY_WINDOW, num_threads=num_threads)
    order = SampleOrder(source.shard_sizes, window, seed=3, num_virtual_shards=4)
    whole = {"first_step": 1, "batch_size": batch, "part": slice(0, batch)}
    found, expected = source.stream(order, **whole), memory.stream(order, **whole)
    for step, (ours, theirs) in enumerate(islice(zip(found, expected, strict=True), 30)):
        assert torch.equal(ours, theirs), step


@pytest.mark.parametrize("window", [1, 2, 8])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_a_stream_can_start_at_any_step_and_parts_make_up_the_batch(folder, index, memory, window, workers):
    source = ShardCrops(open_store(str(folder)), index, **BY_WINDOW)
    order = SampleOrder(source.shard_sizes, window, seed=2, num_virtual_shards=4)
    parts = [slice(8 * rank // workers, 8 * (rank + 1) // workers) for rank in range(workers)]
    for first in range(8):
        wanted = next(memory.stream(order, first_step=first, batch_size=8, part=slice(0, 8)))
        found = [next(source.stream(order, first_step=first, batch_size=8, part=part)) for part in parts]
        assert torch.equal(torch.cat(found), wanted), first


def test_a_cache_changes_nothing_and_spares_the_store(folder, index, tmp_path):
    order = SampleOrder(SIZES, 2, seed=0)
    whole = {"first_step": 3, "batch_size": 4, "part": slice(0, 4)}
    stores, streams = [WatchedStore(folder) for _ in range(2)], []
    for store in stores:
        store.is_bucket = True
        source = ShardCrops(store, index, shard_cache(store, str(tmp_path / "cache"), 1), **BY_WINDOW)
        streams.append(list(islice(source.stream(order, **whole), 30)))
    assert torch.equal(torch.cat(streams[0]), torch.cat(streams[1]))
    assert sorted(stores[0].asked) == [f"train-{number:06d}.tar" for number in range(5)]
    assert stores[1].asked == []


def test_shards_in_a_bucket_are_streamed_through_the_cache(folder, index, memory, s3_url, tmp_path):
    bucket = open_store(f"{s3_url}/{uuid.uuid4().hex}")
    for path in folder.iterdir():
        bucket.put(path.name, path.read_bytes())
    cache = shard_cache(bucket, str(tmp_path / "cache"), 1)
    source = ShardCrops(bucket, read_index(bucket), cache, **BY_WINDOW)
    order = SampleOrder(source.shard_sizes, 2, seed=0)
    whole = {"first_step": 0, "batch_size": 4, "part": slice(0, 4)}
    wanted = islice(memory.stream(order, **whole), 12)
    for found, expected in zip(islice(source.stream(order, **whole), 12), wanted, strict=True):
        assert torch.equal(found, expected)
    shards = [shard for shard in index.shards if shard.split == "train"]
    copies = {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir() if path.stat().st_size}
    assert copies == {shard.sha256: (folder / shard.name).read_bytes() for shard in shards}


def test_by_default_buckets_are_cached_and_folders_are_not(folder):
    storage = StorageConfig()
    assert shard_cache(open_store("s3://bucket/data"), storage.cache, storage.cache_gb) is not None
    assert shard_cache(open_store("s3://bucket/data"), "", storage.cache_gb) is None
    assert shard_cache(open_store(str(folder)), storage.cache, storage.cache_gb) is None


# Validation


@pytest.mark.parametrize("number", [1, 2, 3, 8, 100])
def test_validation_slices_are_spread_over_the_split(folder, index, number):
    everything = held_out_slices(open_store(str(folder)), index, 0)
    step = max(1, len(everything) // number)
    expected = everything[step // 2 :: step][:number]
    found = validation_slices(open_store(str(folder)), index, number)
    assert [(s.subject, s.number) for s in found] == [(s.subject, s.number) for s in expected]
    assert all(torch.equal(one.image, other.image) for one, other in zip(found, expected, strict=True))


def test_shards_without_a_validation_slice_are_not_read(folder, index):
    store = WatchedStore(folder)
    assert len([shard for shard in index.shards if shard.split == "val"]) > 1
    validation_slices(store, index, 1)
    assert len(store.asked) == 1
