"""A training run, driven: one driver at a time, the workers observed, the best generator registered."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TextIO

from cluster.checkpoints import RunCheckpoints
from cluster.checkpoints.fork import branch_off
from cluster.checkpoints.ledger import REGISTERED
from cluster.outbox.access import require_access
from cluster.preflight import require_nodes
from cluster.runtime.connection import connected
from cluster.store import UnavailableError, open_store, wait_for_store
from cluster.store.lease import Lease
from cluster.training.group import train_on_ray
from cluster.training.identify import Prepared, RunSpec, Tell, prepare
from cluster.training.observers import REPORT, Observers, SeeInSweep
from cluster.training.registration import Sent, register_best, registered_before, run_log, sent_by
from cluster.training.stop import Stop, short_grace
from metasr.errors import Interrupted


@dataclass(frozen=True)
class Trained:
    """The outcome of a run.

    Attributes:
        run_name: Its name.
        step: Number of steps done.
        stopped_by: Number of the signal that stopped it; 0 if it is finished.
        already_done: Whether it was finished before.
        sent: What has reached MLflow.
    """

    run_name: str
    step: int
    stopped_by: int = 0
    already_done: bool = False
    sent: Sent = field(default_factory=Sent)


@dataclass(frozen=True)
class InSweep:
    """The sweep that a run is a trial of. The run itself is not registered: the sweep registers its best trial.

    Attributes:
        name: Of the sweep, and of its run in MLflow.
        see: Called with each event, in another thread; returns values to record with those of the event.
        stop: By which the sweep stops the run.
    """

    name: str
    see: SeeInSweep
    stop: Stop


def train(spec: RunSpec, tell: Tell, *, terminal: TextIO | None = None, sweep: InSweep | None = None) -> Trained:
    """Train a run, or resume it, and register the best generator.

    The same settings on the same data are the same run: it resumes from its newest checkpoint. A finished run is not
    trained again; it is registered once more if `tracking.model` has changed.

    Args:
        spec: What to train.
        tell: Called with lines of progress.
        terminal: Terminal for a progress bar, if there is one.
        sweep: The sweep, if the run is a trial of one.

    Raises:
        MetaSRError: The settings, the data or the machines cannot be used, or training failed.
        Interrupted: A signal came while there were no workers, or a second signal came.
    """
    if sweep is not None:
        return _train(spec, tell, terminal, sweep, sweep.stop)
    if warning := short_grace():
        tell(warning)
    stop = Stop(tell)
    with stop.heard():
        return _train(spec, tell, terminal, None, stop)


def _train(spec: RunSpec, tell: Tell, terminal: TextIO | None, sweep: InSweep | None, stop: Stop) -> Trained:
    waits = sweep is None  # a sweep can stop a trial only if it waits itself for a store that is away
    run = prepare(spec, tell, waits=waits)
    storage = open_store(run.config.storage.url)
    acquire = partial(Lease.acquire, storage, run.name, tell)
    with wait_for_store(storage, acquire, tell) if waits else acquire() as lease:
        storage = open_store(run.config.storage.url, has_begun=True)  # it has the lease already
        checkpoints = RunCheckpoints(storage, run.name)
        if sweep is None:
            require_access(run.config.tracking, tell)
        if done := wait_for_store(storage, checkpoints.finished, tell):
            sent = Sent()
            if sweep is None:
                sent = registered_before(run.config, run.identity, lease, done.get(REGISTERED, ""), tell)
            return Trained(run.name, int(done["step"]), already_done=True, sent=sent)
        checkpoints = checkpoints.claim(lease.fence, tell)  # workers of an earlier driver can write no more
        if (fork := spec.fork) is not None:
            wait_for_store(storage, lambda: branch_off(storage, fork, checkpoints, run.config), tell)
        with ExitStack() as stack:
            with stop.deferred():  # or MLflow could show a start without an end
                log = stack.enter_context(run_log(run.config, run.identity, sweep.name if sweep else ""))
                log.text("recipe.yaml", spec.resolved.text() + "\n")
                see = sweep.see if sweep else None
                observers = Observers(log, run.config.train.steps, tell, terminal=terminal, see_in_sweep=see)
                stack.enter_context(observers.failures(lease))
            _train_on_nodes(run, lease, observers, stop)
            if stop.signal and sweep is None:
                _require_answer(checkpoints, stop)
            checkpoints = checkpoints.claim(lease.fence, observers.tell)  # fails if another driver has taken over
            return _conclude(run, checkpoints, observers, stop, is_trial=sweep is not None)


def _train_on_nodes(run: Prepared, lease: Lease, observers: Observers, stop: Stop) -> None:
    """Check the nodes of the cluster, and train on them."""
    with connected(run.config.resources.cpus, observers.tell), observers.exported():
        observers.mark("connected")
        require_nodes(run.config, run.data, observers.tell)
        train_on_ray(run, lease, observers, stop)


def _require_answer(checkpoints: RunCheckpoints, stop: Stop) -> None:
    """Raise Interrupted where a run that is to end would have to wait for its store."""
    try:
        checkpoints.entries()
    except UnavailableError as error:
        raise Interrupted(stop.signal) from error


def _conclude(
    run: Prepared, checkpoints: RunCheckpoints, observers: Observers, stop: Stop, *, is_trial: bool
) -> Trained:
    """Record how training ended; register the best generator if the last step is done."""
    config, tell = run.config, observers.tell
    storage = open_store(config.storage.url, has_begun=True)
    keep = partial(storage.put, f"{run.name}/{REPORT}")
    step = wait_for_store(storage, lambda: _newest_step(checkpoints), tell)
    if step < config.train.steps:
        not_sent = observers.finish(stop.status, f"stopped by {stop.name}", keep)
        sent = Sent(not_sent, why=observers.records.last_error)
        return Trained(run.name, step, stopped_by=stop.signal, sent=sent)
    if not is_trial:
        wait_for_store(storage, lambda: register_best(checkpoints, observers.records, tell), tell)
    noted = {"step": str(step), REGISTERED: "" if is_trial else config.tracking.model}
    try:
        observers.finish("FINISHED", "finished", keep)
    finally:  # also if a signal ends the wait for MLflow: the outbox has everything
        wait_for_store(storage, lambda: checkpoints.finish(noted), tell)
    log = observers.records
    sent = Sent(log.remaining) if is_trial else sent_by(log, config.tracking, run.name)
    return Trained(run.name, step, sent=sent)


def _newest_step(checkpoints: RunCheckpoints) -> int:
    return max((kept.step for kept in checkpoints.entries()), default=0)
