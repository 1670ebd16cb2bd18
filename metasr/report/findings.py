"""What an evaluation says, as sentences and as the few figures at the head of a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from metasr.charts import MINUS
from metasr.data.patients import patient_of_row
from metasr.evaluation.background import disagreements
from metasr.evaluation.methods import BICUBIC_NAME, LANCZOS_NAME
from metasr.evaluation.protocol import Score
from metasr.evaluation.report import is_within
from metasr.evaluation.statistics import (
    MIN_PATIENTS_FOR_TEST,
    Measure,
    PairedDifference,
    bootstrap_interval,
    differences,
)
from metasr.report.content import Report
from metasr.report.template import signed_text
from metasr.scale import Scale

SHOWN: dict[Measure, tuple[str, str, int]] = {"psnr": ("PSNR", " dB", 2), "ssim": ("SSIM", "", 4)}


@dataclass(frozen=True)
class Overall:
    """The model's gain over a rival, each patient's mean over the scales.

    Attributes:
        by_patient: Mean over the scales.
        interval: 95 % interval of the mean; None for one patient, or where a gain is not finite.
    """

    by_patient: dict[str, float]
    interval: tuple[float, float] | None

    @property
    def mean(self) -> float:
        """Mean over patients."""
        return fmean(self.by_patient.values())

    @property
    def num_better(self) -> int:
        """Number of patients with a gain."""
        return sum(gain > 0 for gain in self.by_patient.values())


@dataclass(frozen=True)
class Figure:
    """A figure at the head of the report.

    Attributes:
        label: What it is.
        value: As text.
        detail: Its interval, or what it is of.
        verdict: good, bad or empty.
    """

    label: str
    value: str
    detail: str
    verdict: str = ""


def overall(gains: Sequence[PairedDifference]) -> Overall:
    """Return the gain over all scales."""
    names = sorted({name for gain in gains for name in gain.by_patient})
    found = {name: fmean(gain.by_patient[name] for gain in gains if name in gain.by_patient) for name in names}
    values = np.array(list(found.values()))
    usable = len(values) > 1 and bool(np.isfinite(values).all())
    return Overall(found, bootstrap_interval(values, seed=0) if usable else None)


def headline(scores: Sequence[Score]) -> str:
    """Return whether the model is better than bicubic, and where not."""
    gains: dict[Measure, list[PairedDifference]] = {name: differences(scores, BICUBIC_NAME, name) for name in SHOWN}
    below = {measure: [gain.scale for gain in found if not gain.mean >= 0] for measure, found in gains.items()}
    psnr = overall(gains["psnr"])
    said = f"{signed_text(psnr.mean, 2)} dB PSNR and {signed_text(overall(gains['ssim']).mean)} SSIM on average"
    if not any(below.values()):
        where = (
            f"at all {len(gains['psnr'])} scales" if len(gains["psnr"]) > 1 else f"at scale {gains['psnr'][0].scale}"
        )
        return f"Better than bicubic {where}: {said}."
    where = " and ".join(f"in {SHOWN[name][0]} at {_scales(scales)}" for name, scales in below.items() if scales)
    return f"Below bicubic {where}; {said}."


def figures(report: Report) -> list[Figure]:
    """Return the figures at the head of the report."""
    found = [_gain_figure(report.scores, BICUBIC_NAME, "bicubic", measure) for measure in SHOWN]
    gain = overall(differences(report.scores, BICUBIC_NAME, "psnr"))
    number, total = gain.num_better, len(gain.by_patient)
    verdict = "good" if number == total else "bad"
    found.append(Figure("Patients above bicubic", f"{number} of {total}", "PSNR, mean over scales", verdict))
    if report.champion.method and differences(report.scores, report.champion.method, "psnr"):
        found.append(_gain_figure(report.scores, report.champion.method, "the champion", "psnr"))
    if report.rules:
        passed = sum(rule.passed for rule in report.rules)
        verdict = "good" if passed == len(report.rules) else "bad"
        found.append(Figure("Rules for promotion", f"{passed} of {len(report.rules)}", "hold", verdict))
    return found


def cautions(report: Report) -> list[str]:
    """Return what a reader should know before believing the numbers."""
    patients = {patient_of_row(score) for score in report.scores}
    found = []
    if len(patients) < MIN_PATIENTS_FOR_TEST:
        count = f"{len(patients)} patient{'s' * (len(patients) != 1)}"
        found.append(f"{count}: too few for a significance test, {MIN_PATIENTS_FOR_TEST} are needed.")
    low, high = report.about.trained_scales
    beyond = [scale for scale in sorted({score.scale for score in report.scores}) if not is_within(scale, low, high)]
    if beyond:
        found.append(f"Outside the scales that it was trained on ({low:g} to {high:g}): {_scales(beyond)}.")
    if below := [gain.scale for gain in differences(report.scores, LANCZOS_NAME, "psnr") if not gain.mean >= 0]:
        found.append(f"Below Lanczos interpolation in PSNR at {_scales(below)}.")
    return [*found, *disagreements(report.scores)]


def _gain_figure(scores: Sequence[Score], rival: str, name: str, measure: Measure) -> Figure:
    label, unit, digits = SHOWN[measure]
    gain = overall(differences(scores, rival, measure))
    detail = "one patient"
    if gain.interval:
        low, high = (signed_text(end, digits) for end in gain.interval)
        detail = f"95 % interval {low} to {high}"
    elif len(gain.by_patient) > 1:
        detail = "not finite for every patient"
    value = f"{signed_text(gain.mean, digits)}{unit}"
    return Figure(f"{label} gain over {name}", value, detail, "good" if gain.mean > 0 else "bad")


def _scales(scales: Sequence[Scale]) -> str:
    return f"scale{'s' * (len(scales) > 1)} {', '.join(map(str, scales))}".replace("-", MINUS)
