"""What `metasr train` would do, said without doing it: nothing is written, Ray is not started.

A cluster is asked for its precision where `train.precision` is auto and the run has not begun. MLflow is asked only
for a model to start from, and the network only for weights of the VGG that nobody named.
"""

import time

from cluster.checkpoints import RunCheckpoints
from cluster.checkpoints.fork import Fork, find
from cluster.config import JobConfig, expand
from cluster.preflight.fit import checkpoint_bytes
from cluster.preflight.services import Data, inspect_data, inspect_shards
from cluster.redaction import without_password
from cluster.store import open_store
from cluster.stream import ShardCrops
from cluster.training.identify import RunSpec, identify, load_initial, settled
from metasr.data.order import SampleOrder

MB = 1e6


def dry_run(spec: RunSpec) -> list[str]:
    """Return lines on what training would do, after a first batch has really come from the data's store.

    Args:
        spec: What would be trained.

    Raises:
        MetaSRError: The settings or the data cannot be used, or the storage cannot be read.
    """
    initial, lines = load_initial(spec), list[str]()
    spec = settled(spec, initial, lines.append)
    config, identity = spec.config, identify(spec, initial)
    data = inspect_data(config)
    return [
        *lines,
        f"run {identity.run_name}, code {identity.code_version[:12]}",
        _state(config, identity.run_name, spec.fork),
        f"data: {data.store.url}: {data.index.summary()}",
        f"data: {inspect_shards(data)}",
        _first_batch(config, data),
        *_schedule(config, data),
        *_records(config, identity.run_name),
    ]


def _state(config: JobConfig, run_name: str, fork: Fork | None) -> str:
    """Say whether the run would start, go on, or has ended."""
    storage = open_store(config.storage.url)
    checkpoints = RunCheckpoints(storage, run_name)
    if done := checkpoints.finished():
        return f"state: finished at step {done['step']}: training it again would change nothing"
    entries = checkpoints.entries()
    if entries:
        kept = ", ".join(str(kept.step) for kept in entries)
        return f"state: would continue from step {entries[0].step} (checkpoints of steps {kept})"
    if fork is None:
        return "state: would start from step 0"
    return f"state: would start from step {find(storage, fork).step}, branching off from run {fork.run_name}"


def _first_batch(config: JobConfig, data: Data) -> str:
    """Stream the crops of the first step, all workers' parts, without a cache."""
    train = config.train
    crops = ShardCrops(data.store, data.index, on_corrupt=config.data.on_corrupt)
    order = SampleOrder(crops.shard_sizes, config.data.shuffle_shards, train.seed, train.num_virtual_shards)
    began = time.perf_counter()
    stream = crops.stream(order, first_step=0, batch_size=train.batch_size, part=slice(0, train.batch_size))
    batch = next(stream)
    del stream  # which ends its reading
    number, _, *sides = batch.shape
    shape = " x ".join(map(str, sides))
    return f"data: a first batch of {number} crops of {shape} came in {time.perf_counter() - began:.1f} s"


def _schedule(config: JobConfig, data: Data) -> list[str]:
    train, workers = config.train, config.resources.num_workers
    number = train.num_virtual_shards
    samples = sum(shard.num_samples for shard in data.index.shards if shard.split == "train")
    pixel_only = min(train.pixel_only_steps, train.steps)
    shares = sorted({train.batch_size // number * share for share in _shares(number, workers)})
    scales = ", ".join(map(str, config.eval.scales))
    looks = -(-train.steps // train.checkpoint_every_steps)
    return [
        f"steps: {train.steps}, of them {pixel_only} with the pixel loss alone; "
        f"{train.steps * train.batch_size / samples:.1f} epochs of {samples} crops",
        f"workers: {workers}, each {' or '.join(map(str, shares))} of the {train.batch_size} patches of a step; "
        f"{number} virtual shards of {train.batch_size // number}; reduction {train.reduction}",
        f"scales: {train.scale_min} to {train.scale_max} in steps of 0.1, patches of up to {config.data.patch_px} px"
        + (f" and {config.data.lr_patch_px} LR px" if config.data.lr_patch_px else ""),
        f"validation: {looks} times, {config.eval.validation_slices} slices at scales {scales}",
    ]


def _shares(number: int, workers: int) -> list[int]:
    """Return how many of the virtual shards each worker computes."""
    return [number * (rank + 1) // workers - number * rank // workers for rank in range(workers)]


def _records(config: JobConfig, run_name: str) -> list[str]:
    train, tracking = config.train, config.tracking
    return [
        f"checkpoints: every {train.checkpoint_every_steps} steps, about {checkpoint_bytes(config) / MB:.1f} MB "
        f"each; the newest {train.keep_checkpoints} and the best stay in {open_store(config.storage.url).url}",
        f"MLflow: run {run_name} in experiment {tracking.experiment} of {without_password(expand(tracking.uri))}: "
        f"settings, losses every {train.log_every_steps} steps, each validation with a picture, a report; "
        f"the best generator becomes the challenger of {tracking.model}",
        "nothing was written; whether storage can be written, MLflow answers and machines have room: metasr doctor",
    ]
