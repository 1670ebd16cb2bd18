"""The charts of a sweep's page. The better a trial, the stronger its colour; the best lies on top."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from cluster.sweep.page_settings import Setting
from cluster.sweep.page_standings import Standing, low_end
from cluster.sweep.record import Status
from metasr.charts import BLUE, GREY, ORANGE, PINK, Axis, Series, parallel_chart, xy_chart

MARKERS: dict[Status, str] = {
    "finished": "o",
    "stopped early": "D",
    "replaced": "d",
    "failed": "x",
    "running": "^",
    "waiting": "^",
}
LINES: dict[Status, str] = {"stopped early": "--", "replaced": "--", "failed": ":"}
LOWER = "v"


def parallel_coordinates(settings: Sequence[Setting], standings: Sequence[Standing], text: str) -> Markup:
    """Draw each trial as a line through its settings to its objective."""
    lines = [
        Series((), [*_positions(settings, standing), _or_nan(standing.objective)], **_line(standing))
        for standing in reversed(standings)
    ]
    objective = Axis("objective", _span(standing.objective for standing in standings))
    return Markup(parallel_chart(lines, [*(one.axis for one in settings), objective], name="parallel", text=text))


def objective_against(setting: Setting, standings: Sequence[Standing], name: str, text: str) -> Markup:
    """Draw the objective of each trial over one of its settings; at the foot what has none, or one far below."""
    bottom, top = _span(standing.objective for standing in standings)
    margin = 0.08 * (top - bottom)
    points = []
    for standing in reversed(standings):
        place, objective = setting.position(standing.trial.settings.get(setting.name)), standing.objective
        if objective is None or objective < bottom:
            points.append(_mark(standing, place, bottom - margin, "x" if objective is None else LOWER))
        else:
            points.append(_mark(standing, place, objective))
    objective_axis = Axis("objective", (bottom - 1.7 * margin, top + margin))
    return Markup(xy_chart(points, setting.axis, objective_axis, name=name, text=text, size_px=(330, 260)))


def learning_curves(standings: Sequence[Standing], text: str) -> Markup:
    """Draw the objective of all trials over their steps, and how each ended."""
    bottom, top = _span(point.objective for standing in standings for point in standing.trial.history)
    margin = 0.06 * (top - bottom)
    series = []
    for standing in reversed(standings):
        if not (points := standing.trial.history):
            continue
        steps, objectives = [point.step for point in points], [point.objective for point in points]
        series.append(Series(steps, objectives, **_line(standing)))
        end = max(objectives[-1], bottom - margin)
        series.append(_mark(standing, steps[-1], end, MARKERS[standing.trial.status]))
        if standing.is_best and standing.trial.best:
            series.append(_mark(standing, standing.trial.best.step, standing.trial.best.objective))
    objective = Axis("objective", (bottom - 1.5 * margin, top + 1.5 * margin))
    return Markup(xy_chart(series, Axis("step"), objective, name="curves", text=text))


def trade_off(standings: Sequence[Standing], front: Sequence[Standing], text: str) -> Markup:
    """Draw PSNR gain over perceptual gain, and the line below and left of which a trial is beaten in both.

    Args:
        standings: Trials with a `trade_off`.
        front: The Pareto front: those that no other beats in both, by perceptual gain.
        text: What the chart says, for those who do not see it.
    """
    points = {standing.key: standing.trade_off for standing in standings if standing.trade_off}
    (left, right), (bottom, top) = (_span(values) for values in zip(*points.values(), strict=True))
    wide, high = 0.09 * (right - left), 0.09 * (top - bottom)
    along, up = zip(*(points[standing.key] for standing in front), strict=True)
    x, y = (left - 2 * wide, *along, along[-1]), (up[0], *up, bottom - 2 * high)
    stairs = Series(x, y, colour=ORANGE, line="-", width=1.5, is_step=True)
    marks = [
        _mark(
            standing,
            max(points[standing.key][0], left - wide),
            max(points[standing.key][1], bottom - high),
            note=f"trial {standing.trial.number}" if standing in front else "",
        )
        for standing in reversed(standings)
    ]
    across = Axis("perceptual gain over bicubic (nearer to HR →)", (left - 1.5 * wide, right + 1.5 * wide))
    upwards = Axis("PSNR gain over bicubic, dB", (bottom - 1.5 * high, top + 1.5 * high))
    return Markup(xy_chart([stairs, *marks], across, upwards, name="trade-off", text=text, size_px=(620, 420)))


def _positions(settings: Sequence[Setting], standing: Standing) -> list[float]:
    return [setting.position(standing.trial.settings.get(setting.name)) for setting in settings]


def _span(values: Iterable[float | None]) -> tuple[float, float]:
    """Return where a chart of these values begins and ends, never the same."""
    known = [value for value in values if value is not None]
    bottom, top = low_end(known), max(known, default=0.0)
    return (bottom, top) if top > bottom else (bottom - 0.5, bottom + 0.5)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _line(standing: Standing) -> dict[str, Any]:
    return {
        "line": LINES.get(standing.trial.status, "-"),
        "width": 2.6 if standing.is_best else 1.3,
        **_look(standing),
    }


def _mark(standing: Standing, x: float, y: float, marker: str = "", *, note: str = "") -> Series:
    """Return a trial as a point: a star if it is the best and nothing else is asked for."""
    marker = marker or ("*" if standing.is_best else MARKERS[standing.trial.status])
    return Series([x], [y], marker=marker, note=note, **_look(standing))


def _look(standing: Standing) -> dict[str, Any]:
    """Return the colour of a trial, and what marks it on the page."""
    colour = ORANGE if standing.is_best else BLUE if standing.place else GREY
    return {
        "colour": PINK if standing.trial.status == "failed" else colour,
        "opacity": standing.strength,
        "key": standing.key,
        "tip": standing.tip,
    }
