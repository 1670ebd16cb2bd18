"""Ray Tune, while a driver runs the trials of a sweep."""

import logging
import os
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import ExitStack
from typing import Any

import ray
from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, PlacementGroupFactory, RunConfig, TuneConfig, Tuner

from cluster.checkpoints import SupersededError
from cluster.runtime.connection import connected
from cluster.store import open_store
from cluster.store.lease import Lease
from cluster.sweep.budget import Limits, at_once, cpus_wanted, fitting, outlook
from cluster.sweep.ledger import TrialLedger
from cluster.sweep.objective import Objective
from cluster.sweep.population import Population, new_members
from cluster.sweep.search import Search, num_left, scheduler
from cluster.sweep.space import SweepPlan
from cluster.sweep.trial import MEMBER, SweepContext, TrialRun
from cluster.sweep.watcher import Watcher
from cluster.training.group import LOOK_AGAIN_S, Stop
from cluster.training.mailbox import Mail, mail
from metasr.context import Wish
from metasr.errors import MetaSRError, TrainingError
from metasr.identity import RunIdentity

TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow has the curves
    "RAY_AIR_NEW_OUTPUT": "0",  # or Tune prints tables, also where it is to be silent
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that failed has no objective
}
NEXT_TO_NOTHING = 0.0001


class Session:
    """Trials, from the start of Ray to its end. What was stopped goes on in another session.

    Args:
        plan: Of the sweep.
        ledger: What is known of it.
        watcher: Sees the trials, and changes the ledger.
        lease: Of the sweep: who loses it stops.
        stop: Hears signals.
    """

    def __init__(self, plan: SweepPlan, ledger: TrialLedger, watcher: Watcher, lease: Lease, stop: Stop) -> None:
        self._plan, self._ledger, self._watcher, self._lease, self._stop = plan, ledger, watcher, lease, stop
        self._config, self._search = plan.config, Search(plan, ledger.record)

    def run(self, identity: RunIdentity, limits: Limits, began: float, tell: Callable[[str], None]) -> None:
        """Run trials until there are no more, or `stop` was asked for, or a limit is reached.

        Args:
            identity: What trials are made from.
            limits: When to stop.
            began: When the command began, by the monotonic clock.
            tell: Called with lines of progress.

        Raises:
            MetaSRError: No trial fits, another driver has taken over, or all trials fail in the same way.
        """
        for name, value in TUNE_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the watcher tells of trials that fail
        with ExitStack() as stack:
            stack.enter_context(connected(cpus=cpus_wanted(self._config)))
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            fit = fitting(self._config, nodes)
            for line in outlook(self._config, self._ledger.record, fit, limits):
                tell(line)
            box = stack.enter_context(mail(lambda event: None))
            stack.enter_context(self._stop.heard(box.ask))
            storage = stack.enter_context(tempfile.TemporaryDirectory())
            fitted = _in_thread(self._tuner(identity, box, at_once(self._config, fit), storage).fit)
            self._wait(fitted, box, limits, began, tell)

    def _tuner(self, identity: RunIdentity, box: Mail, concurrent: int, storage: str) -> Tuner:
        """Return Tune for the trials that are left. What it keeps in `storage` is never read: the ledger counts."""
        config, record = self._config, self._ledger.record
        objective = Objective(record.scales, config.search.metric, config.search.floor)
        work = SweepContext(record.name, self._plan, objective, identity.data_digest, box.actor)
        # Beside this driver, where the spools of its runs belong. A trial itself waits more than it computes.
        here = {f"node:{ray.util.get_node_ip_address()}": NEXT_TO_NOTHING}
        space, tune_config = self._population() if config.search.scheduler == "pbt" else self._searched(concurrent)
        return Tuner(
            tune.with_resources(tune.with_parameters(TrialRun, work=work), PlacementGroupFactory([here])),
            param_space=space,
            tune_config=tune_config,
            run_config=RunConfig(
                name=record.name,
                storage_path=storage,
                verbose=0,
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                callbacks=[self._watcher],
                failure_config=FailureConfig(max_failures=config.resources.max_failures),
            ),
        )

    def _searched(self, concurrent: int) -> tuple[dict[str, Any], TuneConfig]:
        """Return what Tune needs for trials that are chosen one after the other."""
        return {}, TuneConfig(
            search_alg=self._search,
            scheduler=scheduler(self._config, self._ledger.record),
            num_samples=num_left(self._plan, self._ledger.record),
            max_concurrent_trials=concurrent,
        )

    def _population(self) -> tuple[dict[str, Any], TuneConfig]:
        """Return what Tune needs for trials that train at once, after all of them are in the ledger."""
        for settings in new_members(self._plan, self._search, num_left(self._plan, self._ledger.record)):
            self._watcher.enlist(settings)
        members = [trial.number for trial in self._watcher.trials if not trial.has_ended]
        storage = open_store(self._config.storage.url)
        warnings.filterwarnings("ignore", "Consider boosting PBT", UserWarning)  # with one actor for several runs
        return {MEMBER: tune.grid_search(members)}, TuneConfig(
            scheduler=Population(self._plan, self._watcher, storage)
        )

    def _wait(
        self, fitted: Future[object], box: Mail, limits: Limits, began: float, tell: Callable[[str], None]
    ) -> None:
        watcher, hopeless = self._watcher, ""
        while not wait([fitted], LOOK_AGAIN_S).done:
            if self._lease.lost.is_set():
                raise SupersededError("this sweep has stopped here", "another driver has taken it over")
            stopped = f"stopped by {self._stop.name}" if self._stop.signal else ""
            hopeless = hopeless or watcher.hopeless
            reached = limits.reached(time.monotonic() - began, watcher.worker_seconds)
            if not watcher.why_halted and (why := stopped or hopeless or reached):
                watcher.why_halted, self._search.is_halted = why, True
                tell(f"{why}: trials keep a checkpoint and end")
                box.ask(Wish.STOP)
        try:
            fitted.result()
        except MetaSRError:
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise TrainingError("the sweep failed", reason, "Run the same command again to continue") from error
        if why := hopeless or watcher.hopeless:
            raise TrainingError("the sweep has stopped", why, "Mend that, and run the same command again")


def _in_thread(fit: Callable[[], object]) -> "Future[object]":
    """Run Tune in a thread of its own: in the main thread it takes Ctrl-C for itself, and ends trials at once."""
    outcome: Future[object] = Future()

    def run() -> None:
        try:
            outcome.set_result(fit())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="tune", daemon=True).start()
    return outcome
