"""Ray Tune's searchers and schedulers, with the results of earlier drivers."""

import itertools
from typing import Any, NamedTuple, cast

import numpy as np
import optuna
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from cluster.config import SweepConfig
from cluster.sweep.record import SweepRecord, Trial
from cluster.sweep.space import SweepPlan
from cluster.sweep.trial import REPEATED

METRIC, MODE = "objective", "max"
MAX_DRAWS = 20


class Search(OptunaSearch):
    """Optuna's searcher, which never repeats settings, and can be stopped.

    Unfinished trials are suggested first, unchanged; ended ones become observations. The seed follows from the number
    of trials as well: the same seed would draw the same settings again.

    Args:
        plan: Of the sweep.
        record: Of the sweep so far.

    Attributes:
        is_stopped: Whether it suggests no more.
        num_unfinished: How many unfinished trials it suggests first.
    """

    def __init__(self, plan: SweepPlan, record: SweepRecord) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        search = plan.config.search
        seed = int(np.random.SeedSequence([search.seed, len(record.trials)]).generate_state(1)[0])
        samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        unfinished = [trial for trial in record.trials if not trial.has_ended]
        super().__init__(
            {name: domain.distribution() for name, domain in plan.space.items()},
            points_to_evaluate=[trial.settings for trial in unfinished],
            sampler=samplers[search.searcher](seed=seed),
            metric=METRIC,
            mode=MODE,
        )
        self.is_stopped, self.num_unfinished = False, len(unfinished)
        self._plan, self._used = plan, [trial.settings for trial in record.trials if trial.has_ended]
        for trial in record.trials:
            if trial.has_ended:
                self._observe(trial)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a str
        """Return settings that no trial has had, FINISHED if there are none, or None to be asked again."""
        if self.is_stopped:
            return Searcher.FINISHED
        for _ in range(MAX_DRAWS):
            if settings := self._drawn(trial_id):
                return settings
        left = self._plan.all_settings()
        if left is None:
            return None
        unused = next((settings for settings in left if settings not in self._used), None)
        if unused is None:
            return Searcher.FINISHED
        self._study.enqueue_trial(unused)
        return self._drawn(trial_id)

    @property
    def _study(self) -> optuna.Study:
        return cast(optuna.Study, self._ot_study)  # which Tune leaves unannotated

    def _drawn(self, trial_id: str) -> dict[str, Any] | None:
        """Return what Optuna draws; None if a trial has had it, as the same settings are the same run."""
        drawn = cast(dict[str, Any], super().suggest(trial_id))  # the space is fixed, so that there are settings
        settings = self._plan.tidy(drawn)
        if settings in self._used:
            self._study.tell(self._ot_trials.pop(trial_id), state=optuna.trial.TrialState.FAIL)
            return None
        self._used.append(settings)
        return drawn

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: only final results count. A restarted trial reports its validations again."""

    def _observe(self, trial: Trial) -> None:
        is_bad = trial.status == "failed" or trial.best_objective is None
        value = None if is_bad else trial.best_objective
        self.add_evaluated_point(trial.settings, value, pruned=is_bad)  # type: ignore[arg-type]  # None if pruned


def num_left(plan: SweepPlan, record: SweepRecord) -> int:
    """Return how many trials are left, at most as many as the space has unused settings."""
    wanted = max(0, plan.config.search.trials - record.num_ended)
    settings, ended = plan.all_settings(), [trial.settings for trial in record.trials if trial.has_ended]
    if settings is None:
        return wanted
    return len(list(itertools.islice((one for one in settings if one not in ended), wanted)))


class _EndedTrial(NamedTuple):
    """What ASHA reads of a trial."""

    trial_id: str


class Asha(ASHAScheduler):
    """Ray Tune's ASHA, which decides once at each rung: repeated results of a restarted trial stop nothing."""

    def on_trial_result(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Return whether a trial continues."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if result.get(REPEATED) else decision


def scheduler(config: SweepConfig, record: SweepRecord) -> TrialScheduler:
    """Return the scheduler that stops trials early, with the results of trials that have ended."""
    if config.search.scheduler != "asha":
        return FIFOScheduler()
    steps = config.train.steps
    asha = Asha(
        "step",
        max_t=steps,
        grace_period=max(1, round(config.search.asha_grace * steps)),
        reduction_factor=config.search.asha_reduction,
        metric=METRIC,
        mode=MODE,
    )
    no_controller = cast(TuneController, None)  # ASHA does not use it
    for trial in record.trials:
        if trial.has_ended:
            past = cast(TuneTrial, _EndedTrial(f"earlier-{trial.number}"))
            asha.on_trial_add(no_controller, past)
            for length, point in enumerate(trial.history, start=1):
                so_far = trial.model_copy(update={"history": trial.history[:length]})
                asha.on_trial_result(no_controller, past, {"step": point.step, "objective": so_far.best_objective})
    return asha
