"""The training function of a worker: opens the data, calls `metasr.training.fit`, reports to the driver."""

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import ray
import ray.train
import torch

from cluster.checkpoints import SupersededError
from cluster.runtime.code_version import code_version
from cluster.store import UnavailableError, open_store, wait_for_store
from cluster.stream import ShardCrops, read_index, shard_cache, validation_slices
from cluster.training.failures import RegroupError
from cluster.training.job import Job
from cluster.training.progress import Progress, ToDriver
from cluster.training.ray_context import RayContext
from cluster.training.watchdog import watch_over_me
from metasr.errors import MetaSRError
from metasr.events import Event
from metasr.training.loop import TrainingData, fit

log = logging.getLogger(__name__)

FROZEN_AFTER_S = 30.0


def train_worker(arguments: Mapping[str, Job]) -> None:
    """Train on one worker.

    Args:
        arguments: `job`, from the driver.

    Raises:
        MetaSRError: Training cannot continue. The driver was told, unless a restart of the workers may help.
    """
    job = arguments["job"]
    progress = Progress(job.mailbox)
    watch_over_me(FROZEN_AFTER_S, progress.continues)
    try:
        _train(job, progress)
    except (UnavailableError, SupersededError):
        raise
    except MetaSRError as error:
        ray.get(job.mailbox.fail.remote(error))
        raise


def _train(job: Job, progress: Progress) -> None:
    began = time.perf_counter()
    config = job.config
    if config.resources.gpu:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, by the first matrix product
    else:
        torch.set_num_threads(max(1, int(config.resources.cpus_per_worker)))
    logging.getLogger("cluster").addHandler(ToDriver(job.mailbox, ray.train.get_context().get_world_rank()))
    identity = replace(job.identity, code_version=code_version())
    if identity != job.identity:
        log.warning("code %s runs here, and %s where the driver is", identity.code_version, job.identity.code_version)
    store = open_store(config.data.url, has_begun=True)
    progress.stores.append(store)
    index = wait_for_store(store, partial(read_index, store, job.identity.data_digest), log.warning)
    cache = shard_cache(store, config.storage.cache, config.storage.cache_gb)
    look_at = partial(validation_slices, store, index, config.eval.validation_slices, cache)
    validation = wait_for_store(store, look_at, log.warning)
    crops = ShardCrops(store, index, cache, on_corrupt=config.data.on_corrupt)
    context = RayContext(job, store, crops, progress)
    start = {"num_workers": float(context.num_workers), "data_s": time.perf_counter() - began}
    context.log(Event("group", 0, start))
    weights = ray.get(job.initial_weights)
    data = TrainingData(crops, index.mean, index.std, validation)
    state = fit(config, data, identity, context, weights)
    context.finish()
    has_stopped = context.rank == 0 and state.step < config.train.steps
    if has_stopped and ray.get(job.mailbox.regroups.remote()):
        context.log(Event("stopping", state.step, text="training continues with other workers"))
        raise RegroupError
