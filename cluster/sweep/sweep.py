"""A sweep from its driver: run the trials, one driver at a time, and register the best one."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cluster.checkpoints import SupersededError
from cluster.config import SweepConfig
from cluster.outbox.access import require_access
from cluster.outbox.run_log import RunLog
from cluster.preflight import require
from cluster.recipes import flatten
from cluster.runtime.code_version import code_version
from cluster.store import open_store, wait_for_store
from cluster.store.lease import Lease
from cluster.stream import read_index
from cluster.sweep.budget import COST_UP, TIME_UP, Limits, fitting, forecast, this_machine
from cluster.sweep.ledger import FOLDER, LEDGER, TrialLedger, read_ledger
from cluster.sweep.objective import Objective
from cluster.sweep.outcome import conclude
from cluster.sweep.record import SweepRecord, Trial
from cluster.sweep.search import num_left
from cluster.sweep.session import Session
from cluster.sweep.space import SweepPlan
from cluster.sweep.watcher import Watcher
from cluster.training.identify import RunSpec, identify
from cluster.training.naming import deciding, former_run_name, run_name, stored_name
from cluster.training.precision import Precision, choose_precision
from cluster.training.registration import Sent
from cluster.training.stop import Stop
from metasr.identity import RunIdentity

Tell = Callable[[str], None]
RECORDS_S = 20.0
SEARCH_0_1 = "searcher scheduler seed metric floor asha_grace asha_reduction pbt_interval pbt_quantile"
"""What version 0.1.0 made names of. It is never changed: sweeps of that version are found by it."""


@dataclass(frozen=True)
class Swept:
    """The outcome of a sweep.

    Attributes:
        record: Of the sweep.
        stopped_by: Number of the signal that stopped it; 0 if it is finished.
        records_not_sent: How many records of the sweep have not reached MLflow.
        best: What MLflow has got of the best trial.
    """

    record: SweepRecord
    stopped_by: int = 0
    records_not_sent: int = 0
    best: Sent = field(default_factory=Sent)


def sweep(plan: SweepPlan, tell: Tell, *, limits: Limits, output: Path | None = None) -> Swept:
    """Run or resume the trials of a sweep, and register the best generator of all.

    The same plan on the same data is the same sweep: ended trials are not trained again, others are resumed.

    Args:
        plan: Of the sweep.
        tell: Called with lines of progress.
        limits: Of time and cost.
        output: Folder for the page and the record, besides MLflow.

    Raises:
        MetaSRError: The settings, the data or the machines cannot be used, or all trials fail.
    """
    began, plan = time.monotonic(), _settled(plan, tell)
    config, identity = plan.config, identify(RunSpec(plan.sample, plan.recipe))
    storage = open_store(config.storage.url)
    wait_for_store(storage, lambda: require(config, tell), tell)
    new = wait_for_store(storage, lambda: _new_record(plan, identity, tell), tell)
    tell(f"sweep {new.name}, code {identity.code_version[:12]}")
    tell(f"objective: {new.objective}")
    folder = f"{FOLDER}/{new.name}"
    require_access(config.tracking, tell)
    acquire = partial(Lease.acquire, storage, folder, tell)
    with wait_for_store(storage, acquire, tell) as lease, _log(config, new, identity) as log:
        stop, open_ledger = Stop(tell), partial(TrialLedger, storage, folder, lease.fence, new)
        ledger = wait_for_store(storage, open_ledger, tell)
        wait_for_store(storage, lambda: requeue(ledger), tell)
        watcher = Watcher(plan, ledger, storage, identity.data_digest, log, tell)
        log.drain(RECORDS_S)  # so that trials find their parent run in MLflow
        try:
            why = ""
            if num_left(plan, ledger.record):
                if why := limits.reached(0.0, watcher.worker_seconds):
                    tell(f"{why}: no trial is resumed")
                else:
                    Session(plan, ledger, watcher, lease, stop).run(identity, limits, began, tell)
                    why = watcher.stop_reason
            if stop.signal:
                log.status("KILLED")
                return Swept(ledger.record, stop.signal, log.drain(RECORDS_S))
            if why:
                _stop_waiting(ledger, why)
            record, best = conclude(plan, ledger.record, identity.data_digest, log, tell, output)
            for trial in record.trials:
                ledger.put(trial)
            log.status("FINISHED")
            return Swept(record, records_not_sent=log.drain(RECORDS_S), best=best)
        except BaseException as error:
            if not (lease.lost.is_set() or isinstance(error, SupersededError)):  # else it is another driver's
                log.status("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            log.drain(RECORDS_S)
            raise


def preview(plan: SweepPlan, limits: Limits) -> list[str]:
    """Return lines on what a sweep would do. It writes nothing and starts no Ray.

    Raises:
        MetaSRError: The settings or the data cannot be used, or the storage cannot be read.
    """
    lines = list[str]()
    plan = _settled(plan, lines.append)
    config, identity = plan.config, identify(RunSpec(plan.sample, plan.recipe))
    new = _new_record(plan, identity)
    stored, _ = read_ledger(open_store(config.storage.url), f"{FOLDER}/{new.name}/{LEDGER}")
    record = stored.record if stored else new
    return [
        *lines,
        f"sweep {new.name}, code {code_version()[:12]}",
        f"objective: {new.objective}",
        *(f"searched: {name}  {domain}" for name, domain in new.space.items()),
        *forecast(config, record, fitting(config, this_machine(config)), limits),
        "nothing was written; the capacity is that of this machine alone",
    ]


def _settled(plan: SweepPlan, tell: Tell) -> SweepPlan:
    """Return the sweep with the precision that `train.precision: auto` stands for, the same for all trials."""
    if plan.config.train.precision != "auto" or not plan.config.data.url:
        return plan
    digest = read_index(open_store(plan.config.data.url)).digest()
    storage = open_store(plan.config.storage.url)

    def begun(precision: Precision) -> bool:
        return storage.exists(f"{FOLDER}/{sweep_name(plan.with_precision(precision), digest)}/{LEDGER}")

    return plan.with_precision(choose_precision(plan.config, begun, tell))


def _new_record(plan: SweepPlan, identity: RunIdentity, tell: Tell = lambda line: None) -> SweepRecord:
    config = plan.config
    scales = tuple(map(str, config.eval.scales))
    space = {name: str(domain) for name, domain in plan.space.items()}
    objective = str(Objective(scales, config.search.metric, config.search.floor))
    return SweepRecord(
        name=sweep_name(plan, identity.data_digest, tell),
        recipe=plan.recipe,
        objective=objective,
        scales=scales,
        space=space,
    )


def sweep_name(plan: SweepPlan, data_digest: str, tell: Tell = lambda line: None) -> str:
    """Return a name that is the same for the same search of the same experiment on the same data, and no other.

    A sweep that version 0.1.0 has begun keeps its name.
    """
    around, search = (plan.trial(plan.first).config, plan.recipe, data_digest), plan.config.search
    name = _named(plan, run_name(*around), deciding(search))
    former = _named(plan, former_run_name(*around), search.model_dump(mode="json", include=set(SEARCH_0_1.split())))
    return stored_name(open_store(plan.config.storage.url), name, former, f"{FOLDER}/{{}}/{LEDGER}", tell)


def _named(plan: SweepPlan, around: str, search: dict[str, Any]) -> str:
    space = {name: [domain.kind, list(domain.values)] for name, domain in sorted(plan.space.items())}
    text = json.dumps([around, space, search], sort_keys=True)
    return f"sweep-{plan.name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def _log(config: SweepConfig, record: SweepRecord, identity: RunIdentity) -> RunLog:
    params = {name: value for name, value in flatten(config).items() if name not in record.space}
    params |= {f"space.{name}": domain for name, domain in record.space.items()}
    tags = {"metasr.code_version": identity.code_version, "metasr.data_sha256": identity.data_digest}
    return RunLog(config.tracking, record.name, params, tags)


def requeue(ledger: TrialLedger) -> None:
    """Set trials to waiting that an earlier driver left running, or whose end may have been removed as a cause.

    Such causes are a limit, which may be higher, and a failure common to all trials, which may be fixed.
    """
    all_failed = bool(ledger.record.common_failure)

    def is_left(trial: Trial) -> bool:
        reached_limit = trial.status == "stopped early" and trial.reason in (TIME_UP, COST_UP)
        return trial.status == "running" or reached_limit or (all_failed and trial.status == "failed")

    for trial in filter(is_left, ledger.record.trials):
        ledger.put(trial.model_copy(update={"status": "waiting", "reason": ""}))


def _stop_waiting(ledger: TrialLedger, why: str) -> None:
    """End trials that still wait when a limit is reached, so that they are ranked by what they have found."""
    for trial in ledger.record.trials:
        if trial.status == "waiting":
            ledger.put(trial.model_copy(update={"status": "stopped early", "reason": why}))
