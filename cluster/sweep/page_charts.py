"""The charts of a sweep's page, as SVG. Trials have the colours of their places, the best lies on top."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cluster.sweep.page_axes import Axis, shortened
from cluster.sweep.page_standings import MINUS, Standing, low_end
from cluster.sweep.page_svg import COLOUR, drawing_style, inline_svg
from cluster.sweep.record import Status

MARKERS: dict[Status, str] = {
    "finished": "o",
    "stopped early": "D",
    "replaced": "d",
    "failed": "x",
    "running": "^",
    "waiting": "^",
}
LINES: dict[Status, str] = {
    "finished": "-",
    "stopped early": "--",
    "replaced": "--",
    "failed": ":",
    "running": "-",
    "waiting": "-",
}
LOWER = "v"
ROTATE_FROM = 26


def parallel_coordinates(axes: Sequence[Axis], standings: Sequence[Standing], label: str) -> Markup:
    """Draw each trial as a line through its settings to its objective."""
    bottom, top = _span([standing.objective for standing in standings])
    axes = [*axes, Axis("objective", "", bottom, top)]
    with drawing_style():
        figure, chart = _chart(max(460, 140 * len(axes)), 380)
        for standing in reversed(standings):
            values = [*(standing.trial.settings.get(axis.name) for axis in axes[:-1]), standing.objective]
            places = [axis.place(value) for axis, value in zip(axes, values, strict=True)]
            heights = [math.nan if place is None else max(place, -0.03) for place in places]
            chart.plot(range(len(axes)), heights, **_line(standing))
        for position, axis in enumerate(axes):
            _draw_upright(chart, position, axis)
        chart.set(xlim=(-0.12, len(axes) - 0.55), ylim=(-0.05, 1.03))
        chart.set_axis_off()
        return inline_svg(figure, "parallel", label, _tips(standings))


def objective_against(axis: Axis, standings: Sequence[Standing], name: str, label: str) -> Markup:
    """Draw the objective of each trial over one of its settings; at the foot what has none, or one far below."""
    bottom, top = _span([standing.objective for standing in standings])
    margin = 0.08 * (top - bottom)
    with drawing_style():
        figure, chart = _chart(330, 260)
        for standing in reversed(standings):
            place, objective = axis.place(standing.trial.settings.get(axis.name)), standing.objective
            if place is None:
                continue
            if objective is None or objective < bottom:
                _mark(chart, place, bottom - margin, standing, "x" if objective is None else LOWER)
            else:
                _mark(chart, place, objective, standing)
        chart.set(xlim=(-0.05, 1.05), ylim=(bottom - 1.7 * margin, top + margin))
        chart.set(xlabel=axis.name + (" (log axis)" if axis.is_log else ""), ylabel="objective")
        places, texts = [place for place, _ in axis.ticks()], [shortened(text, 18) for _, text in axis.ticks()]
        is_crowded = sum(map(len, texts)) > ROTATE_FROM
        chart.set_xticks(places, texts, **({"rotation": 20, "ha": "right"} if is_crowded else {}))
        return inline_svg(figure, name, label, _tips(standings))


def learning_curves(standings: Sequence[Standing], label: str) -> Markup:
    """Draw the objective of all trials over their steps, and how each ended."""
    bottom, top = _span([point.objective for standing in standings for point in standing.trial.history])
    margin = 0.06 * (top - bottom)
    with drawing_style():
        figure, chart = _chart(760, 380)
        for standing in reversed(standings):
            points = standing.trial.history
            if not points:
                continue
            steps, objectives = [point.step for point in points], [point.objective for point in points]
            chart.plot(steps, objectives, **_line(standing))
            _mark(chart, steps[-1], max(objectives[-1], bottom - margin), standing, MARKERS[standing.trial.status])
            if standing.is_best and standing.trial.best:
                _mark(chart, standing.trial.best.step, standing.trial.best.objective, standing)
        chart.set(ylim=(bottom - 1.5 * margin, top + 1.5 * margin), xlabel="step", ylabel="objective")
        chart.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        return inline_svg(figure, "curves", label, _tips(standings))


def trade_off(standings: Sequence[Standing], front: Sequence[Standing], label: str) -> Markup:
    """Draw PSNR gain over perceptual gain, and the line below and left of which a trial is beaten in both.

    Args:
        standings: Trials with a `trade_off`.
        front: Those of them that no other beats in both, by perceptual gain.
        label: What those read or hear who do not see it.
    """
    points = {standing.key: standing.trade_off for standing in standings if standing.trade_off}
    bottoms, tops = zip(*(_span(values) for values in zip(*points.values(), strict=True)), strict=True)
    margins = [0.09 * (top - bottom) for bottom, top in zip(bottoms, tops, strict=True)]
    with drawing_style():
        figure, chart = _chart(620, 420)
        along, up = zip(*(points[standing.key] for standing in front), strict=True)
        corners = (bottoms[0] - 2 * margins[0], *along), (*up, bottoms[1] - 2 * margins[1])
        chart.step(corners[0], (up[0], *up), where="pre", color=COLOUR["accent"], linewidth=1.5, zorder=1)
        chart.plot([along[-1]] * 2, [up[-1], corners[1][-1]], color=COLOUR["accent"], linewidth=1.5, zorder=1)
        for standing in reversed(standings):
            place = [
                max(value, low - margin)
                for value, low, margin in zip(points[standing.key], bottoms, margins, strict=True)
            ]
            _mark(chart, *place, standing)
        for standing in front:
            chart.annotate(
                f"trial {standing.trial.number}",
                points[standing.key],
                xytext=(6, 6),
                textcoords="offset points",
                color=COLOUR["ink"],
            )
        for setter, low, high, margin in zip((chart.set_xlim, chart.set_ylim), bottoms, tops, margins, strict=True):
            setter(low - 1.5 * margin, high + 1.5 * margin)
        chart.set(xlabel="perceptual gain over bicubic (nearer to HR →)", ylabel="PSNR gain over bicubic, dB")
        return inline_svg(figure, "trade-off", label, _tips(standings))


def _chart(width_px: int, height_px: int) -> tuple[Figure, Axes]:
    """Return an empty figure, with plain numbers on its axes."""
    figure = Figure(figsize=(width_px / 72, height_px / 72), layout="constrained")
    chart = figure.add_subplot()
    for axis in (chart.xaxis, chart.yaxis):
        axis.set_major_locator(MaxNLocator(6))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}".replace("-", MINUS)))
    return figure, chart


def _span(values: Sequence[float | None]) -> tuple[float, float]:
    """Return where a chart of these values begins and ends, never the same."""
    known = [value for value in values if value is not None]
    bottom, top = low_end(known), max(known, default=0.0)
    return (bottom, top) if top > bottom else (bottom - 0.5, bottom + 0.5)


def _line(standing: Standing) -> dict[str, Any]:
    return {
        "color": COLOUR[standing.colour],
        "linestyle": LINES[standing.trial.status],
        "linewidth": 2.6 if standing.is_best else 1.3,
        "gid": standing.key,
    }


def _mark(chart: Axes, along: float, up: float, standing: Standing, marker: str | None = None) -> None:
    """Draw a trial as a point: a star if it is the best and nothing else is asked for."""
    marker = marker or ("*" if standing.is_best else MARKERS[standing.trial.status])
    chart.plot(
        [along],
        [up],
        marker=marker,
        markersize=15 if marker == "*" else 7,
        markerfacecolor=COLOUR[standing.colour],
        markeredgecolor=COLOUR[standing.colour if marker == "x" else "paper"],
        markeredgewidth=2 if marker == "x" else 0.8,
        linestyle="none",
        clip_on=False,
        gid=standing.key,
    )


def _draw_upright(chart: Axes, position: int, axis: Axis) -> None:
    """Draw an axis of parallel coordinates: its name above it, in two lines, and its values beside it."""
    chart.plot([position] * 2, [0, 1], color=COLOUR["muted"], linewidth=1, zorder=1)
    name = axis.name.replace(".", ".\n", 1) + ("\n(log axis)" if axis.is_log else "")
    chart.text(position, 1.04, name, ha="center", va="bottom", linespacing=1.3)
    back = {"facecolor": COLOUR["paper"], "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
    for place, text in axis.ticks():
        chart.plot([position, position + 0.03], [place] * 2, color=COLOUR["muted"], linewidth=1, zorder=1)
        chart.text(position + 0.05, place, shortened(text, 14), va="center", size=10, color=COLOUR["ink"], bbox=back)


def _tips(standings: Sequence[Standing]) -> Mapping[str, str]:
    return {standing.key: standing.tip for standing in standings}
