"""Who chooses settings and who stops trials: Ray Tune's searchers and schedulers, told what earlier drivers found."""

import itertools
from typing import Any, NamedTuple

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
from cluster.sweep.trial import AGAIN

METRIC = {"metric": "objective", "mode": "max"}
TRIES = 20


class Search(OptunaSearch):
    """Optuna's searcher, which repeats nothing, and can be told to suggest no more.

    Trials that were not ended come first, as they were; those that were teach it. With other trials behind it, it
    has another seed: the same would choose the same settings again.

    Args:
        plan: Of the sweep.
        record: What is known of it.

    Attributes:
        is_halted: Whether it suggests no more.
        num_first: How many trials come first, as they were.
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
            **METRIC,
        )
        self.is_halted, self.num_first = False, len(unfinished)
        self._plan, self._taken = plan, [trial.settings for trial in record.trials if trial.has_ended]
        for trial in record.trials:
            if trial.has_ended:
                self._learn(trial)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return settings for a trial that no other has had; None to be asked again."""
        if self.is_halted:
            return Searcher.FINISHED
        for _ in range(TRIES):
            if settings := self._drawn(trial_id):
                return settings
        left = self._plan.all_settings()
        if left is None:
            return None
        unused = next((settings for settings in left if settings not in self._taken), None)
        if unused is None:
            return Searcher.FINISHED
        self._ot_study.enqueue_trial(unused)
        return self._drawn(trial_id)

    def _drawn(self, trial_id: str) -> dict[str, Any] | None:
        """Return what Optuna draws; None if a trial has had it: the same settings are the same run."""
        drawn: dict[str, Any] = super().suggest(trial_id)
        settings = self._plan.tidy(drawn)
        if settings in self._taken:
            self._ot_study.tell(self._ot_trials.pop(trial_id), state=optuna.trial.TrialState.FAIL)
            return None
        self._taken.append(settings)
        return drawn

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: it learns from ends alone. A trial that is started again tells its validations again."""

    def _learn(self, trial: Trial) -> None:
        is_bad = trial.status == "failed" or trial.best_objective is None
        self.add_evaluated_point(trial.settings, None if is_bad else trial.best_objective, pruned=is_bad)


def num_left(plan: SweepPlan, record: SweepRecord) -> int:
    """Return how many trials are left to do: as many as were asked for, and as the space has settings for."""
    wanted = max(0, plan.config.search.trials - record.num_ended)
    settings, ended = plan.all_settings(), [trial.settings for trial in record.trials if trial.has_ended]
    if settings is None:
        return wanted
    return len(list(itertools.islice((one for one in settings if one not in ended), wanted)))


class _Past(NamedTuple):
    """All that a scheduler asks of a trial that ended before."""

    trial_id: str


class Asha(ASHAScheduler):
    """Stops a trial that is behind others when it comes to a rung, once: what it tells again was decided before."""

    def on_trial_result(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Return whether a trial goes on."""
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if result.get(AGAIN) else decision


def scheduler(config: SweepConfig, record: SweepRecord) -> TrialScheduler:
    """Return who stops trials early; it knows how far trials that ended before had come."""
    if config.search.scheduler != "asha":
        return FIFOScheduler()
    steps = config.train.steps
    asha = Asha(
        "step",
        max_t=steps,
        grace_period=max(1, round(config.search.asha_grace * steps)),
        reduction_factor=config.search.asha_reduction,
        **METRIC,
    )
    for trial in record.trials:
        if trial.has_ended:
            past = _Past(f"earlier-{trial.number}")
            asha.on_trial_add(None, past)
            for length, point in enumerate(trial.history, start=1):
                so_far = trial.model_copy(update={"history": trial.history[:length]})
                asha.on_trial_result(None, past, {"step": point.step, "objective": so_far.best_objective})
    return asha
