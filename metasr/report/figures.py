"""The charts of a report: gains by scale with their intervals, and the learning curves of the run."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from markupsafe import Markup

from metasr.charts import BLUE, GREY, INK, ORANGE, PINK, Axis, Series, xy_chart
from metasr.evaluation.methods import BICUBIC_NAME
from metasr.evaluation.outcomes import ALL_CLASSES, Gain
from metasr.evaluation.statistics import Measure, PairedDifference
from metasr.report.content import Curves
from metasr.report.template import signed_text
from metasr.scale import Scale

UNITS: dict[Measure, tuple[str, int]] = {"psnr": ("PSNR gain, dB", 2), "ssim": ("SSIM gain", 4)}
COLOURS = (BLUE, ORANGE, PINK)
MAX_POINTS, MAX_DOTS = 300, 60
LOSS = "loss/"
SIZE_PX = (520, 320)


def gains_chart(measure: Measure, gains: Sequence[Sequence[PairedDifference]]) -> Markup:
    """Draw the model's gains over each rival at each scale: mean, 95 % interval, and each patient as a dot.

    Args:
        measure: What was measured.
        gains: For each rival, a gain for each scale.
    """
    scales = sorted({gain.scale for of_rival in gains for gain in of_rival})
    axis, places = _scale_axis(scales)
    label, digits = UNITS[measure]
    series = [_zero(axis)]
    shift = 0.012 * ((axis.limits[1] - axis.limits[0]) if axis.limits else len(scales))
    for number, of_rival in enumerate(gains):
        colour = COLOURS[number % len(COLOURS)]
        dodge = shift * (number - (len(gains) - 1) / 2)
        for gain in of_rival:
            series += _patients(places[gain.scale] + dodge, gain, colour)
        along = [places[gain.scale] + dodge for gain in of_rival]
        means = [gain.mean for gain in of_rival]
        key, tip = f"{measure}-gain-{number}", _tip(of_rival, digits)
        series.append(Series(along, means, colour, line="-", width=1.4, marker="o", key=key, tip=tip))
    said = ". ".join(_tip(of_rival, digits) for of_rival in gains)
    return Markup(
        xy_chart(
            series, axis, Axis(label), name=f"{measure}-gains", text=f"{label} by scale. {said}", size_px=SIZE_PX
        )
    )


def dice_chart(step: str, gains: Sequence[Gain]) -> Markup | None:
    """Draw the gain in mean Dice over bicubic by scale; None if there is none."""
    found = [gain for gain in gains if (gain.label, gain.measure) == (ALL_CLASSES, "dice")]
    if not found:
        return None
    axis, places = _scale_axis([gain.scale for gain in found])
    series = [_zero(axis)]
    for gain in found:
        series += _patients(places[gain.scale], gain, BLUE)
    means = [gain.mean for gain in found]
    series.append(Series([places[gain.scale] for gain in found], means, BLUE, line="-", width=1.4, marker="o"))
    said = ", ".join(f"{signed_text(gain.mean)} at {gain.scale}" for gain in found)
    text = f"Gain in Dice of {step} over bicubic by scale: {said}"
    return Markup(xy_chart(series, axis, Axis("Dice gain"), name=f"dice-{step}", text=text, size_px=SIZE_PX))


def _patients(at: float, gain: PairedDifference | Gain, colour: str) -> list[Series]:
    """Return the patients of a gain as dots, as many as a chart can show, and the interval of the mean as a bar."""
    found = sorted(gain.by_patient.values())
    if len(found) > MAX_DOTS:
        found = [found[round(rank * (len(found) - 1) / (MAX_DOTS - 1))] for rank in range(MAX_DOTS)]
    series = [Series([at] * len(found), found, colour, 0.25, marker="o", marker_px=5)] if len(found) > 1 else []
    if gain.interval:
        series.append(Series([at, at], gain.interval, colour, line="-", width=2.2, marker="_", marker_px=9))
    return series


def learning_charts(curves: Curves) -> list[tuple[str, Markup]]:
    """Draw what the run measured over its steps; with each chart what it shows."""
    charts = []
    drawn: list[list[tuple[float, float]]] = []
    for name, label in (("gain_psnr_db", "PSNR gain over bicubic, dB"), ("gain_ssim", "SSIM gain over bicubic")):
        if found := _thinned(curves.get(name, ())):
            lines = [_zero_over(found), *_gains_by_scale(curves, "psnr" if "psnr" in name else "ssim")]
            lines = _apart([*lines, _curve(found, BLUE, "mean", width=2.2)])
            charts.append((f"{label}, on the few slices of the validation: mean and each scale", name, label, lines))
    for name in sorted(name for name in curves if name.startswith(LOSS)):
        found = _thinned(curves[name])
        if any(value for _, value in found) and found not in drawn:  # the total of one loss is that loss
            drawn.append(found)
            label = f"{name.removeprefix(LOSS).replace('_', ' ')} loss"
            charts.append((f"Training: {label}", name, label, [_curve(found, ORANGE, "")]))
    return [
        (
            caption,
            Markup(
                xy_chart(lines, Axis("step"), Axis(label), name=name, text=_said(label, lines[-1]), size_px=SIZE_PX)
            ),
        )
        for caption, name, label, lines in charts
    ]


def _gains_by_scale(curves: Curves, measure: str) -> list[Series]:
    """Return a faint line for each scale of the validation."""
    prefix = f"validation/{measure}_model_x"
    lines = []
    for name in sorted(name for name in curves if name.startswith(prefix)):
        scale = name.removeprefix(prefix)
        bicubic = dict(curves.get(f"validation/{measure}_{BICUBIC_NAME}_x{scale}", ()))
        points = [(step, value - bicubic[step]) for step, value in curves[name] if step in bicubic]
        if points:
            lines.append(_curve(_thinned(points), GREY, f"x{scale}", opacity=0.7))
    return lines


def _apart(lines: Sequence[Series]) -> list[Series]:
    """Return the lines with the notes of those that end far enough from the others; the last always has its own."""
    ends = [line.y[-1] for line in lines]
    distance = 0.06 * (max(ends) - min(ends))
    noted: list[float] = []
    found: list[Series] = []
    for line in reversed(lines):
        is_free = all(abs(line.y[-1] - end) >= distance for end in noted)
        found.append(line if is_free else replace(line, note=""))
        if is_free and line.note:
            noted.append(line.y[-1])
    return found[::-1]


def _curve(
    points: Sequence[tuple[float, float]], colour: str, note: str, *, width: float = 1.3, opacity: float = 1.0
) -> Series:
    steps, values = zip(*points, strict=True)
    marker = "o" if len(points) < 40 else ""
    return Series(steps, values, colour, opacity, "-", width, marker=marker, marker_px=4, note=note)


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """Return means of neighbouring points, as many as a chart can show."""
    size = -(-len(points) // MAX_POINTS) or 1
    parts = [points[first : first + size] for first in range(0, len(points), size)]
    return [(fmean(step for step, _ in part), fmean(value for _, value in part)) for part in parts]


def _scale_axis(scales: Sequence[Scale]) -> tuple[Axis, dict[Scale, float]]:
    """Return the axis of scales and the place of each: numbers, or texts if an axis is enlarged by itself."""
    if all(scale.rows == scale.columns for scale in scales) and len(scales) > 1:
        low, high = scales[0].rows, scales[-1].rows
        margin = 0.06 * (high - low)
        return Axis("scale", (low - margin, high + margin)), {scale: scale.rows for scale in scales}
    return Axis("scale", choices=tuple(map(str, scales))), {scale: float(at) for at, scale in enumerate(scales)}


def _zero(axis: Axis) -> Series:
    ends = axis.limits or (-0.5, len(axis.choices) - 0.5)
    return Series(ends, (0.0, 0.0), INK, 0.5, "--", 1.0)


def _zero_over(points: Sequence[tuple[float, float]]) -> Series:
    return Series((points[0][0], points[-1][0]), (0.0, 0.0), INK, 0.5, "--", 1.0)


def _tip(gains: Sequence[PairedDifference], digits: int) -> str:
    said = ", ".join(f"{signed_text(gain.mean, digits)} at {gain.scale}" for gain in gains)
    return f"over {gains[0].rival}: {said}"


def _said(label: str, line: Series) -> str:
    return f"{label} over steps: {line.y[0]:.4g} at step {line.x[0]:,.0f}, {line.y[-1]:.4g} at step {line.x[-1]:,.0f}"
