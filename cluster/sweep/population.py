"""Population based training: trials that are behind are replaced by branches of those that are ahead."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler

from cluster.checkpoints import RunCheckpoints
from cluster.checkpoints.fork import Fork, branch_off
from cluster.store import Store
from cluster.store.lease import Lease
from cluster.sweep.record import Trial
from cluster.sweep.search import METRIC, Search
from cluster.sweep.space import SweepPlan
from cluster.sweep.trial import FORK, MEMBER, WAITED_S
from cluster.sweep.watcher import Watcher
from metasr.errors import CheckpointError, ConfigError, MetaSRError, StoreError

log = logging.getLogger(__name__)

TRIES, TRIES_TO_COPY = 20, 3
UPLOADED_S, LOOK_AGAIN_S = 20.0, 0.2
Settings = Mapping[str, Any]


class Population(PopulationBasedTraining):
    """Ray Tune's population based training (Jaderberg 2017), of trials that are runs.

    The settings of a run never change. Where Tune would have a trial go on with the weights of another and other
    settings, that trial ends here as replaced, and a new one takes its place: a branch of the other's run.

    Tune is given `{MEMBER: number}` for each trial of the population, and the ledger says what that is.

    Args:
        plan: Of the sweep.
        watcher: Keeps the ledger.
        storage: Where runs keep their checkpoints.
    """

    def __init__(self, plan: SweepPlan, watcher: Watcher, storage: Store) -> None:
        search, train = plan.config.search, plan.config.train
        super().__init__(
            "step",
            perturbation_interval=max(1, round(search.pbt_interval * train.steps)),
            quantile_fraction=search.pbt_quantile,
            hyperparam_mutations={name: domain.mutation() for name, domain in plan.space.items()},
            log_config=False,
            **METRIC,
        )
        self._plan, self._watcher, self._storage = plan, watcher, storage
        self._next: dict[str, Any] = {}

    def on_trial_add(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """Tell Tune what a member is, and how far it has come."""
        member = self._watcher.trials[trial.config[MEMBER]]
        trial.config.update(_config_of(member))
        super().on_trial_add(tune_controller, trial)
        if member.history:
            state = self._trial_state[trial]
            state.last_perturbation_time = state.last_train_time = member.history[-1].step
            state.last_score = member.best_objective

    def on_trial_result(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Replace a trial that is behind. There is room for all: nobody has to make way for another."""
        if self._watcher.why_halted or WAITED_S in result:
            return TrialScheduler.CONTINUE
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if decision == TrialScheduler.PAUSE else decision

    def _exploit(self, tune_controller: TuneController, trial: TuneTrial, trial_to_clone: TuneTrial) -> None:
        ahead = self._watcher.trials[trial_to_clone.config[MEMBER]]
        settings = self._explored(trial, trial_to_clone)
        new = self._branch_of(ahead, settings) if settings is not None else None
        if new is None:
            return  # the trial goes on as it is
        self._watcher.replace(trial, ahead, new)
        self._next = {MEMBER: new.number, **_config_of(new)}
        super()._exploit(tune_controller, trial, trial_to_clone)

    def _get_new_config(self, trial: TuneTrial, trial_to_clone: TuneTrial) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._next, {}

    def _branch_of(self, ahead: Trial, settings: dict[str, Any]) -> Trial | None:
        """Return a new trial whose run has the checkpoint that it branches off from; None if it could not be had.

        It is copied at once: the other run goes on, and does not keep it for long.
        """
        for _ in range(TRIES_TO_COPY):
            fork = newest_from(self._storage, ahead.run_name, ahead.history[-1].step)
            if fork is None:
                return None
            new = self._watcher.new(settings, fork)
            try:
                with Lease.acquire(self._storage, new.run_name, log.warning) as lease:
                    checkpoints = RunCheckpoints(self._storage, new.run_name).claim(lease.fence, log.warning)
                    branch_off(self._storage, fork, checkpoints, self._plan.config)
                return new
            except (ConfigError, CheckpointError):
                continue  # the other run has deleted it in the meantime, and has a newer one
            except MetaSRError:
                return None
        return None

    def _explored(self, trial: TuneTrial, trial_to_clone: TuneTrial) -> dict[str, Any] | None:
        """Return settings near to those of the other trial that nobody had yet; None if there seem to be none."""
        known = [one.settings for one in self._watcher.trials]
        for _ in range(TRIES):
            config, _ = super()._get_new_config(trial, trial_to_clone)
            settings = self._plan.tidy(config)
            if settings not in known and _fit_together(self._plan, settings):
                return settings
        return None


def new_members(plan: SweepPlan, search: Search, number: int) -> list[dict[str, Any]]:
    """Return settings for members that a population lacks.

    Args:
        plan: Of the sweep.
        search: Chooses them, after those that it has to try first.
        number: How many members the whole population has left.
    """
    chosen = [search.suggest(f"member-{place}") for place in range(number)]
    return [plan.tidy(one) for one in chosen[search.num_first :] if isinstance(one, dict)]


def newest_from(storage: Store, run_name: str, step: int, *, patience_s: float = UPLOADED_S) -> Fork | None:
    """Return where to branch off from a run that has just validated a step: there, or as soon after it as can be.

    Its checkpoint may still be on its way up. Where it does not come, an older one will do.

    Args:
        storage: Of the run.
        run_name: Of the run.
        step: That it has reached.
        patience_s: How long to wait for its checkpoint.
    """
    until = time.monotonic() + patience_s
    while True:
        try:
            steps = [kept.step for kept in RunCheckpoints(storage, run_name).entries()]
        except StoreError:
            return None  # the trial goes on as it is
        if reached := [one for one in steps if one >= step]:
            return Fork(run_name, min(reached))
        if time.monotonic() >= until:
            return Fork(run_name, max(steps)) if steps else None
        time.sleep(LOOK_AGAIN_S)


def _config_of(member: Trial) -> dict[str, Any]:
    return {**member.settings, FORK: member.fork}


def _fit_together(plan: SweepPlan, settings: Settings) -> bool:
    try:
        plan.trial(settings)
    except ConfigError:
        return False
    return True
