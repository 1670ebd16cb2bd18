"""Ray Tune: one session in which a driver runs the trials of a sweep."""

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import ExitStack
from typing import Any

import ray
from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, PlacementGroupFactory, ResultGrid, RunConfig, TuneConfig, Tuner

from cluster.checkpoints import SupersededError
from cluster.redaction import last_line
from cluster.runtime.connection import connected
from cluster.runtime.threads import in_daemon_thread
from cluster.store import open_store
from cluster.store.lease import Lease
from cluster.sweep.budget import Limits, at_once, cpus_wanted, fitting, forecast
from cluster.sweep.ledger import TrialLedger
from cluster.sweep.objective import Objective
from cluster.sweep.population import Population, new_members
from cluster.sweep.search import Search, num_left, scheduler
from cluster.sweep.space import SweepPlan
from cluster.sweep.trial import MEMBER, SweepContext, TrialRun
from cluster.sweep.watcher import Watcher
from cluster.training.group import LOOK_AGAIN_S
from cluster.training.mailbox import Mail, mail
from cluster.training.stop import Stop
from metasr.context import Request
from metasr.errors import MetaSRError, TrainingError
from metasr.identity import RunIdentity

TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # MLflow has the curves
    "RAY_AIR_NEW_OUTPUT": "0",  # else Tune prints tables in spite of verbose=0
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # failed trials have no objective
}
TINY_SHARE = 0.0001


class Session:
    """Runs trials, from the start of Ray to its end. A later session resumes those that were stopped.

    Args:
        plan: Of the sweep.
        ledger: Of its trials.
        watcher: Observes the trials, and updates the ledger.
        lease: Of the sweep: a driver that loses it stops.
        stop: Stop requests by signals.
    """

    def __init__(self, plan: SweepPlan, ledger: TrialLedger, watcher: Watcher, lease: Lease, stop: Stop) -> None:
        self._plan, self._ledger, self._watcher, self._lease, self._stop = plan, ledger, watcher, lease, stop
        self._config, self._search = plan.config, Search(plan, ledger.record)

    def run(self, identity: RunIdentity, limits: Limits, began: float, tell: Callable[[str], None]) -> None:
        """Run trials until none is left, a stop is requested, or a limit is reached.

        Args:
            identity: Of code and data.
            limits: Of time and cost.
            began: When the command was started, by the monotonic clock.
            tell: Called with lines of progress.

        Raises:
            MetaSRError: No trial fits, another driver has taken over, or all trials fail in the same way.
        """
        for name, value in TUNE_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the watcher reports trials that fail
        with ExitStack() as stack:
            # Whoever cleans up after a killed trial asks the dashboard whether the trial is alive.
            stack.enter_context(connected(cpus=cpus_wanted(self._config), dashboard=True))
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            fit = fitting(self._config, nodes)
            for line in forecast(self._config, self._ledger.record, fit, limits):
                tell(line)
            box = stack.enter_context(mail(lambda event: None))
            stack.enter_context(self._stop.forwarded_to(box.request))
            storage = stack.enter_context(tempfile.TemporaryDirectory())
            tuner = self._tuner(identity, box, at_once(self._config, fit), storage)
            # In the main thread Tune would handle Ctrl-C itself, and kill the trials.
            fitted = in_daemon_thread(tuner.fit, "tune")
            self._wait(fitted, box, limits, began, tell)

    def _tuner(self, identity: RunIdentity, box: Mail, concurrent: int, storage: str) -> Tuner:
        """Return Tune for the trials that are left. Its `storage` is never read: the ledger has everything."""
        config, record = self._config, self._ledger.record
        objective = Objective(record.scales, config.search.metric, config.search.floor)
        context = SweepContext(record.name, self._plan, objective, identity.data_digest, box.actor)
        # Trials run on this node, where the spools of their runs are. They take no CPU: their workers compute.
        address = ray.util.get_node_ip_address()
        here = {f"node:{address}": TINY_SHARE}
        space, tune_config = self._population() if config.search.scheduler == "pbt" else self._searched(concurrent)
        return Tuner(
            tune.with_resources(tune.with_parameters(TrialRun, context=context), PlacementGroupFactory([here])),
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
        """Return the space and the settings of Tune for trials that a searcher draws one by one."""
        return {}, TuneConfig(
            search_alg=self._search,
            scheduler=scheduler(self._config, self._ledger.record),
            num_samples=num_left(self._plan, self._ledger.record),
            max_concurrent_trials=concurrent,
        )

    def _population(self) -> tuple[dict[str, Any], TuneConfig]:
        """Add the missing members to the ledger, and return the space and the settings of Tune for all of them."""
        for settings in new_members(self._plan, self._search, num_left(self._plan, self._ledger.record)):
            self._watcher.add(settings)
        members = [trial.number for trial in self._watcher.trials if not trial.has_ended]
        storage = open_store(self._config.storage.url)
        warnings.filterwarnings(
            "ignore", "Consider boosting PBT", UserWarning
        )  # an actor trains several runs, one after the other
        return {MEMBER: tune.grid_search(members)}, TuneConfig(
            scheduler=Population(self._plan, self._watcher, storage)
        )

    def _wait(
        self, fitted: Future[ResultGrid], box: Mail, limits: Limits, began: float, tell: Callable[[str], None]
    ) -> None:
        watcher, failure = self._watcher, ""
        while not wait([fitted], LOOK_AGAIN_S).done:
            if self._lease.lost.is_set():
                raise SupersededError("this sweep has stopped here", "another driver has taken it over")
            stopped = f"stopped by {self._stop.name}" if self._stop.signal else ""
            failure = failure or watcher.common_failure
            reached = limits.reached(time.monotonic() - began, watcher.worker_seconds)
            if not watcher.stop_reason and (why := stopped or failure or reached):
                watcher.stop_reason, self._search.is_stopped = why, True
                tell(f"{why}: trials save a checkpoint and stop")
                box.request(Request.STOP)
        try:
            fitted.result()
        except MetaSRError:
            raise
        except Exception as error:
            fix = "Run the same command again to continue"
            raise TrainingError("the sweep failed", last_line(error), fix) from error
        if why := failure or watcher.common_failure:
            raise TrainingError("the sweep has stopped", why, "Fix that, and run the same command again")
