"""A training run from its driver: one at a time, watched, and registered at the end."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from cluster.checkpoints import RunCheckpoints
from cluster.checkpoints.fork import branch_off
from cluster.config import JobConfig
from cluster.outbox.delivery import SWEEP_TAG
from cluster.outbox.run_log import RunLog
from cluster.preflight import require_nodes
from cluster.recipes import flatten
from cluster.runtime.connection import connected
from cluster.store import open_store, wait_for_store
from cluster.store.lease import Lease
from cluster.training.group import Stop, train_on_ray
from cluster.training.identify import Prepared, RunSpec, Tell, identify, prepare
from cluster.training.observers import LAST_RECORDS_S, REPORT, Observers, SeeInSweep
from metasr.errors import CheckpointError, MetaSRError
from metasr.identity import RunIdentity

REGISTERED = "registered"


@dataclass(frozen=True)
class Trained:
    """What came of a run.

    Attributes:
        run_name: Its name.
        step: Steps done.
        stopped_by: Number of the signal that stopped it before its end; 0 if it is finished.
        already_done: It was finished before.
        records_not_sent: What MLflow has not got yet.
    """

    run_name: str
    step: int
    stopped_by: int = 0
    already_done: bool = False
    records_not_sent: int = 0


@dataclass(frozen=True)
class InSweep:
    """What is different for a run that is a trial of a sweep: the best of all trials alone is registered.

    Attributes:
        name: Of the sweep, and of its run in MLflow.
        see: Called with each event, from another thread; returns numbers to record with those of the event.
        stop: How the sweep stops the run.
    """

    name: str
    see: SeeInSweep
    stop: Stop


def train(spec: RunSpec, tell: Tell, *, terminal: TextIO | None = None, sweep: InSweep | None = None) -> Trained:
    """Train what is asked for, or go on with it, and register the best generator.

    The same settings on the same data are the same run: it continues from its newest checkpoint. A finished run is
    left as it is, or registered under another name where that has changed.

    Args:
        spec: What to train.
        tell: Called with lines of progress.
        terminal: Where a bar may be drawn.
        sweep: That it is a trial of.

    Raises:
        MetaSRError: The settings, the data or the machines cannot be used, or training failed.
    """
    run = prepare(spec, tell)
    storage = open_store(run.config.storage.url)
    with Lease.acquire(storage, run.name, tell) as lease:
        checkpoints = RunCheckpoints(storage, run.name)
        if done := checkpoints.finished():
            return _already_done(run, lease, done, sweep, tell)
        checkpoints = checkpoints.claim(lease.fence, tell)  # which locks out the workers of an earlier driver
        if (fork := spec.fork) is not None:
            wait_for_store(storage, lambda: branch_off(storage, fork, checkpoints, run.config), tell)
        with _log(run.config, run.identity, sweep.name if sweep else "") as log:
            log.text("recipe.yaml", spec.resolved.text() + "\n")
            see_in_sweep = sweep.see if sweep else None
            observers = Observers(log, run.config.train.steps, tell, terminal=terminal, see_in_sweep=see_in_sweep)
            stop = sweep.stop if sweep else Stop(observers.tell)
            with observers.failures(lease):
                _train_on_nodes(run, lease, observers, stop)
                checkpoints = checkpoints.claim(lease.fence, observers.tell)  # or another driver has the run by now
                return _conclude(run, checkpoints, observers, stop, is_trial=sweep is not None)


def _train_on_nodes(run: Prepared, lease: Lease, observers: Observers, stop: Stop) -> None:
    """Train on the nodes of the cluster, after a look at them."""
    with connected(run.config.resources.cpus):
        observers.mark("connected")
        require_nodes(run.config, run.data, observers.tell)
        train_on_ray(run, lease, observers, stop)


def _conclude(
    run: Prepared, checkpoints: RunCheckpoints, observers: Observers, stop: Stop, *, is_trial: bool
) -> Trained:
    """Say how training has ended, and register the best generator if it has come to its last step."""
    config, tell = run.config, observers.tell
    storage = open_store(config.storage.url)
    keep = partial(storage.put, f"{run.name}/{REPORT}")
    step = wait_for_store(storage, lambda: _newest_step(checkpoints), tell)
    if step < config.train.steps:
        not_sent = observers.finish(stop.status, f"stopped by {stop.name}", keep)
        return Trained(run.name, step, stopped_by=stop.signal, records_not_sent=not_sent)
    if not is_trial:
        wait_for_store(storage, lambda: _register_best(checkpoints, observers.records, tell), tell)
    not_sent = observers.finish("FINISHED", "finished", keep)
    noted = {"step": str(step), REGISTERED: "" if is_trial else config.tracking.model}
    wait_for_store(storage, lambda: checkpoints.finish(noted), tell)
    return Trained(run.name, step, records_not_sent=not_sent)


def _already_done(run: Prepared, lease: Lease, done: Mapping[str, str], sweep: InSweep | None, tell: Tell) -> Trained:
    """Register a finished run where it was not yet, or was under another name."""
    is_registered = sweep is not None or done.get(REGISTERED) == run.config.tracking.model
    not_sent = 0 if is_registered else _register(run.config, run.identity, lease, "", tell)
    return Trained(run.name, int(done["step"]), already_done=True, records_not_sent=not_sent)


def register_trial(spec: RunSpec, sweep: str, tell: Tell) -> int:
    """Register the best generator of a trial; return how many records MLflow has not got.

    Args:
        spec: The trial.
        sweep: Name of the sweep.
        tell: Called with lines of progress.

    Raises:
        MetaSRError: Another driver is at work on the run, or it has no good checkpoint.
    """
    identity = identify(spec)
    with Lease.acquire(open_store(spec.config.storage.url), identity.run_name, tell) as lease:
        return _register(spec.config, identity, lease, sweep, tell)


def _register(config: JobConfig, identity: RunIdentity, lease: Lease, sweep: str, tell: Tell) -> int:
    """Register the best generator of a run that has ended; return how many records MLflow has not got."""
    storage = open_store(config.storage.url)
    with _log(config, identity, sweep) as log:
        checkpoints = RunCheckpoints(storage, identity.run_name).claim(lease.fence, tell)
        wait_for_store(storage, lambda: _register_best(checkpoints, log, tell), tell)
        if done := checkpoints.finished():
            wait_for_store(storage, lambda: checkpoints.finish(done | {REGISTERED: config.tracking.model}), tell)
        log.status("FINISHED" if done else "KILLED")
        return log.drain(LAST_RECORDS_S)


def _log(config: JobConfig, identity: RunIdentity, sweep: str) -> RunLog:
    """Return what tells MLflow of a run, below that of its sweep if it has one."""
    tags = {
        "mlflow.source.git.commit": identity.code_version.removesuffix("+changes"),
        "metasr.code_version": identity.code_version,
        "metasr.data_sha256": identity.data_digest,
        "metasr.initial_bundle": identity.initial_bundle,
        "metasr.forked_from": identity.forked_from,
    }
    if sweep:
        tags[SWEEP_TAG] = sweep
    return RunLog(config.tracking, identity.run_name, flatten(config), tags, parent=sweep)


def _newest_step(checkpoints: RunCheckpoints) -> int:
    return max((kept.step for kept in checkpoints.entries()), default=0)


def _register_best(checkpoints: RunCheckpoints, log: RunLog, tell: Tell) -> None:
    """Register the generator of the checkpoint with the highest score that is not damaged."""
    scored = [(kept.score, kept) for kept in checkpoints.entries() if kept.score is not None]
    for _, kept in sorted(scored, key=lambda pair: pair[0], reverse=True):
        with tempfile.TemporaryDirectory() as folder:
            try:
                checkpoints.fetch(kept, Path(folder))
                log.register(Path(folder) / "bundle")
                return
            except CheckpointError as error:
                tell(f"the checkpoint of step {kept.step} is bad, taking the next best: {error}")
    raise MetaSRError("training", "no good checkpoint has a score", "Look at the losses: training has diverged")
