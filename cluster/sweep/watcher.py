"""Observes the trials of a sweep: into the ledger, to the person, to MLflow and to Prometheus."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, get_args

from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial

from cluster.checkpoints.fork import Fork
from cluster.outbox.run_log import RunLog
from cluster.store import Store, wait_for_store
from cluster.sweep.budget import COST_UP, TIME_UP
from cluster.sweep.ledger import TrialLedger
from cluster.sweep.record import Point, Status, Trial
from cluster.sweep.space import SweepPlan
from cluster.sweep.trial import HAS_WORKERS, IDLE_S, MEMBER
from cluster.training.naming import stored_run_name
from cluster.watch.exported import Exporter
from metasr.errors import ConfigError

SAVE_EVERY_S = 60.0
RENEW_EVERY_S = 5.0


class Watcher(Callback):
    """Callback of Ray Tune for all trials.

    Args:
        plan: Of the sweep.
        ledger: Of the trials.
        store: Of the ledger.
        data_digest: SHA-256 of the data's index.
        log: Of the sweep's run in MLflow.
        tell: Called with lines of progress.

    Attributes:
        stop_reason: Why trials were requested to stop; empty if they were not.
    """

    def __init__(
        self,
        plan: SweepPlan,
        ledger: TrialLedger,
        store: Store,
        data_digest: str,
        log: RunLog,
        tell: Callable[[str], None],
    ) -> None:
        self.stop_reason = ""
        self._plan, self._ledger, self._store, self._data_digest = plan, ledger, store, data_digest
        self._log, self._tell = log, tell
        self._steps = plan.config.train.steps
        self._numbers: dict[str, int] = {}
        self._before_s: dict[int, float] = {}
        self._began: dict[int, float] = {}
        self._saved = time.monotonic()
        self._exporter, self._renewed = Exporter(sweep=ledger.record.name), time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Give a trial a number, or that of the trial which it resumes."""
        known = self._trial(trial)
        self._before_s[known.number] = known.seconds
        self._began.pop(known.number, None)
        self._save(known.model_copy(update={"status": "running", "reason": ""}))
        settings = ", ".join(f"{name} {value}" for name, value in known.settings.items())
        verb = "resumes" if known.history else f"starts from {known.fork}" if known.fork else "starts"
        self._tell(f"trial {known.number} {verb}: {settings}")

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """Store the result of a validation; only time with workers counts."""
        # A result that had a population member replaced arrives after the number of the new trial was set.
        number = result.get(MEMBER, self._numbers[trial.trial_id])
        if HAS_WORKERS in result:
            self._count(number, result[HAS_WORKERS], result[IDLE_S])
        if "point" not in result:
            return
        known, point = self.trials[number], Point.model_validate_json(result["point"])
        is_new = point not in known.history
        history = {one.step: one for one in (*known.history, point)}
        by_step = tuple(history[step] for step in sorted(history))
        self._save(known.model_copy(update={"history": by_step, "seconds": self._seconds(known.number)}))
        if is_new:
            self._tell(f"trial {known.number}  step {point.step}/{self._steps}  objective {point.objective:+.4f}")

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Store once a minute how long trials have run: that time costs money even if this driver dies."""
        if time.monotonic() >= self._renewed + RENEW_EVERY_S:
            self._renewed = time.monotonic()
            self._exporter.renew()
        if time.monotonic() < self._saved + SAVE_EVERY_S:
            return
        self._saved = time.monotonic()
        for known in self.trials:
            if known.status == "running" and known.number in self._began:
                self._save(known.model_copy(update={"seconds": self._seconds(known.number)}))

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Report that the process of a trial died and is restarted."""
        known = self._trial(trial)
        self._count(known.number, False)
        self._save(known.model_copy(update={"seconds": self._seconds(known.number)}))
        self._tell(f"trial {known.number}: its process died; restarting it")

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Record a trial whose process died too often."""
        self._end(self._trial(trial), "failed", "its process died too often: see Ray's logs for the reason")

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Record how a trial ended."""
        known, outcome = self._trial(trial), trial.last_result.get("outcome")
        if outcome == "stopped":
            is_over = self.stop_reason in (TIME_UP, COST_UP)
            self._end(known, "stopped early" if is_over else "waiting", self.stop_reason)
        elif outcome is None:
            at = f"at step {known.history[-1].step}" if known.history else "before its first validation"
            self._end(known, "stopped early", f"{self._plan.config.search.scheduler}: behind others {at}")
        else:
            self._end(known, outcome, trial.last_result["reason"])

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune saves its callbacks, and nothing restores them. See `Session`."""
        return {}

    @property
    def worker_seconds(self) -> float:
        """Time of all trials so far in seconds, times their workers."""
        seconds = sum(
            self._seconds(trial.number) if trial.status == "running" else trial.seconds for trial in self.trials
        )
        return seconds * self._plan.config.resources.num_workers

    @property
    def common_failure(self) -> str:
        """Why all trials fail, whatever their settings; empty if they do not."""
        reason = self._ledger.record.common_failure
        return f"all trials fail in the same way: {reason}" if reason else ""

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Trials of the ledger, by number."""
        return self._ledger.record.trials

    def add(self, settings: dict[str, Any]) -> None:
        """Add a trial that is to be started to the ledger."""
        self._save(self.new(settings))

    def replace(self, trial: TuneTrial, parent: Trial, new: Trial) -> None:
        """Record that a member of a population ends, and that a fork of another takes its place.

        Args:
            trial: The one that ends.
            parent: The one that the new one was forked from.
            new: See `new`.
        """
        at = f" at step {new.fork.step}" if new.fork else ""
        self._end(
            self._trial(trial),
            "replaced",
            f"pbt: replaced by trial {new.number}, a fork of trial {parent.number}{at}",
        )
        self._save(new)
        self._numbers[trial.trial_id] = new.number

    def new(self, settings: dict[str, Any], fork: Fork | None = None) -> Trial:
        """Return the next trial, which is not yet in the ledger.

        Args:
            settings: Of the trial.
            fork: The checkpoint that its run starts from, if not from random weights.
        """
        number = len(self.trials)
        try:
            what = self._plan.trial(settings).config, self._plan.recipe, self._data_digest, str(fork) if fork else ""
            name = wait_for_store(self._store, lambda: stored_run_name(*what), self._tell)
        except ConfigError:  # the trial will report it
            name = f"{self._ledger.record.name}-trial-{number}"
        return Trial(number=number, settings=settings, run_name=name, fork=fork)

    def _known(self, trial: TuneTrial) -> Trial:
        """Return the trial of an actor: its known one, one that waits with the same settings, or a new one."""
        number = self._numbers.get(trial.trial_id, trial.config.get(MEMBER))
        if number is not None:
            return self.trials[number]
        settings = self._plan.tidy(trial.config)
        for known in self.trials:
            if known.settings == settings and not known.has_ended and known.number not in self._numbers.values():
                return known
        return self.new(settings)

    def _trial(self, trial: TuneTrial) -> Trial:
        """Return the trial of an actor, and add it to the ledger: its process may die before it has started."""
        known = self._known(trial)
        if trial.trial_id not in self._numbers:
            self._numbers[trial.trial_id], self._before_s[known.number] = known.number, known.seconds
            self._save(known)
        return known

    def _count(self, number: int, has_workers: bool, idle_s: float = 0.0) -> None:
        """Count the time of a trial from now on, or no longer; the last `idle_s` seconds do not count."""
        now = time.monotonic()
        began = self._began.pop(number, now)
        self._before_s[number] = self._before_s.get(number, 0.0) + max(0.0, now - began - idle_s)
        if has_workers:
            self._began[number] = now

    def _seconds(self, number: int) -> float:
        now = time.monotonic()
        return self._before_s.get(number, 0.0) + now - self._began.get(number, now)

    def _save(self, trial: Trial) -> None:
        wait_for_store(self._store, lambda: self._ledger.put(trial), self._tell)
        self._export()

    def _export(self) -> None:
        """Export how the sweep stands."""
        record = self._ledger.record
        counts = Counter(trial.status for trial in record.trials)
        for status in get_args(Status):
            self._exporter.put("metasr_sweep_trials", counts[status], status=status)
        if record.best is not None and record.best.best_objective is not None:
            self._exporter.put("metasr_sweep_best_objective", record.best.best_objective)

    def _end(self, trial: Trial, status: Any, reason: str) -> None:
        self._count(trial.number, False)
        ended = trial.model_copy(update={"status": status, "reason": reason, "seconds": self._seconds(trial.number)})
        self._save(ended)
        found = "" if ended.best_objective is None else f", objective {ended.best_objective:+.4f}"
        self._tell(f"trial {ended.number} {status}{found}{f': {reason}' if reason else ''}")
        record = self._ledger.record
        numbers = {"trials_ended": float(sum(one.has_ended for one in record.trials))}
        if ended.best_objective is not None:
            numbers["objective"] = ended.best_objective
        if record.best is not None and record.best.best_objective is not None:
            numbers["best_objective"] = record.best.best_objective
        self._log.metrics(ended.number, numbers)
