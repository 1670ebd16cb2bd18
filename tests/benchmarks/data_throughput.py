"""Measure how fast training crops arrive: raw GET, our verified stream, and a plain webdataset pipeline.

`make bench-data` runs it. All contenders read the same shards, from a folder and from SeaweedFS on loopback, each in
a process of its own, in turn, several times; medians are printed, with the machine. Seconds are those of one pass
over all shards. Samples per core-second matter on a node whose cores feed its GPUs: they are divided by the CPU time
of the reading process and its children. "Cores busy" counts the whole machine, with the server and the link: if it
equals the number of cores, the cores are the limit.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import boto3
import numpy as np
import torch
import webdataset
from botocore.config import Config

from cluster.shards import INDEX, Index, Limit, Sample, Shard, ShardWriter, quick_checksum
from cluster.store import Store, open_store
from cluster.stream import ShardCache, ShardCrops, read_index, shard_cache
from metasr.config import ExperimentConfig
from metasr.data.order import SampleOrder
from metasr.data.sample import make_batch, plan_step
from metasr.errors import StoreError
from tests.benchmarks.limited_link import LimitedLink

NUM_THREADS = 4
BATCH = 32
CROP_PX = 128
CONTENDERS = (
    "raw GET",
    "SHA-256 alone",
    "XXH3 alone",
    "stream",
    "stream, read before",
    "stream, patches",
    "webdataset",
    "webdataset, patches",
)
ROOT = Path(__file__).parents[2]


def main() -> None:
    """Run all contenders and print the table, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=8, help="shards of 64 MB [8]")
    parser.add_argument("--rounds", type=int, default=5, help="passes of each contender [5]")
    parser.add_argument("--link", type=float, help="only raw GET and our stream, from S3 through a link of MB/s")
    parser.add_argument("--contender", choices=CONTENDERS, help="be one contender (used by the benchmark itself)")
    parser.add_argument("--url", help="store of that contender")
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(measure(options.contender, open_store(options.url))))
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        server = start_s3(home / "s3")
        try:
            urls = {"folder": str(home / "store"), "SeaweedFS": "s3://metasr/bench"}
            write_shards(open_store(urls["folder"]), options.shards)
            for file in (home / "store").iterdir():
                open_store(urls["SeaweedFS"]).put(file.name, file)
            if options.link is None:
                report(urls, CONTENDERS, options.rounds)
                return
            with LimitedLink(os.environ["AWS_ENDPOINT_URL"], options.link * 1e6) as link:
                os.environ["AWS_ENDPOINT_URL"] = link.url
                report({f"{options.link:g} MB/s": urls["SeaweedFS"]}, ("raw GET", "stream"), options.rounds)
        finally:
            server.terminate()
            server.wait()


def start_s3(folder: Path) -> subprocess.Popen[bytes]:
    """Start the server of `make s3` on a free port, and set AWS_* for it."""
    command = [sys.executable, str(ROOT / "infra" / "storage" / "s3.py"), "--folder", str(folder), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < deadline:
        if (folder / "env").exists():
            for line in (folder / "env").read_text().splitlines():
                name, _, value = line.removeprefix("export ").partition("=")
                os.environ[name] = value.strip("'")
            try:
                open_store("s3://metasr").require()
                return server
            except StoreError:  # it has not opened its port yet
                time.sleep(0.1)
    raise SystemExit("the S3 server did not start")


def write_shards(store: Store, number: int) -> None:
    """Write `number` training shards of 64 MB with random crops, and a validation shard."""
    random = np.random.default_rng(0)
    per_shard = int(64e6 // (CROP_PX**2 * 2 + 2048))
    shards: list[Shard] = []
    for split, count in (("train", number * per_shard), ("val", 1)):
        writer = ShardWriter(store, split, Limit(64e6, per_shard))
        for i in range(count):
            image = random.random((CROP_PX, CROP_PX), dtype=np.float32).astype(np.float16)
            writer.write(f"{split}-{i:05d}", [Sample(f"{split}-{i:05d}", 0, image)])
        writer.close()
        shards += writer.shards
    subjects = {"train": tuple(f"train-{i:05d}" for i in range(number * per_shard)), "val": ("val-00000",)}
    index = Index(tool_version="0", options={}, mean=0.5, std=0.3, subjects=subjects, shards=tuple(shards))
    store.put(INDEX, index.to_bytes())


def measure(contender: str, store: Store) -> dict[str, float]:
    """Measure one pass of a contender over all training shards."""
    torch.set_num_threads(1)
    index = read_index(store)
    shards = [shard for shard in index.shards if shard.split == "train"]
    run = {
        "raw GET": lambda: raw_get(store, shards),
        "SHA-256 alone": lambda: checksum_alone(store, shards, lambda data: hashlib.sha256(data).hexdigest()),
        "XXH3 alone": lambda: checksum_alone(store, shards, quick_checksum),
        "stream": lambda: stream(store, index, patches=False),
        "stream, read before": lambda: stream_again(store, index),
        "stream, patches": lambda: stream(store, index, patches=True),
        "webdataset": lambda: webdataset_by_hand(store, shards, patches=False),
        "webdataset, patches": lambda: webdataset_by_hand(store, shards, patches=True),
    }[contender]
    batches = run()
    if contender == "stream, read before":
        next(batches)
    before, cpu_before, busy_before = resource.getrusage(resource.RUSAGE_SELF), cpu_s(), busy_s()
    began = time.perf_counter()
    first = samples = 0.0
    for batch in batches:
        first = first or time.perf_counter() - began
        samples += batch
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": seconds,
        "first_s": first,
        "cpu_s": cpu_s() - cpu_before,
        "busy_s": busy_s() - busy_before,
        "samples": samples,
        "mb": sum(shard.num_bytes for shard in shards) / 1e6,
        "peak_mb": after.ru_maxrss / 1e3,
        "peak_before_mb": before.ru_maxrss / 1e3,
    }


def cpu_s() -> float:
    """Return the processor time of this process and of those it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def busy_s() -> float:
    """Return the time that all cores of this machine have been busy, summed over the cores (proc_stat(5))."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def raw_get(store: Store, shards: list[Shard]) -> Iterator[int]:
    """Download all shards with as many threads as the stream, without looking at the content."""
    root = Path(store.url.removeprefix("file://"))
    bucket, _, prefix = store.url.removeprefix("s3://").partition("/")
    client = (
        None if store.url.startswith("file:") else boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
    )

    def fetch(shard: Shard) -> bytes:
        if client is None:
            return (root / shard.name).read_bytes()
        return client.get_object(Bucket=bucket, Key=f"{prefix}/{shard.name}")["Body"].read()

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for shard, data in zip(shards, pool.map(fetch, shards), strict=True):
            assert len(data) == shard.num_bytes
            yield shard.num_samples


def checksum_alone(store: Store, shards: list[Shard], checksum: Callable[[bytes], str]) -> Iterator[int]:
    """Compute the checksums of as many bytes, without downloading them again: the cost of verification."""
    data = store.get(shards[0].name)
    for shard in shards:
        checksum(data)
        yield shard.num_samples


def stream(
    store: Store, index: Index, *, patches: bool, cache: ShardCache | None = None, epochs: int = 1
) -> Iterator[int]:
    """Our stream: an epoch of verified crops in the order of training, from the store, with little in memory."""
    crops = ShardCrops(store, index, cache, keep_bytes=0, num_threads=NUM_THREADS)
    config = ExperimentConfig.model_validate({"train": {"batch_size": BATCH}})
    order = SampleOrder(crops.shard_sizes, 2, 0, num_virtual_shards=2)
    whole = slice(0, BATCH)
    batches = crops.stream(order, first_step=0, batch_size=BATCH, part=whole)
    for step, batch in enumerate(islice(batches, epochs * len(order) // BATCH)):
        if patches:
            make_batch(batch, plan_step(config, step), whole)
        yield len(batch)


def stream_again(store: Store, index: Index) -> Iterator[int]:
    """Yield once after a first epoch, then the batches of a second one, from the cache or again from the folder."""
    with tempfile.TemporaryDirectory() as folder:
        batches = stream(store, index, patches=False, cache=shard_cache(store, folder, 100), epochs=2)
        num_batches = sum(shard.num_samples for shard in index.shards if shard.split == "train") // BATCH
        yield sum(islice(batches, num_batches))
        yield from batches


def webdataset_by_hand(store: Store, shards: list[Shard], *, patches: bool) -> Iterator[int]:
    """The plain pipeline: URLs, a shuffle buffer, the default decoding of .npy and .json, batches."""
    if store.url.startswith("file:"):
        root = Path(store.url.removeprefix("file://"))
        urls = [str(root / shard.name) for shard in shards]
    else:
        client = boto3.client("s3")
        bucket, _, prefix = store.url.removeprefix("s3://").partition("/")
        urls = [
            client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": f"{prefix}/{shard.name}"})
            for shard in shards
        ]
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls), detshuffle=True).shuffle(1000)
    dataset = dataset.decode().to_tuple("npy", "json").batched(BATCH, partial=False)
    config = ExperimentConfig.model_validate({"train": {"batch_size": BATCH}})
    for step, (images, _) in enumerate(dataset):
        batch = torch.from_numpy(np.stack(images))[:, None]
        if patches:
            make_batch(batch, plan_step(config, step), slice(0, BATCH))
        yield len(batch)


def report(urls: dict[str, str], contenders: Sequence[str], rounds: int) -> None:
    """Run every contender in turn, `rounds` times, and print medians."""
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for place, url in urls.items():
            for contender in contenders:
                command = [sys.executable, __file__, "--contender", contender, "--url", url]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                found.setdefault((place, contender), []).append(json.loads(output.splitlines()[-1]))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB")
    print(f"medians of {rounds} rounds; {NUM_THREADS} threads fetch, 1 computes; batches of {BATCH} crops\n")
    print(f"{'':<32}{'MB/s':>8}{'first s':>9}{'samples/core-s':>16}{'cores busy':>12}{'MB over start':>15}")
    for (place, contender), runs in found.items():
        median = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        rate, memory = median["mb"] / median["seconds"], median["peak_mb"] - median["peak_before_mb"]
        per_core = median["samples"] / median["cpu_s"]
        busy = median["busy_s"] / median["seconds"]
        name = f"{place}, {contender}"
        print(f"{name:<32}{rate:>8.0f}{median['first_s']:>9.2f}{per_core:>16.0f}{busy:>12.2f}{memory:>15.0f}")


if __name__ == "__main__":
    main()
