"""The model card of a version: what it is, what was measured and where it fails, from its evidence alone."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from typing import Any, NamedTuple

from cluster.registry.gate import SHOWN
from cluster.registry.records import Evidence
from metasr.config import ModelConfig
from metasr.data.patients import patient_of_row
from metasr.evaluation import Score, differences, mean_by_scale
from metasr.evaluation.background import disagreements
from metasr.evaluation.downstream import Outcome
from metasr.evaluation.methods import BICUBIC_NAME, MODEL_NAME
from metasr.evaluation.outcomes import ALL_CLASSES, gains
from metasr.evaluation.statistics import Measure, PairedDifference
from metasr.scale import Scale

CARD = "model_card.md"
NUM_WORST = 3
LONGEST_TEXT = 80
SHARES: dict[Measure, str] = {"mismatch": "patches that disagree,", "covered": "pixels within the bounds of trust,"}
"""Measures that are shares, where they were measured."""
# A column of MLflow's database; PostgreSQL refuses more.
LONGEST_DESCRIPTION = 5000


class _Cell(NamedTuple):
    """The model's gain over bicubic on one slice at one scale."""

    subject: str
    slice: int
    scale: Scale
    psnr: float
    ssim: float


def model_card(
    reference: str,
    about: Mapping[str, Any],
    evidence: Evidence,
    scores: Sequence[Score],
    outcomes: Sequence[Outcome] = (),
) -> str:
    """Return the card of a version as Markdown.

    The table that grows with the number of scales comes last, because `description` cuts long cards at the end.

    Args:
        reference: Reference of the version, `models:/NAME/VERSION`.
        about: Manifest of its bundle, `Bundle.about`.
        evidence: What the scores depend on.
        scores: Scores of the evaluation.
        outcomes: Results of its downstream evaluation, if any.
    """
    found: dict[Measure, list[PairedDifference]] = {
        measure: differences(scores, BICUBIC_NAME, measure) for measure in SHOWN
    }
    sections = {
        "What it is": _what(about),
        "How to load it": _load(reference, about),
        "Limits": _limits(about, evidence),
        "What was measured": _measured(about, evidence, scores, outcomes),
        "Where it fails": _failures(scores, found),
        "Provenance": _provenance(about, evidence),
        "Scale by scale": _scale_by_scale(scores, found),
    }
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items())
    title = " version ".join(map(_plain, reference.removeprefix("models:/").rsplit("/", 1)))
    return f"# {title}\n\nResearch use only, not a medical device.\n\n{body}\n"


def description(card: str, artifact: str) -> str:
    """Return a card short enough for MLflow: if cut, at the end of a line and with the artifact that has the rest."""
    if len(card) <= LONGEST_DESCRIPTION:
        return card
    rest = f"\n\nCut here. The full card is {CARD} in the run's artifact {artifact}.\n"
    return card[: LONGEST_DESCRIPTION - len(rest)].rpartition("\n")[0] + rest


def _what(about: Mapping[str, Any]) -> str:
    model, origin = ModelConfig.model_validate(about["config"]["model"]), _origin(about)
    return _list(
        f"{model.architecture} generator for brain MRI, {about['num_parameters']:,} parameters",
        f"trained for {_count(about['step'], 'step')} on {_trained_on(about)}",
        *([f"initialised from {origin}, whose training data is not listed here"] if origin else []),
        *_data(about),
    )


def _data(about: Mapping[str, Any]) -> list[str]:
    """Return what the training data was like, where the bundle says so."""
    said = about.get("trained_on") or {}
    stripped = said.get("skull_stripped")
    parts = [
        _plain(said.get("kind", "")),
        _plain(", ".join(said.get("contrasts", []))),
        "pixels of {:g} to {:g} mm".format(*said["spacing_mm"]) if said.get("spacing_mm") else "",
        "" if stripped is None else "a constant around the brain" if stripped else "with the head around the brain",
    ]
    text = "; ".join(part for part in parts if part)
    return [f"its training data: {text}"] if text else []


def _provenance(about: Mapping[str, Any], evidence: Evidence) -> str:
    """Return the hashes that identify everything; for programs, so they come late."""
    return _list(
        f"run {_plain(about['run_name'])}, code {_plain(about['code_version'])}",
        f"training data{' of this run' if _origin(about) else ''}: index {_plain(about['data_digest'])}",
        f"bundle: manifest {_plain(evidence.bundle_sha256)}",
        f"validation data: index {_plain(evidence.data_sha256)}",
        f"evaluated by code {_plain(evidence.code_version)}",
    )


def _load(reference: str, about: Mapping[str, Any]) -> str:
    files = ["-i", "in.nii.gz", "-o", "out.nii.gz", "--scale", f"{_trained_scales(about)[1]:g}"]
    return "    " + " ".join(shlex.join(["metasr", "upscale", "--model", reference, *files]).split())


def _limits(about: Mapping[str, Any], evidence: Evidence) -> str:
    low, high = _trained_scales(about)
    outside = [text for text in evidence.scales if not _is_within(Scale.parse(text), low, high)]
    measured = f"measured here: {', '.join(outside)}" if outside else "not measured"
    return _list(
        f"Beyond {_trained_on(about)} is extrapolation; {measured}.",
        f"LR was made by {_plain(evidence.degradation)} with noise {evidence.noise:g}: other degradations, real "
        "low-resolution scans, other contrasts and other scanners were not measured.",
        _invention(about),
    )


def _invention(about: Mapping[str, Any]) -> str:
    weight, pixel_only = about["config"]["loss"]["adversarial"], about["config"]["train"].get("pixel_only_steps", 0)
    if weight and about["step"] > pixel_only:
        return f"Adversarial training (weight {weight:g}) can invent structure that does not exist."
    if _origin(about):
        return (
            "There was no adversarial training in this run, but there may have been before it, which can invent "
            "structure that does not exist."
        )
    return "There was no adversarial training, which can invent structure; any network may still blur or alter it."


def _origin(about: Mapping[str, Any]) -> str:
    """Return what the network was initialised from; empty for random weights."""
    if fork := about.get("forked_from"):
        return f"run {_plain(fork)}"
    if initial := about.get("initial_bundle"):
        return f"the bundle with manifest {_plain(initial)}"
    return ""


def _measured(
    about: Mapping[str, Any], evidence: Evidence, scores: Sequence[Score], outcomes: Sequence[Outcome]
) -> str:
    slices = {(score.subject, score.slice) for score in scores}
    patients = {patient_of_row(score) for score in scores}
    if about["data_digest"] != evidence.data_sha256:
        source = "of an index other than that of the training data: it is not known whether some were trained on"
    elif _origin(about):
        source = "of the training data of this run: it is not known whether the initial weights were trained on some"
    else:
        source = "of the training data"
    data = _list(
        f"{_count(len(patients), 'patient')}, {_count(len(slices), 'slice')}"
        + (f", at most {evidence.slices_per_subject} of a subject" if evidence.slices_per_subject else ""),
        f"validation subjects {source}",
        f"LR: {_plain(evidence.degradation)}, noise {evidence.noise:g}",
    )
    protocol = (
        "Whole slices are degraded, enlarged by the model and by bicubic interpolation, and compared with the "
        "originals. Means are over patients, of each patient's mean over slices, and gains are paired by patient, "
        'with a 95 % bootstrap interval over patients: metasr/README.md, "How models are evaluated".'
    )
    steps = [_downstream(outcomes, step) for step in evidence.downstream] or ["Downstream tasks were not measured."]
    return "\n\n".join([data, protocol, *steps])


def _downstream(outcomes: Sequence[Outcome], step: str) -> str:
    found = [gain for gain in gains(outcomes, step) if (gain.label, gain.measure) == (ALL_CLASSES, "dice")]
    if not found:
        return f"Downstream ({step}): no result to compare with bicubic."
    least = min(found, key=lambda gain: gain.mean)
    return (
        f"Downstream ({step}): smallest gain in mean Dice against HR at scale {least.scale}, {least.mean:+.4f}: "
        f"bicubic {least.rival:.4f}, model {least.model:.4f}."
    )


def _failures(scores: Sequence[Score], found: Mapping[Measure, Sequence[PairedDifference]]) -> str:
    """Return how many patients, slices and scales are below bicubic, and the worst slices. NaN counts as below."""
    cells = _cells(scores)
    columns = [_below(of_measure, cells, measure) for measure, of_measure in found.items()]
    labels = (
        "patients below bicubic at one or more scales",
        "slices below bicubic at one or more scales",
        "scales with a mean below bicubic",
    )
    counts = [["", *(name for name, _, _ in SHOWN.values())], *map(list, zip(labels, *columns, strict=True))]
    explained = "".join(f"\n\n{text}" for text in disagreements(scores))
    below = sorted((cell for cell in cells if _is_below(cell.psnr)), key=_worst_first)
    if not below:
        return f"{_table(counts)}\n\nNo slice is below bicubic in PSNR.{explained}"
    rows = [
        [_plain(cell.subject), str(cell.slice), str(cell.scale), _shown(cell.psnr, "psnr"), _shown(cell.ssim, "ssim")]
        for cell in below[:NUM_WORST]
    ]
    worst = _table([["subject", "slice", "scale", "PSNR - bicubic", "SSIM - bicubic"], *rows])
    return f"{_table(counts)}\n\nThe worst slices by PSNR:\n\n{worst}{explained}"


def _below(found: Sequence[PairedDifference], cells: Sequence[_Cell], measure: Measure) -> list[str]:
    """Return the numbers of patients and slices, and the scales, that are below bicubic in one measure."""
    patients = {name for gain in found for name in gain.by_patient}
    patients_below = {name for gain in found for name, value in gain.by_patient.items() if _is_below(value)}
    slices = {(cell.subject, cell.slice) for cell in cells}
    slices_below = {(cell.subject, cell.slice) for cell in cells if _is_below(getattr(cell, measure))}
    scales = ", ".join(str(gain.scale) for gain in found if _is_below(gain.mean))
    return [
        f"{len(patients_below)} of {len(patients)}",
        f"{len(slices_below)} of {len(slices)}",
        scales or "none",
    ]


def _scale_by_scale(scores: Sequence[Score], found: Mapping[Measure, Sequence[PairedDifference]]) -> str:
    means = mean_by_scale(scores)
    header = ["scale"]
    for name, _, _ in SHOWN.values():
        header += [f"{name} bicubic", f"{name} model", f"{name} gain [95 % interval]"]
    shares = [
        (measure, method)
        for measure in SHARES
        for method in (BICUBIC_NAME, MODEL_NAME)
        if any(not isnan(getattr(mean, measure)) for (_, of), mean in means.items() if of == method)
    ]
    rows = [[*header, *(f"{SHARES[measure]} {method}" for measure, method in shares), "patients"]]
    for of_scale in zip(*found.values(), strict=True):
        row = [str(of_scale[0].scale)]
        for gain in of_scale:
            digits = SHOWN[gain.measure][1]
            both = (getattr(means[gain.scale, method], gain.measure) for method in (BICUBIC_NAME, MODEL_NAME))
            row += [*(f"{mean:.{digits}f}" for mean in both), _gain(gain, digits)]
        scale = of_scale[0].scale
        row += [_share(getattr(means[scale, method], measure)) for measure, method in shares]
        rows.append([*row, str(len(of_scale[0].by_patient))])
    return _table(rows)


def _share(value: float) -> str:
    return "-" if isnan(value) else f"{value:.1%}"


def _gain(gain: PairedDifference, digits: int) -> str:
    interval = "" if gain.interval is None else " [{:+.{d}f}, {:+.{d}f}]".format(*gain.interval, d=digits)
    return f"{gain.mean:+.{digits}f}{interval}"


def _cells(scores: Sequence[Score]) -> list[_Cell]:
    whole = {(one.subject, one.slice, one.scale, one.method): one for one in scores if one.region == "whole"}
    return [
        _Cell(subject, number, scale, ours.psnr - theirs.psnr, ours.ssim - theirs.ssim)
        for (subject, number, scale, method), ours in whole.items()
        if method == MODEL_NAME and (theirs := whole.get((subject, number, scale, BICUBIC_NAME)))
    ]


def _worst_first(cell: _Cell) -> float:
    return cell.psnr if cell.psnr < 0 else float("-inf")  # NaN is the worst


def _is_below(gain: float) -> bool:
    return not gain >= 0


def _shown(value: float, measure: Measure) -> str:
    _, digits, unit = SHOWN[measure]
    return f"{value:+.{digits}f}{unit}"


def _trained_scales(about: Mapping[str, Any]) -> tuple[float, float]:
    train = about["config"]["train"]
    return train["scale_min"], train["scale_max"]


def _trained_on(about: Mapping[str, Any]) -> str:
    low, high = _trained_scales(about)
    return f"scale {low:g}" if low == high else f"scales {low:g} to {high:g}"


def _is_within(scale: Scale, low: float, high: float) -> bool:
    """Return whether the scale of each enlarged axis was trained on."""
    return all(axis == 1 or low <= axis <= high for axis in (scale.rows, scale.columns))


def _plain(text: str) -> str:
    """Return untrusted text on one line, escaped for Markdown and HTML."""
    line = " ".join(text.split())[:LONGEST_TEXT]
    return re.sub(r"[^\w .+-]", lambda found: f"&#{ord(found[0])};", line)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _list(*items: str) -> str:
    return "\n".join(f"- {item}" for item in items)


def _table(rows: Sequence[Iterable[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * (lines[0].count("|") - 1), *lines[1:]])
