"""A training run from its driver: one at a time, watched, and registered at the end."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

import torch

from cluster.checkpoints import RunCheckpoints, SupersededError
from cluster.checkpoints.fork import Fork, branch_off, require_same_network
from cluster.config import JobConfig, check_workers
from cluster.outbox.delivery import SWEEP_TAG
from cluster.outbox.run_log import RunLog
from cluster.preflight import require, require_nodes
from cluster.recipes import Resolved, flatten
from cluster.registry import Registry
from cluster.runtime.code_version import code_version
from cluster.runtime.connection import connected
from cluster.store import open_store, wait_for_store
from cluster.store.lease import Lease
from cluster.stream import read_index
from cluster.training.group import Stop, train_on_ray
from cluster.training.naming import stored_run_name
from cluster.watch import Event, RunReport, Watch
from metasr.errors import CheckpointError, ConfigError, MetaSRError, StoreError
from metasr.identity import RunIdentity
from metasr.inference.bundle import Bundle, load_bundle
from metasr.perceptual import check_perceptual

Tell = Callable[[str], None]
LAST_RECORDS_S = 20.0
REPORT = "run-report.json"
REGISTERED = "registered"
OUTCOME = "metasr.outcome"
CHANGED = "metasr.changed"


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
        data_digest: Of the index that the sweep began with, for which there may be a newer one; empty for the newest.
    """

    name: str
    see: Callable[[Event], Mapping[str, float]]
    stop: Stop
    data_digest: str = ""


def train(
    resolved: Resolved[JobConfig],
    recipe: str,
    tell: Tell,
    *,
    init_from: str = "",
    fork: Fork | None = None,
    terminal: TextIO | None = None,
    sweep: InSweep | None = None,
) -> Trained:
    """Train what a config describes, or go on with it, and register the best generator.

    The same config on the same data is the same run: it continues from its newest checkpoint, and a finished run is
    left as it is, or registered under another name where that has changed.

    Args:
        resolved: The config and where its values came from.
        recipe: Name of the recipe, the first part of the run's name.
        tell: Called with lines of progress.
        init_from: Bundle whose weights to start from, as `Registry.locate` takes it; empty for random weights.
        fork: Checkpoint of another run in the same storage to go on from, instead.
        terminal: Where a bar may be drawn.
        sweep: That it is a trial of.

    Raises:
        MetaSRError: The settings, the data or the machines cannot be used, or training failed.
    """
    config = resolved.config
    identity, initial = _introduced(config, recipe, init_from, fork, sweep.data_digest if sweep else "", tell)
    data = require(config, tell)
    storage = open_store(config.storage.url)
    with Lease.acquire(storage, identity.run_name, tell) as lease:
        checkpoints = RunCheckpoints(storage, identity.run_name)
        if done := checkpoints.finished():
            return _already_done(config, identity, lease, done, sweep, tell)
        checkpoints = checkpoints.claim(lease.fence, tell)  # which locks out the workers of an earlier driver
        if fork is not None:
            wait_for_store(storage, lambda: branch_off(storage, fork, checkpoints, config), tell)
        with _log(config, identity, sweep.name if sweep else "") as log:
            log.text("recipe.yaml", resolved.text() + "\n")
            watched = _Watched(log, Watch(config.train.steps, tell, terminal=terminal), tell, sweep, lease)
            keep = partial(storage.put, f"{identity.run_name}/{REPORT}")
            stop = sweep.stop if sweep else Stop(tell)
            with watched.failures():
                with connected(config.resources.cpus):
                    watched.report.mark("connected")
                    require_nodes(config, data, tell)
                    train_on_ray(config, identity, initial, lease, watched.see, watched.report.mark, stop)
                checkpoints = checkpoints.claim(lease.fence, tell)  # or another driver has the run by now
                step = wait_for_store(storage, lambda: _newest_step(checkpoints), tell)
                if step < config.train.steps:
                    not_sent = watched.finish(stop.status, f"stopped by {stop.name}", keep)
                    return Trained(identity.run_name, step, stopped_by=stop.signal, records_not_sent=not_sent)
                if sweep is None:
                    wait_for_store(storage, lambda: _register_best(checkpoints, log, tell), tell)
                not_sent = watched.finish("FINISHED", "finished", keep)
                noted = {"step": str(step), REGISTERED: "" if sweep else config.tracking.model}
                wait_for_store(storage, lambda: checkpoints.finish(noted), tell)
                return Trained(identity.run_name, step, records_not_sent=not_sent)


def _already_done(
    config: JobConfig, identity: RunIdentity, lease: Lease, done: Mapping[str, str], sweep: InSweep | None, tell: Tell
) -> Trained:
    """Register a finished run where it was not yet, or was under another name."""
    is_registered = sweep is not None or done.get(REGISTERED) == config.tracking.model
    not_sent = 0 if is_registered else _register(config, identity, lease, "", tell)
    return Trained(identity.run_name, int(done["step"]), already_done=True, records_not_sent=not_sent)


def register_trial(
    config: JobConfig, recipe: str, fork: Fork | None, data_digest: str, sweep: str, tell: Tell
) -> int:
    """Register the best generator of a trial; return how many records MLflow has not got.

    Args:
        config: The trial's settings.
        recipe: First part of its run's name.
        fork: What it branched off from.
        data_digest: Of the index that the sweep began with.
        sweep: Name of the sweep.
        tell: Called with lines of progress.

    Raises:
        MetaSRError: Another driver is at work on the run, or it has no good checkpoint.
    """
    identity = identify(config, recipe, fork=fork, data_digest=data_digest)
    with Lease.acquire(open_store(config.storage.url), identity.run_name, tell) as lease:
        return _register(config, identity, lease, sweep, tell)


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


def _introduced(
    config: JobConfig, recipe: str, init_from: str, fork: Fork | None, data_digest: str, tell: Tell
) -> tuple[RunIdentity, Bundle | None]:
    """Tell and return what the run is made from, and the bundle that it starts from."""
    initial = load_initial(config, init_from) if init_from else None
    identity = identify(config, recipe, initial, fork, data_digest, tell)
    tell(f"run {identity.run_name}, code {identity.code_version[:12]}")
    if fork is not None:
        tell(f"branching off from run {fork.run_name} at step {fork.step}")
    if initial is not None:
        tell(f"starting from the weights of {init_from}, run {initial.about['run_name']}")
    if not config.loss.perceptual:
        tell("loss.perceptual is 0: training without the perceptual loss")
    return identity, initial


def _log(config: JobConfig, identity: RunIdentity, sweep: str) -> RunLog:
    tags = _tags(identity) | ({SWEEP_TAG: sweep} if sweep else {})
    return RunLog(config.tracking, identity.run_name, flatten(config), tags, parent=sweep)


class _Watched:
    """Hands every event to whoever wants to know: MLflow, the person who waits, the report, a sweep."""

    def __init__(self, log: RunLog, watch: Watch, tell: Tell, sweep: InSweep | None, lease: Lease) -> None:
        self.report = RunReport()
        self._log, self._watch, self._tell, self._sweep, self._lease = log, watch, tell, sweep, lease

    def see(self, event: Event) -> None:
        """Take an event."""
        self._watch.see(event)
        self.report.see(event)
        more = self._sweep.see(event) if self._sweep else {}
        if event.kind in ("steps", "validated", "resumed", "skipped"):
            self._log.metrics(event.step, {**event.values, **more}, event.pictures)
        if event.kind == "changed":
            self._log.tag(CHANGED, event.text)

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Report a run that ends by an error or a second Ctrl-C, unless it is another driver's by now."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, SupersededError) or self._lease.lost.is_set():
                self._watch.close()
            elif isinstance(error, KeyboardInterrupt):
                self.finish("KILLED", "interrupted")
            else:
                self.finish("FAILED", f"failed: {error}")
            raise

    def finish(self, status: str, outcome: str, keep: Callable[[bytes], object] | None = None) -> int:
        """Say how the run ended, with a report; return how many records MLflow has not got.

        Args:
            status: For MLflow.
            outcome: For a person.
            keep: Stores the report beside the checkpoints too.
        """
        self._watch.close()
        report = json.dumps(self.report.finish(outcome, records_not_sent=self._log.remaining), indent=1) + "\n"
        try:
            if keep is not None:
                keep(report.encode())
        except StoreError as error:
            self._tell(f"{REPORT} is in MLflow alone: {error}")
        self._log.text(REPORT, report)
        self._log.tag(OUTCOME, outcome)
        self._log.status(status)
        not_sent = self._log.drain(LAST_RECORDS_S)
        self.report.finish(outcome, records_not_sent=not_sent)
        for line in self.report.lines():
            self._tell(line)
        return not_sent


def _tags(identity: RunIdentity) -> dict[str, str]:
    return {
        "mlflow.source.git.commit": identity.code_version.removesuffix("+changes"),
        "metasr.code_version": identity.code_version,
        "metasr.data_sha256": identity.data_digest,
        "metasr.initial_bundle": identity.initial_bundle,
        "metasr.forked_from": identity.forked_from,
    }


def load_initial(config: JobConfig, reference: str) -> Bundle:
    """Return the bundle to start from, whose network must be the one that `config` describes."""
    with tempfile.TemporaryDirectory() as download:
        folder = Registry(config.tracking).locate(reference, Path(download)).folder
        bundle = load_bundle(folder, torch.device("cpu"))
    require_same_network(bundle.about["config"]["model"], config, f"start from {reference}")
    return bundle


def identify(
    config: JobConfig,
    recipe: str,
    initial: Bundle | None = None,
    fork: Fork | None = None,
    data_digest: str = "",
    tell: Tell = lambda line: None,
) -> RunIdentity:
    """Return what the run is made from, after a look at what would stop its workers.

    `data_digest` says which data, see `read_index`.
    """
    check_workers(config)
    if not config.data.url:
        raise ConfigError(
            "data.url is not set", "there is nothing to train on", "Give --data.url, see `metasr prepare`"
        )
    check_perceptual(config.loss)
    store = open_store(config.data.url)
    digest = read_index(store, data_digest).digest()
    bundle, branch = initial.digest if initial else "", str(fork) if fork else ""
    name = stored_run_name(config, recipe, digest, bundle or branch, tell)
    return RunIdentity(name, code_version(), store.url, digest, bundle, branch)


def _newest_step(checkpoints: RunCheckpoints) -> int:
    return max((kept.step for kept in checkpoints.entries()), default=0)


def _register_best(checkpoints: RunCheckpoints, log: RunLog, tell: Tell) -> None:
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
