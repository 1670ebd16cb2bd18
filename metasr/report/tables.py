"""The tables of a report: rows of finished texts, the scores by scale, by patient and of downstream evaluation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from metasr.evaluation.downstream import Outcome
from metasr.evaluation.methods import BICUBIC_NAME, LANCZOS_NAME, MODEL_NAME
from metasr.evaluation.outcomes import ALL_CLASSES, gains
from metasr.evaluation.protocol import Score
from metasr.evaluation.report import rivals_of
from metasr.evaluation.statistics import Mean, PairedDifference, differences, mean_by_scale
from metasr.evaluation.tables import SIGNIFICANT
from metasr.report.template import NONE, number_text, signed_text
from metasr.scale import Scale

MAX_PATIENTS = 100


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: The number.
        more: What is said beside it, smaller.
        verdict: good or bad for a gain or a loss; empty otherwise.
        strength: Of the colour, from 0 to 1.
    """

    text: str
    more: str = ""
    verdict: str = ""
    strength: float = 0.0


@dataclass(frozen=True)
class Table:
    """A table: names of columns, and rows that begin with the name of the row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def by_scale(scores: Sequence[Score]) -> Table:
    """Return a row per scale: each method, PSNR and SSIM, and the gain over each rival with its interval."""
    means, rivals = mean_by_scale(scores), rivals_of(scores)
    methods = [BICUBIC_NAME, *([LANCZOS_NAME] if any(name == LANCZOS_NAME for _, name in means) else [])]
    methods += [name for name in rivals if name != BICUBIC_NAME] + [MODEL_NAME]
    psnr = {rival: _by_scale(differences(scores, rival, "psnr")) for rival in rivals}
    ssim = {rival: _by_scale(differences(scores, rival, "ssim")) for rival in rivals}
    rows = []
    for scale in sorted({scale for scale, _ in means}):
        row = [Cell(str(scale)), *(_both(means.get((scale, method))) for method in methods)]
        for rival in rivals:
            row.append(_gain(psnr[rival].get(scale), 2))
            row.append(_gain(ssim[rival].get(scale), 4))
        rows.append(tuple(row))
    named = [f"{measure} gain over {rival}" for rival in rivals for measure in ("PSNR", "SSIM")]
    return Table(("scale", *methods, *named), tuple(rows))


def by_patient(scores: Sequence[Score]) -> Table:
    """Return a row per patient, the lowest mean gain over bicubic first: the gain at each scale."""
    psnr, ssim = (_by_scale(differences(scores, BICUBIC_NAME, measure)) for measure in ("psnr", "ssim"))
    patients = sorted({name for gain in psnr.values() for name in gain.by_patient})
    means = {
        name: fmean(gain.by_patient[name] for gain in psnr.values() if name in gain.by_patient) for name in patients
    }
    ranked = sorted(patients, key=lambda name: -math.inf if math.isnan(means[name]) else means[name])
    found = (abs(value) for gain in psnr.values() for value in gain.by_patient.values())
    largest = max(filter(math.isfinite, found), default=0.0) or 1.0
    rows = [
        (
            Cell(name),
            _tinted(means[name], largest),
            *(
                _tinted(psnr[scale].by_patient.get(name), largest, ssim[scale].by_patient.get(name))
                for scale in sorted(psnr)
            ),
        )
        for name in ranked[:MAX_PATIENTS]
    ]
    left = len(ranked) - len(rows)
    note = f"{left} patients with higher gains are left out; scores.csv has all." if left else ""
    return Table(("patient", "mean", *(f"x{scale}" for scale in sorted(psnr))), tuple(rows), note)


def regions(scores: Sequence[Score]) -> Table:
    """Return a row per scale: PSNR and SSIM inside the brain and on the paper's crop."""
    found = [(name, mean_by_scale(scores, name)) for name in ("brain", "crop128")]
    methods = BICUBIC_NAME, MODEL_NAME
    rows = [
        (Cell(str(scale)), *(_both(means.get((scale, method))) for _, means in found for method in methods))
        for scale in sorted({scale for _, means in found for scale, _ in means})
    ]
    return Table(("scale", *(f"{region}, {method}" for region, _ in found for method in methods)), tuple(rows))


def detail(scores: Sequence[Score]) -> Table:
    """Return a row per scale: the share of patches whose detail is not that of HR, and the consistency with LR.

    Of a model with a calibration, also the share of pixels within the bounds that it states.
    """
    means = mean_by_scale(scores)
    has_trust = any(score.covered is not None for score in scores)
    methods = BICUBIC_NAME, MODEL_NAME
    rows = []
    for scale in sorted({scale for scale, _ in means}):
        found = [means.get((scale, method)) for method in methods]
        shares = [_share(None if one is None else one.mismatch) for one in found]
        within = [_share(None if found[-1] is None else found[-1].covered)] if has_trust else []
        rows.append(
            (
                Cell(str(scale)),
                *shares,
                *(Cell(NONE if one is None else number_text(one.consistency, 2)) for one in found),
                *within,
            )
        )
    columns = [f"{name}, {method}" for name in ("patches that disagree", "consistency") for method in methods]
    columns += ["pixels within the bounds of trust"] if has_trust else []
    return Table(("scale", *columns), tuple(rows))


def downstream(outcomes: Sequence[Outcome], step: str, *, of_all: bool = False) -> Table:
    """Return a row per scale, class and measure: bicubic, the model and the gain with its interval.

    Args:
        outcomes: Of the downstream evaluation.
        step: Its name.
        of_all: Only the mean Dice over the classes.
    """
    rows = []
    for gain in gains(outcomes, step):
        if of_all and (gain.label, gain.measure) != (ALL_CLASSES, "dice"):
            continue
        interval = f"{signed_text(gain.interval[0])} to {signed_text(gain.interval[1])}" if gain.interval else ""
        better = gain.mean >= 0 if gain.measure == "dice" else gain.mean <= 0
        label = "all classes" if gain.label == ALL_CLASSES else gain.label
        numbers = (Cell(number_text(gain.rival)), Cell(number_text(gain.model)))
        verdict = "good" if better else "bad"
        rows.append(
            (
                Cell(str(gain.scale)),
                Cell(label),
                Cell(gain.measure),
                *numbers,
                Cell(signed_text(gain.mean), interval, verdict),
            )
        )
    return Table(("scale", "class", "measure", BICUBIC_NAME, MODEL_NAME, "gain"), tuple(rows))


def _share(value: float | None) -> Cell:
    return Cell(NONE if value is None or math.isnan(value) else f"{value:.1%}")


def _by_scale(found: Sequence[PairedDifference]) -> dict[Scale, PairedDifference]:
    return {gain.scale: gain for gain in found}


def _both(mean: Mean | None) -> Cell:
    return Cell(NONE) if mean is None else Cell(number_text(mean.psnr, 2), number_text(mean.ssim))


def _gain(gain: PairedDifference | None, digits: int) -> Cell:
    """Return a gain with its interval; a star if a test finds it significant."""
    if gain is None:
        return Cell(NONE)
    star = "*" if gain.p_value is not None and gain.p_value < SIGNIFICANT else ""
    interval = ""
    if gain.interval:
        low, high = (signed_text(end, digits) for end in gain.interval)
        interval = f"{low} to {high}"
    return Cell(signed_text(gain.mean, digits) + star, interval, "good" if gain.mean >= 0 else "bad")


def _tinted(psnr: float | None, largest: float, ssim: float | None = None) -> Cell:
    """Return a gain, the more coloured the nearer it is to the largest of the table."""
    if psnr is None:
        return Cell(NONE)
    verdict = "good" if psnr >= 0 else "bad"
    strength = min(abs(psnr) / largest, 1.0) if math.isfinite(psnr) else 1.0
    return Cell(signed_text(psnr, 2), "" if ssim is None else signed_text(ssim), verdict, round(strength, 2))
