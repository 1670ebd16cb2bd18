"""Outcomes of downstream evaluation: statistics over patients, tables and CSV."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from statistics import fmean

import numpy as np

from metasr.data.patients import patient_of_row
from metasr.evaluation.downstream import Outcome
from metasr.evaluation.methods import BICUBIC_NAME, MODEL_NAME
from metasr.evaluation.statistics import bootstrap_interval
from metasr.evaluation.tables import grid, rows_to_csv, shortened
from metasr.scale import Scale

ALL_CLASSES = "mean"


@dataclass(frozen=True)
class Gain:
    """The model minus a rival in one measure of one class at one scale, paired by patient.

    Attributes:
        rival: Mean of the rival over patients.
        model: Mean of the model over the same patients.
        by_patient: Difference of each patient.
        interval: 95 % interval of the mean difference; None for a single patient.
    """

    scale: Scale
    label: str
    measure: str
    rival: float
    model: float
    by_patient: Mapping[str, float]
    interval: tuple[float, float] | None

    @property
    def mean(self) -> float:
        """Mean difference over patients."""
        return fmean(self.by_patient.values())


def by_patient(outcomes: Sequence[Outcome], step: str) -> dict[tuple[Scale, str, str, str], dict[str, float]]:
    """Return each patient's mean over visits, by (scale, class, measure, method); class `mean`: over the classes."""
    values: dict[tuple[Scale, str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for outcome in outcomes:
        if outcome.step == step:
            for label in (outcome.label, ALL_CLASSES):
                cell = outcome.scale, label, outcome.measure, outcome.method
                values[cell][patient_of_row(outcome)].append(outcome.value)
    return {
        cell: {name: fmean(found) for name, found in sorted(patients.items())} for cell, patients in values.items()
    }


def gains(outcomes: Sequence[Outcome], step: str, rival: str = BICUBIC_NAME) -> list[Gain]:
    """Return the model's gains over a rival, for each scale, class and measure that both have."""
    cells, found = by_patient(outcomes, step), []
    for scale, label, measure in sorted({cell[:3] for cell in cells}, key=lambda cell: (cell[0], cell[2], cell[1])):
        ours, theirs = (cells.get((scale, label, measure, method), {}) for method in (MODEL_NAME, rival))
        both = [name for name in ours if name in theirs]
        if both:
            difference = {name: ours[name] - theirs[name] for name in both}
            values = np.array(list(difference.values()))
            interval = bootstrap_interval(values, seed=0) if len(values) > 1 else None
            means = fmean(theirs[name] for name in both), fmean(ours[name] for name in both)
            found.append(Gain(scale, label, measure, *means, difference, interval))
    return found


def outcomes_table(outcomes: Sequence[Outcome], step: str) -> str:
    """Return a row per scale, measure and class: a rival, the model, and the difference with its 95 % interval."""
    rivals = dict.fromkeys(one.method for one in outcomes if one.step == step and one.method != MODEL_NAME)
    parts = []
    for rival in rivals:
        rows = [["scale", "measure", "class", "patients", shortened(rival), MODEL_NAME, "gain"]]
        for gain in gains(outcomes, step, rival):
            cells = [gain.measure, gain.label, str(len(gain.by_patient)), f"{gain.rival:.4f}", f"{gain.model:.4f}"]
            rows.append([str(gain.scale), *cells, _shown(gain)])
        parts.append(f"Labels of {step} in SR against HR, model and {rival}:\n{grid(rows)}")
    return "\n\n".join(parts)


def patients_table(outcomes: Sequence[Outcome], step: str) -> str:
    """Return a row per patient and scale: the Dice of bicubic and of the model, mean over the classes."""
    cells = by_patient(outcomes, step)
    rows = [["patient", "scale", BICUBIC_NAME, MODEL_NAME]]
    for scale in sorted({cell[0] for cell in cells}):
        theirs, ours = (cells.get((scale, ALL_CLASSES, "dice", name), {}) for name in (BICUBIC_NAME, MODEL_NAME))
        both = [name for name in ours if name in theirs]
        rows += [[shortened(name), str(scale), f"{theirs[name]:.4f}", f"{ours[name]:.4f}"] for name in both]
    return f"Dice of each patient, mean over the classes ({step}):\n{grid(rows)}"


def to_csv(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as tidy CSV."""
    return rows_to_csv(Outcome, [asdict(outcome) | {"scale": str(outcome.scale)} for outcome in outcomes])


def from_csv(text: str) -> list[Outcome]:
    """Parse outcomes written by `to_csv`.

    Raises:
        ValueError, KeyError, TypeError: The text was not written by `to_csv`.
    """
    names = "step", "subject", "method", "label", "measure"
    return [
        Outcome(
            scale=Scale.parse(row["scale"]),
            value=float(row["value"]),
            patient=row.get("patient", ""),
            **{n: row[n] for n in names},
        )
        for row in csv.DictReader(StringIO(text))
    ]


def _shown(gain: Gain) -> str:
    interval = f" [{gain.interval[0]:+.4f}, {gain.interval[1]:+.4f}]" if gain.interval else ""
    return f"{gain.mean:+.4f}{interval}"
