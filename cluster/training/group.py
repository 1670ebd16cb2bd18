"""Ray Train around `cluster.training.worker`: a group of workers that comes back from faults, until training ends."""

import math
import tempfile
import threading
import time
from concurrent.futures import Future, wait
from typing import Any, Protocol

import ray
import ray.train
from ray.exceptions import RayError
from ray.train import FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2.api.exceptions import TrainingFailedError

from cluster.checkpoints import SupersededError
from cluster.config import JobConfig, ResourcesConfig, portable
from cluster.runtime.connection import connected
from cluster.store.lease import Lease
from cluster.training.identify import Prepared
from cluster.training.listener import Listener
from cluster.training.mailbox import Mail, mail
from cluster.training.ray_context import Job
from cluster.training.stop import Stop
from cluster.training.worker import train_worker
from metasr.errors import MetaSRError, TrainingError
from metasr.events import Event

LOOK_AGAIN_S = 0.5
NO_WORKERS_S = 10.0  # workers poll for requests every half second: without for so long, there are none
RELEASE_S = 30.0  # for Ray Train to give back its place in the cluster, for which other trials of a sweep wait
ROOM_S = 25.0  # for so long there must be room for more workers: Ray looks at its nodes every 20 s


class Observer(Protocol):
    """Who learns what workers tell, and what the driver has come to."""

    def see(self, event: Event, /) -> None:
        """Take an event, in another thread than `mark`."""

    def mark(self, name: str, /) -> None:
        """Note that the driver has come to something."""


def train_on_ray(run: Prepared, lease: Lease, observer: Observer, stop: Stop) -> None:
    """Train until all steps are done or `stop` was asked for; workers that die are started again.

    Args:
        run: The run.
        lease: Of the run: who loses it stops.
        observer: Told of events.
        stop: Hears signals.

    Raises:
        MetaSRError: Training failed, and more tries would not help.
    """
    resources = run.config.resources
    with connected(resources.cpus), mail(observer.see, resources.max_failures) as box:
        observer.mark("connected")
        weights = ray.put(run.initial.generator.state_dict() if run.initial else None)
        job = Job(portable(run.config), run.identity, lease.fence, box.actor, weights)
        # Ray Train wants a place for checkpoints; it is given none to keep there.
        forwarded = stop.forwarded_to(box.request, lambda: box.silent_s < NO_WORKERS_S)
        with forwarded, tempfile.TemporaryDirectory() as unused:
            outcome = _fit_in_thread(_trainer(run.config, job, unused))
            observer.mark("fit")
            _wait(outcome, box, lease, stop, _Room(resources))


class _Trainer(TorchTrainer):
    """Torch on Ray Train without Ray Data, which costs a process more and an import in each worker at each start."""

    def _create_default_callbacks(self) -> list[Any]:
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]  # of the second version alone
        return [callback for callback in callbacks if not isinstance(callback, DatasetsCallback)]


def _trainer(config: JobConfig, job: Job, storage: str) -> TorchTrainer:
    resources = config.resources
    number: int | tuple[int, int] = resources.num_workers
    if resources.min_workers:
        number = resources.min_workers, resources.num_workers
    return _Trainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(  # type: ignore[call-arg]  # mypy sees that of Ray Train's first version
            num_workers=number,  # type: ignore[arg-type]  # the same
            use_gpu=resources.gpu,
            resources_per_worker=_per_worker(resources),
            placement_strategy=resources.placement.upper(),
            elastic_resize_monitor_interval_s=math.inf,  # Ray would throw away what a group has done, see `_Room`
        ),
        run_config=RunConfig(
            name=job.identity.run_name,
            storage_path=storage,
            failure_config=FailureConfig(max_failures=-1),  # the mailbox counts
            callbacks=[Listener(job.mailbox)],  # type: ignore[list-item]  # the same
        ),
    )


def _per_worker(resources: ResourcesConfig) -> dict[str, float]:
    gpu = {"GPU": resources.gpus_per_worker} if resources.gpu else {}
    return {"CPU": resources.cpus_per_worker} | gpu


def _fit_in_thread(trainer: TorchTrainer) -> Future[Result]:
    """Fit in a thread of its own: in the main thread Ray Train takes signals for itself, and ends as failed."""
    outcome: Future[Result] = Future()

    def fit() -> None:
        try:
            outcome.set_result(trainer.fit())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=fit, daemon=True).start()
    return outcome


class _Room:
    """Looks whether the cluster has room for more workers than there are.

    Args:
        resources: What a worker needs, and how many there should be.
    """

    def __init__(self, resources: ResourcesConfig) -> None:
        self._resources, self._since = resources, math.inf
        self._num_workers, self._wait_s = 0, ROOM_S

    def has_come(self, num_workers: int) -> bool:
        """Return whether there has been room for more than `num_workers` for long enough, once each time."""
        now = time.monotonic()
        if num_workers != self._num_workers:
            self._num_workers, self._wait_s = num_workers, ROOM_S
        may_grow = self._resources.min_workers and 0 < num_workers < self._resources.num_workers
        if not may_grow or not self._is_there():
            self._since = math.inf
            return False
        self._since = min(self._since, now)
        if now - self._since < self._wait_s:
            return False
        self._since, self._wait_s = math.inf, 2 * self._wait_s  # pieces of several nodes may be no room for a worker
        return True

    def _is_there(self) -> bool:
        try:
            free: dict[str, float] = ray.available_resources()
        except RayError:
            return False  # nobody can say
        return all(free.get(name, 0.0) >= amount for name, amount in _per_worker(self._resources).items())


def _wait(outcome: Future[Result], box: Mail, lease: Lease, stop: Stop, room: _Room) -> None:
    """Wait for the end of training, or for what makes waiting useless, such as a request to stop without workers."""
    while not wait([outcome], LOOK_AGAIN_S).done:
        if lease.lost.is_set():
            raise SupersededError("training has stopped here", "another driver has taken the run over")
        if box.failure is not None:
            wait([outcome], RELEASE_S)
            raise box.failure
        if stop.signal and box.silent_s > NO_WORKERS_S:
            return
        if box.silent_s < NO_WORKERS_S and room.has_come(box.num_workers):
            box.grow()
    try:
        outcome.result()
    except TrainingFailedError as error:
        raise box.failure or _cause(error) from error
    except RayError as error:
        raise _failed(error) from error


def _cause(error: TrainingFailedError) -> MetaSRError:
    """Return why training ended: what `Listener` raised, or the error of the worker that failed first."""
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
    reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
    return TrainingError(
        "training failed", reason, "Run the same command again to continue; --debug shows the traceback"
    )
