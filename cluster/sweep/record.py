"""What is known of a sweep: its trials, what each was given, and what came of it. A JSON document."""

from collections import Counter
from typing import Any, Literal, Self

from cluster.checkpoints.fork import Fork
from metasr.config import Section

Status = Literal["waiting", "running", "finished", "stopped early", "replaced", "failed"]
RANKED: tuple[Status, ...] = ("finished", "stopped early", "replaced")
SAME_FAILURES = 3


class Point(Section):
    """What one validation of a trial found."""

    step: int
    """Updates done."""
    objective: float
    """See `SweepRecord.objective`; higher is better."""
    metrics: dict[str, float]
    """The run's `val_...` metrics, and `selection_score`, by which the run chooses the checkpoint that it keeps."""


class Trial(Section):
    """One training run of a sweep."""

    number: int
    """From 0 on, in the order in which they were started."""
    settings: dict[str, Any]
    """What the searcher chose, by dotted name."""
    run_name: str
    """Of the run, in the store and in MLflow."""
    fork: Fork | None = None
    """What its run branched off from: a checkpoint of another trial; None for random weights."""
    run_id: str = ""
    """Of the run in MLflow; empty where MLflow has not said it yet."""
    status: Status = "waiting"
    """waiting: to be started, or to go on from its newest checkpoint; replaced: stopped early, and another trial took
    its place in the population."""
    reason: str = ""
    """Why it failed, was stopped early or replaced; empty otherwise."""
    history: tuple[Point, ...] = ()
    """Its validations, by step."""
    seconds: float = 0.0
    """How long it ran, over all its starts."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it is left to do."""
        return self.status in (*RANKED, "failed")

    @property
    def steps_done(self) -> int:
        """Updates that it did itself, up to its newest validation."""
        return self.history[-1].step - (self.fork.step if self.fork else 0) if self.history else 0

    @property
    def best(self) -> Point | None:
        """The validation whose generator the run keeps as its best; None before the first."""
        return max(
            self.history, key=lambda point: point.metrics.get("selection_score", point.objective), default=None
        )

    @property
    def best_objective(self) -> float | None:
        """Objective of `best`."""
        return self.best.objective if self.best else None

    @property
    def best_step(self) -> int | None:
        """Step of `best`."""
        return self.best.step if self.best else None


class SweepRecord(Section):
    """A sweep."""

    name: str
    """The same for the same space, searcher, settings and data."""
    recipe: str
    """Name of the recipe whose settings are searched."""
    objective: str
    """The formula, in words."""
    scales: tuple[str, ...]
    """Scales that the objective looks at, such as `1.5` and `1x4`."""
    space: dict[str, str]
    """For each setting that is searched, by dotted name, where: such as `loguniform 0.0001 to 0.01`."""
    trials: tuple[Trial, ...] = ()
    """By number."""

    @property
    def num_ended(self) -> int:
        """Trials that have ended and were not replaced."""
        return sum(trial.has_ended and trial.status != "replaced" for trial in self.trials)

    @property
    def common_failure(self) -> str:
        """Why trials fail whatever their settings: none has come to a validation, several ended so. Else empty."""
        if any(trial.history for trial in self.trials):
            return ""
        reasons = Counter(trial.reason for trial in self.trials if trial.status == "failed")
        return next((reason for reason, number in reasons.items() if number >= SAME_FAILURES), "")

    @property
    def best(self) -> Trial | None:
        """The trial with the highest `best_objective` of those that did not fail; None if there is none."""
        return self.ranking[0] if self.ranking else None

    @property
    def ranking(self) -> tuple[Trial, ...]:
        """Trials that ended without failing and were looked at, the best first."""
        scored = [
            (trial.best_objective, trial)
            for trial in self.trials
            if trial.status in RANKED and trial.best_objective is not None
        ]
        return tuple(trial for _, trial in sorted(scored, key=lambda pair: pair[0], reverse=True))

    def to_json(self) -> str:
        """Return it as the text of `sweep.json`."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return what `to_json` wrote."""
        return cls.model_validate_json(text)
