"""Ray Train around `cluster.training.worker`: a group of workers, restarted after failures until training ends."""

import math
import tempfile
import time
from concurrent.futures import Future, wait
from typing import Protocol

import ray
import ray.train
from ray.exceptions import RayError
from ray.train import FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from cluster.checkpoints import SupersededError
from cluster.config import JobConfig, ResourcesConfig, portable
from cluster.redaction import last_line
from cluster.runtime.connection import connected, has_started_ray
from cluster.runtime.threads import in_daemon_thread
from cluster.store.lease import Lease
from cluster.training.identify import Prepared
from cluster.training.job import Job
from cluster.training.listener import Listener
from cluster.training.mailbox import Mail, mail
from cluster.training.stop import Stop
from cluster.training.trainer import TorchInWorkers, Trainer
from cluster.training.worker import train_worker
from metasr.errors import MetaSRError, TrainingError
from metasr.events import Event

LOOK_AGAIN_S = 0.5
NO_WORKERS_S = 10.0  # workers poll for requests every half second: without for so long, there are none
RELEASE_S = 30.0  # for Ray Train to free its resources, which other trials of a sweep wait for
ROOM_S = 25.0  # room for more workers must last this long: Ray checks its nodes every 20 s


class Observer(Protocol):
    """Receives the events of workers, and the milestones of the driver."""

    def see(self, event: Event, /) -> None:
        """Handle an event; called in another thread than `mark`."""

    def mark(self, name: str, /) -> None:
        """Record that the driver has reached a milestone."""


def train_on_ray(run: Prepared, lease: Lease, observer: Observer, stop: Stop) -> None:
    """Train until all steps are done or a stop is requested; failed workers are restarted.

    Args:
        run: The run.
        lease: Lease of the run; training stops if it is lost.
        observer: Receives events and milestones.
        stop: Receives signals, and forwards them to the workers as requests.

    Raises:
        MetaSRError: Training failed, and another try would not help.
    """
    resources = run.config.resources
    with connected(resources.cpus), mail(observer.see, resources.max_failures) as box:
        observer.mark("connected")
        weights = ray.put(run.initial.generator.state_dict() if run.initial else None)
        job = Job(portable(run.config), run.identity, lease.fence, box.actor, weights)
        # Ray Train wants a folder for checkpoints. Ours go elsewhere, see `RayContext`.
        forwarded = stop.forwarded_to(box.request, lambda: box.silent_s < NO_WORKERS_S)
        with forwarded, tempfile.TemporaryDirectory() as unused:
            # In the main thread Ray Train would handle signals itself, and fail.
            outcome = in_daemon_thread(_trainer(run.config, job, unused).fit, "fit")
            observer.mark("fit")
            _wait(outcome, box, lease, stop, _Room(resources))


def _trainer(config: JobConfig, job: Job, storage: str) -> Trainer:
    resources = config.resources
    number: int | tuple[int, int] = resources.num_workers
    if resources.min_workers:
        number = resources.min_workers, resources.num_workers
    return Trainer(
        train_worker,
        is_own_ray=has_started_ray(),
        backend_config=TorchInWorkers("nccl" if resources.gpu else "gloo"),
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(  # type: ignore[call-arg]  # mypy sees the one of Ray Train V1
            num_workers=number,  # type: ignore[arg-type]  # the same
            use_gpu=resources.gpu,
            resources_per_worker=_per_worker(resources),
            placement_strategy=resources.placement.upper(),
            elastic_resize_monitor_interval_s=math.inf,  # Ray would discard steps that no checkpoint has, see `_Room`
        ),
        run_config=RunConfig(
            name=job.identity.run_name,
            storage_path=storage,
            failure_config=FailureConfig(max_failures=-1),  # the mailbox counts failures
            callbacks=[Listener(job.mailbox)],  # type: ignore[list-item]  # the same
        ),
    )


def _per_worker(resources: ResourcesConfig) -> dict[str, float]:
    gpu = {"GPU": resources.gpus_per_worker} if resources.gpu else {}
    return {"CPU": resources.cpus_per_worker} | gpu


class _Room:
    """Checks whether the cluster has room for more workers than there are.

    Args:
        resources: Resources of a worker, and the number of workers.
    """

    def __init__(self, resources: ResourcesConfig) -> None:
        self._resources, self._since = resources, math.inf
        self._num_workers, self._wait_s = 0, ROOM_S

    def is_there(self, num_workers: int) -> bool:
        """Return whether there has been room for more than `num_workers` for long enough; True once each time."""
        now = time.monotonic()
        if num_workers != self._num_workers:
            self._num_workers, self._wait_s = num_workers, ROOM_S
        may_grow = self._resources.min_workers and 0 < num_workers < self._resources.num_workers
        if not may_grow or not self._is_free():
            self._since = math.inf
            return False
        self._since = min(self._since, now)
        if now - self._since < self._wait_s:
            return False
        self._since, self._wait_s = math.inf, 2 * self._wait_s  # free resources on different nodes may fit no worker
        return True

    def _is_free(self) -> bool:
        try:
            free: dict[str, float] = ray.available_resources()
        except RayError:
            return False  # unknown
        return all(free.get(name, 0.0) >= amount for name, amount in _per_worker(self._resources).items())


def _wait(outcome: Future[Result], box: Mail, lease: Lease, stop: Stop, room: _Room) -> None:
    """Wait until training ends, the lease is lost, it has failed for good, or a stop is requested without workers."""
    while not wait([outcome], LOOK_AGAIN_S).done:
        if lease.lost.is_set():
            raise SupersededError("training has stopped here", "another driver has taken the run over")
        if box.failure is not None:
            wait([outcome], RELEASE_S)
            raise box.failure
        if stop.signal and box.silent_s > NO_WORKERS_S:
            return
        if box.silent_s < NO_WORKERS_S and room.is_there(box.num_workers):
            box.grow()
    try:
        outcome.result()
    except TrainingFailedError as error:
        raise box.failure or _cause(error) from error
    except RayError as error:
        raise _failed(error) from error


def _cause(error: TrainingFailedError) -> MetaSRError:
    """Return the cause of a failure: what `Listener` raised, or the error of the worker with the lowest rank."""
    final = getattr(error, "controller_failure", None)
    if isinstance(final, MetaSRError):
        return final
    failures = getattr(error, "worker_failures", {})
    for rank in sorted(failures):
        cause = getattr(failures[rank], "cause", failures[rank])
        if isinstance(cause, MetaSRError):
            return cause
    return _failed(next(iter(failures.values()), error))


def _failed(error: BaseException) -> TrainingError:
    fix = "Run the same command again to continue; --debug shows the traceback"
    return TrainingError("training failed", last_line(error), fix)
