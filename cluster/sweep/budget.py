"""The limits of a sweep: how many trials run at once, and how much time and money they may take."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from cluster.config import SweepConfig
from cluster.preflight.machines import workers_on
from cluster.sweep.record import SweepRecord
from metasr.errors import ConfigError

HOUR_S = 3600.0
TIME_UP, COST_UP = "the time of the sweep was up", "the money for the sweep was spent"


@dataclass(frozen=True)
class Limits:
    """Limits of time and cost.

    Attributes:
        hours: Time limit of this command; infinite if there is none.
        cost: Limit for all trials together, in the currency of `price`; infinite if there is none.
        price: Of one worker for an hour; None if it is unknown.
    """

    hours: float = math.inf
    cost: float = math.inf
    price: float | None = None

    def reached(self, seconds: float, worker_seconds: float) -> str:
        """Return which limit was reached; empty if none was.

        Args:
            seconds: Since the start of the command.
            worker_seconds: Time of all trials, times their workers.
        """
        if seconds >= self.hours * HOUR_S:
            return TIME_UP
        return COST_UP if self.price and worker_seconds / HOUR_S * self.price >= self.cost else ""


def cpus_wanted(config: SweepConfig) -> int:
    """Return how many CPU cores a local Ray needs, at least."""
    return math.ceil(max(1, _concurrency(config)) * config.resources.cpus)


def this_machine(config: SweepConfig) -> list[dict[str, float]]:
    """Return the resources of a local Ray, as a list of one node."""
    cpus = max(os.cpu_count() or 1, cpus_wanted(config))
    return [{"CPU": float(cpus), "GPU": float(torch.cuda.device_count())}]


def fitting(config: SweepConfig, nodes: Sequence[Mapping[str, float]]) -> int:
    """Return how many trials fit on nodes at once. The workers of a trial are placed together or not at all.

    Args:
        config: Of the sweep.
        nodes: Resources of each node, as Ray counts them.
    """
    return sum(workers_on(config, dict(node)) for node in nodes) // config.resources.num_workers


def at_once(config: SweepConfig, fit: int) -> int:
    """Return how many trials to run at once, at least one.

    Raises:
        ConfigError: Not even one fits.
    """
    if not fit:
        raise ConfigError(
            f"no trial fits on these machines: it takes {_needs(config)}",
            "",
            "Lower resources.num_workers, cpus_per_worker or gpus_per_worker, or add nodes",
        )
    if config.search.scheduler == "pbt" and fit < config.search.trials:
        raise ConfigError(
            f"a population of {config.search.trials} trials trains at once, and {fit} fit on these machines",
            f"each takes {_needs(config)}",
            "Lower --trials, resources.cpus_per_worker or gpus_per_worker, or add nodes",
        )
    return min(fit, _concurrency(config) or fit, config.search.trials)


def _concurrency(config: SweepConfig) -> int:
    """Return how many trials the config asks to run at once; 0 for as many as fit."""
    return config.search.trials if config.search.scheduler == "pbt" else config.search.concurrent


def forecast(config: SweepConfig, record: SweepRecord, fit: int, limits: Limits) -> list[str]:
    """Return lines with upper bounds of time and cost: no trial is stopped early, and limits are used up."""
    search, steps = config.search, config.train.steps
    left = max(0, search.trials - record.num_ended)
    done = sum(trial.history[-1].step for trial in record.trials if not trial.has_ended and trial.history)
    lines = [
        f"capacity: {fit} trials of {_needs(config)} fit at once, {at_once(config, fit)} run at a time",
        f"work: at most {left} trials of {steps} steps ({record.num_ended} have ended)",
    ]
    hours, why = math.inf, ""
    if pace_s := _seconds_a_step(record):
        hours = (left * steps - done) * pace_s * config.resources.num_workers / HOUR_S
        why = f"{pace_s:.3g} s per step, the mean of the trials so far"
    slots = at_once(config, fit) * config.resources.num_workers
    if limits.hours * slots < hours:
        hours, why = limits.hours * slots, f"--max-time for {slots} workers"
    if math.isinf(hours):
        lines.append(
            "time: unknown until a trial has run: it depends on trials, steps and how many run at once; --max-time "
            "bounds it, and `metasr estimate` measures a few steps of one"
        )
    else:
        lines.append(f"time: at most {hours:.3g} worker hours ({why})")
    if limits.price is not None:
        cost = min(hours * limits.price, limits.cost)
        most = f"at most {cost:.2f}"
        if math.isinf(cost):
            most = "unknown until a trial has run: it depends on trials, steps and workers; --max-cost bounds it"
        lines.append(f"cost: {most}, at {limits.price:g} per worker hour")
    return lines


def _needs(config: SweepConfig) -> str:
    resources = config.resources
    gpu = f" and {resources.gpus_per_worker:g} GPU" if resources.gpu else ""
    return f"{resources.num_workers} worker(s) with {resources.cpus_per_worker:g} CPU{gpu} each"


def _seconds_a_step(record: SweepRecord) -> float:
    """Return the mean time of a step over the trials so far; 0 if there was none."""
    timed = [(trial.seconds, trial.steps_done) for trial in record.trials if trial.steps_done and trial.seconds]
    return sum(seconds for seconds, _ in timed) / sum(steps for _, steps in timed) if timed else 0.0
