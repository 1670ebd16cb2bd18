"""Population based training (PBT): poor members are replaced by forks of good ones."""

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
from cluster.sweep.search import METRIC, MODE, Search
from cluster.sweep.space import SweepPlan
from cluster.sweep.trial import FORK, HAS_WORKERS, MEMBER
from cluster.sweep.watcher import Watcher
from metasr.errors import CheckpointError, ConfigError, MetaSRError, StoreError

log = logging.getLogger(__name__)

MAX_DRAWS, MAX_FORK_TRIES = 20, 3
UPLOAD_S, POLL_S = 20.0, 0.2
Settings = Mapping[str, Any]


class Population(PopulationBasedTraining):
    """Ray Tune's population based training (Jaderberg et al., 2017), where each member is a run.

    The settings of a run never change. To exploit, Tune would give a trial the weights of a better one, and to
    explore, other settings. Here that trial ends as replaced, and a fork of the better run takes its place.

    Tune is given `{MEMBER: number}` for each member; the ledger has its settings.

    Args:
        plan: Of the sweep.
        watcher: Updates the ledger.
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
            metric=METRIC,
            mode=MODE,
        )
        self._plan, self._watcher, self._storage = plan, watcher, storage
        self._next: dict[str, Any] = {}

    def on_trial_add(self, tune_controller: TuneController, trial: TuneTrial) -> None:
        """Give Tune the settings of a member, and its progress."""
        member = self._watcher.trials[trial.config[MEMBER]]
        trial.config.update(_config_of(member))
        super().on_trial_add(tune_controller, trial)
        if member.history:
            state = self._trial_state[trial]
            state.last_perturbation_time = state.last_train_time = member.history[-1].step
            state.last_score = member.best_objective

    def on_trial_result(self, tune_controller: TuneController, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Replace a poor member. All members fit at once, so that none is ever paused for another."""
        if self._watcher.stop_reason or HAS_WORKERS in result:
            return TrialScheduler.CONTINUE
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if decision == TrialScheduler.PAUSE else decision

    def _exploit(self, tune_controller: TuneController, trial: TuneTrial, trial_to_clone: TuneTrial) -> None:
        parent = self._watcher.trials[trial_to_clone.config[MEMBER]]
        settings = self._explore(trial, trial_to_clone)
        new = self._fork_of(parent, settings) if settings is not None else None
        if new is None:
            return  # the trial continues as it is
        self._watcher.replace(trial, parent, new)
        self._next = {MEMBER: new.number, **_config_of(new)}
        super()._exploit(tune_controller, trial, trial_to_clone)

    def _get_new_config(self, trial: TuneTrial, trial_to_clone: TuneTrial) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._next, {}

    def _fork_of(self, parent: Trial, settings: dict[str, Any]) -> Trial | None:
        """Return a new trial that starts from a checkpoint of its parent; None if none can be copied.

        The checkpoint is copied at once: the parent goes on training, and soon deletes it.
        """
        for _ in range(MAX_FORK_TRIES):
            fork = newest_from(self._storage, parent.run_name, parent.history[-1].step)
            if fork is None:
                return None
            new = self._watcher.new(settings, fork)
            try:
                with Lease.acquire(self._storage, new.run_name, log.warning) as lease:
                    checkpoints = RunCheckpoints(self._storage, new.run_name).claim(lease.fence, log.warning)
                    branch_off(self._storage, fork, checkpoints, self._plan.config)
                return new
            except (ConfigError, CheckpointError):
                continue  # the parent has deleted it in the meantime, and has a newer one
            except MetaSRError:
                return None
        return None

    def _explore(self, trial: TuneTrial, trial_to_clone: TuneTrial) -> dict[str, Any] | None:
        """Return perturbed settings of the other trial that no trial has had; None if none were found."""
        used = [one.settings for one in self._watcher.trials]
        for _ in range(MAX_DRAWS):
            config, _ = super()._get_new_config(trial, trial_to_clone)
            settings = self._plan.tidy(config)
            if settings not in used and _is_valid(self._plan, settings):
                return settings
        return None


def new_members(plan: SweepPlan, search: Search, number: int) -> list[dict[str, Any]]:
    """Return the settings of the members that are missing in a population.

    Args:
        plan: Of the sweep.
        search: Draws them, after the unfinished trials.
        number: How many members the population is to have, besides those that have ended.
    """
    chosen = [search.suggest(f"member-{place}") for place in range(number)]
    return [plan.tidy(one) for one in chosen[search.num_unfinished :] if isinstance(one, dict)]


def newest_from(storage: Store, run_name: str, step: int, *, timeout_s: float = UPLOAD_S) -> Fork | None:
    """Return the first checkpoint of a run at or after a step, to fork from it.

    The checkpoint may still be uploading. After the timeout the newest one is taken.

    Args:
        storage: Of the run.
        run_name: Of the run.
        step: Which the run has validated.
        timeout_s: How long to wait for the checkpoint.
    """
    until = time.monotonic() + timeout_s
    while True:
        try:
            steps = [kept.step for kept in RunCheckpoints(storage, run_name).entries()]
        except StoreError:
            return None
        if reached := [one for one in steps if one >= step]:
            return Fork(run_name, min(reached))
        if time.monotonic() >= until:
            return Fork(run_name, max(steps)) if steps else None
        time.sleep(POLL_S)


def _config_of(member: Trial) -> dict[str, Any]:
    return {**member.settings, FORK: member.fork}


def _is_valid(plan: SweepPlan, settings: Settings) -> bool:
    try:
        plan.trial(settings)
    except ConfigError:
        return False
    return True
