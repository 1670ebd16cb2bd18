"""The record of a sweep: its trials, the settings and the results of each. A JSON document."""

import json
from collections import Counter
from typing import Any, Literal, Self, TypeVar

from cluster.checkpoints.fork import Fork
from metasr.config import Section
from metasr.errors import StoreError
from metasr.formats import FORMAT, FORMAT_KEY, require_format

Status = Literal["waiting", "running", "finished", "stopped early", "replaced", "failed"]
RANKED: tuple[Status, ...] = ("finished", "stopped early", "replaced")
SAME_FAILURES = 3
Document = TypeVar("Document", bound=Section)


class Point(Section):
    """The result of one validation of a trial."""

    step: int
    """Updates done."""
    objective: float
    """See `SweepRecord.objective`; higher is better."""
    metrics: dict[str, float]
    """The run's `val_...` metrics, and `selection_score`, by which the run chooses its best checkpoint."""


class Trial(Section):
    """One training run of a sweep."""

    number: int
    """From 0, in the order of first starts."""
    settings: dict[str, Any]
    """Chosen by the searcher, by dotted name."""
    run_name: str
    """Of the run, in the store and in MLflow."""
    fork: Fork | None = None
    """The checkpoint of another trial from which its run started; None for random weights."""
    run_id: str = ""
    """Of the run in MLflow; empty while it is unknown."""
    status: Status = "waiting"
    """waiting: to be started, or to be resumed from its newest checkpoint; replaced: stopped early for a fork
    of a better member of the population."""
    reason: str = ""
    """Why it failed, was stopped early or was replaced; empty otherwise."""
    history: tuple[Point, ...] = ()
    """Its validations, in the order of steps."""
    seconds: float = 0.0
    """Time in which it had workers, over all its starts: waiting for room, or for the store, is not counted."""

    @property
    def has_ended(self) -> bool:
        """Whether it is over, and is not to be resumed."""
        return self.status in (*RANKED, "failed")

    @property
    def steps_done(self) -> int:
        """Updates since its fork, or since random weights, up to its newest validation."""
        return self.history[-1].step - (self.fork.step if self.fork else 0) if self.history else 0

    @property
    def best(self) -> Point | None:
        """The validation of the best checkpoint, which the run keeps; None before the first."""
        return max(
            self.history, key=lambda point: point.metrics.get("selection_score", point.objective), default=None
        )

    @property
    def decline(self) -> str:
        """How it got worse after the checkpoint that it keeps, in words; empty if it did not."""
        if self.best is None or self.history[-1].objective >= self.best.objective:
            return ""
        last = self.history[-1]
        return (
            f"trial {self.number} got worse after step {self.best.step}: at step {last.step}, its last validation, "
            f"the objective was {last.objective:+.4f}"
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
    """Follows from the space, the searcher, the settings and the data."""
    recipe: str
    """Name of the recipe whose settings are searched."""
    objective: str
    """The formula, in words."""
    scales: tuple[str, ...]
    """Over which the objective is taken, such as `1.5` and `1x4`."""
    space: dict[str, str]
    """The domain of each searched setting, by dotted name: such as `loguniform 0.0001 to 0.01`."""
    trials: tuple[Trial, ...] = ()
    """In the order of their numbers."""

    @property
    def num_ended(self) -> int:
        """Trials that have ended and were not replaced."""
        return sum(trial.has_ended and trial.status != "replaced" for trial in self.trials)

    @property
    def common_failure(self) -> str:
        """Why all trials fail, whatever their settings: several did so, and none was validated. Empty otherwise."""
        if any(trial.history for trial in self.trials):
            return ""
        reasons = Counter(trial.reason for trial in self.trials if trial.status == "failed")
        return next((reason for reason, number in reasons.items() if number >= SAME_FAILURES), "")

    @property
    def best(self) -> Trial | None:
        """The first of `ranking`; None if it is empty."""
        return self.ranking[0] if self.ranking else None

    @property
    def shortfall(self) -> str:
        """That even the best trial is below bicubic at some scale, in words; empty if it is not, or if there is none.

        A negative objective is a mean gain below 0, or that at the worst scale: either way a gain below 0.
        """
        if self.best is None or self.best.best_objective is None or self.best.best_objective >= 0:
            return ""
        return (
            "no trial is as good as bicubic interpolation at all scales: the objective of the best, trial "
            f"{self.best.number}, is {self.best.best_objective:+.4f}"
        )

    @property
    def ranking(self) -> tuple[Trial, ...]:
        """Trials that ended without failing and were validated, the best first."""
        scored = [
            (trial.best_objective, trial)
            for trial in self.trials
            if trial.status in RANKED and trial.best_objective is not None
        ]
        return tuple(trial for _, trial in sorted(scored, key=lambda pair: pair[0], reverse=True))

    def to_json(self) -> str:
        """Return the text of `sweep.json`."""
        return to_document(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the record that `to_json` wrote.

        Raises:
            FormatError: A later version of the program wrote it.
            StoreError: The text is damaged.
        """
        return from_document(cls, text, "sweep.json")


def to_document(content: Section) -> str:
    """Return content as JSON text with its format."""
    return json.dumps({FORMAT_KEY: FORMAT, **content.model_dump(mode="json")}, indent=1) + "\n"


def from_document(kind: type[Document], text: str | bytes, name: str) -> Document:
    """Return the content of a text of `to_document`.

    Args:
        kind: What the text holds.
        text: The JSON text.
        name: Of the document, for errors.

    Raises:
        FormatError: A later version of the program wrote it.
        StoreError: The text is damaged.
    """
    try:
        values = dict(json.loads(text))
        require_format(values, name)
        return kind.model_validate({key: value for key, value in values.items() if key != FORMAT_KEY})
    except (TypeError, ValueError):
        raise StoreError(
            name,
            "it is damaged",
            "Restore the file from a copy, or delete it: trials that have been trained are not trained again",
        ) from None
