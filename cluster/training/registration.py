"""Registers a run's best generator, and says what has reached MLflow."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from cluster.checkpoints import RunCheckpoints
from cluster.checkpoints.ledger import REGISTERED
from cluster.config import JobConfig, TrackingConfig
from cluster.outbox.delivery import SWEEP_TAG
from cluster.outbox.run_log import RunLog
from cluster.outbox.sync import send_waiting
from cluster.recipes import flatten
from cluster.registry import Registry
from cluster.store import open_store, wait_for_store
from cluster.store.lease import Lease
from cluster.training.identify import RunSpec, Tell, identify
from cluster.training.observers import LAST_RECORDS_S
from metasr.errors import CheckpointError, MetaSRError, RegistryError, StoreError
from metasr.identity import RunIdentity


@dataclass(frozen=True)
class Sent:
    """What has reached MLflow.

    Attributes:
        num_waiting: Number of records not sent yet.
        model_waits: Whether the best generator is among them.
        version: Model version of the generator; empty if there is none, or it is unknown.
        why: Why there is no version, or why records wait.
    """

    num_waiting: int = 0
    model_waits: bool = False
    version: str = ""
    why: str = ""


def sent_by(log: RunLog, tracking: TrackingConfig, run_name: str) -> Sent:
    """Return what has reached MLflow of a finished run, with its model version."""
    if log.remaining:
        return Sent(log.remaining, log.holds_model, why=log.last_error)
    return _version(tracking, run_name, "; ".join(log.refusals))


def _version(tracking: TrackingConfig, run_name: str, refusal: str) -> Sent:
    try:
        return Sent(version=str(Registry(tracking).of_run(run_name).version))
    except (RegistryError, StoreError) as error:
        return Sent(why=refusal or str(error))


def registered_before(config: JobConfig, identity: RunIdentity, lease: Lease, noted: str, tell: Tell) -> Sent:
    """Register a finished run, unless it is registered under this name already.

    Args:
        config: Settings of the run.
        identity: Identity of the run.
        lease: Lease of the run.
        noted: The model that the run was registered as, by its ledger.
        tell: Called with lines of progress.
    """
    tracking, run_name = config.tracking, identity.run_name
    if noted == tracking.model:
        num_waiting, model_waits, why = send_waiting(tracking, run_name)
        if num_waiting:
            return Sent(num_waiting, model_waits, why=why)
        try:
            return Sent(version=str(Registry(tracking).of_run(run_name).version))
        except StoreError as error:
            return Sent(why=str(error))
        except RegistryError:
            pass  # the outbox was lost with its disk, or MLflow refused its records
    return register(config, identity, lease, "", tell)


def register_trial(spec: RunSpec, sweep: str, tell: Tell) -> Sent:
    """Register the best generator of a trial; return what has reached MLflow.

    Args:
        spec: The trial.
        sweep: Name of the sweep.
        tell: Called with lines of progress.

    Raises:
        MetaSRError: Another driver has the run, or there is no good checkpoint.
    """
    identity = identify(spec)
    with Lease.acquire(open_store(spec.config.storage.url), identity.run_name, tell) as lease:
        return register(spec.config, identity, lease, sweep, tell)


def register(config: JobConfig, identity: RunIdentity, lease: Lease, sweep: str, tell: Tell) -> Sent:
    """Register the best generator of a run that has ended."""
    storage = open_store(config.storage.url, has_begun=True)
    with run_log(config, identity, sweep) as log:
        checkpoints = RunCheckpoints(storage, identity.run_name).claim(lease.fence, tell)
        wait_for_store(storage, lambda: register_best(checkpoints, log, tell), tell)
        if done := wait_for_store(storage, checkpoints.finished, tell):
            wait_for_store(storage, lambda: checkpoints.finish(done | {REGISTERED: config.tracking.model}), tell)
        log.status("FINISHED" if done else "KILLED")
        log.drain(LAST_RECORDS_S)
        return sent_by(log, config.tracking, identity.run_name)


def run_log(config: JobConfig, identity: RunIdentity, sweep: str) -> RunLog:
    """Return the log of a run for MLflow, as a child of its sweep's run if it has one."""
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


def register_best(checkpoints: RunCheckpoints, log: RunLog, tell: Tell) -> None:
    """Register the generator of the best checkpoint that is not damaged."""
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
