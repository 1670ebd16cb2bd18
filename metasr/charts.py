"""Charts as SVG for pages that are one file: drawn by matplotlib, readable on light and on dark paper.

The same data give the same bytes. Text is escaped, so that names from elsewhere may be drawn. Importing this module
imports matplotlib: do so where a page is written.
"""

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Literal

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

BLUE, ORANGE, PINK, GREY = "#3b82c4", "#d9640d", "#b8568f", "#7f8b99"
"""Data has colours that stand out from white and from near black alike."""
INK, PAPER = "#000000", "#ffffff"
"""Text and what lies behind it: a page replaces these two by its own colours."""
MINUS = "\N{MINUS SIGN}"
STYLE = {
    "axes.edgecolor": GREY,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 72,  # a point of the figure is a pixel of the page
    "figure.facecolor": "none",
    "font.size": 12,
    "grid.alpha": 0.3,
    "grid.color": GREY,
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may hold dollar signs
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
}
MAX_TICK_LABEL, ROTATE_FROM = 18, 26


@dataclass(frozen=True)
class Series:
    """Points that belong together, such as those of a run or of a method.

    Attributes:
        x: In `parallel_chart` without meaning.
        y: As many as `x`, or one for each axis of `parallel_chart`; NaN leaves a gap.
        colour: Such as `BLUE`.
        opacity: From 0 to 1.
        line: How points are joined: `-`, `--`, `:`; empty for points alone.
        width: Of the line, in pixels.
        is_step: Whether the line goes up and along only, along first at the height of the next point.
        marker: Of each point, as matplotlib names it; empty for none.
        marker_px: Size of each point.
        note: Text beside the last point.
        key: CSS class of all that is drawn of it.
        tip: Text that a browser shows where a pointer rests on it.
    """

    x: Sequence[float]
    y: Sequence[float]
    colour: str = BLUE
    opacity: float = 1.0
    line: str = ""
    width: float = 1.3
    is_step: bool = False
    marker: str = ""
    marker_px: float = 7
    note: str = ""
    key: str = ""
    tip: str = ""


@dataclass(frozen=True)
class Axis:
    """What an axis shows.

    Attributes:
        label: Its name.
        limits: Lowest and highest value; None for those of the data.
        is_log: Whether equal steps are equal factors.
        choices: Texts at 0, 1, 2, ... instead of numbers.
    """

    label: str
    limits: tuple[float, float] | None = None
    is_log: bool = False
    choices: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The label, and whether the axis is logarithmic."""
        return f"{self.label} (log axis)" if self.is_log else self.label


def xy_chart(
    series: Sequence[Series], x: Axis, y: Axis, *, name: str, text: str, size_px: tuple[int, int] = (760, 380)
) -> str:
    """Return a chart of points and lines as an `<svg>` element.

    Args:
        series: The later lie on top.
        x: Horizontal axis.
        y: Vertical axis.
        name: Unlike those of the page's other charts.
        text: What the chart says, for those who do not see it.
        size_px: Width and height.
    """
    with style.context(["default", STYLE, {"svg.hashsalt": name}]):
        figure, chart = _figure(size_px)
        chart.set(xlabel=x.title, ylabel=y.title)
        _scale(chart, "x", x)
        _scale(chart, "y", y)
        if sum(map(len, x.choices)) > ROTATE_FROM:
            chart.tick_params("x", rotation=20)
        for one in series:
            _draw(chart, one.x, one.y, one)
        return _inline_svg(figure, series, text)


def parallel_chart(series: Sequence[Series], axes: Sequence[Axis], *, name: str, text: str) -> str:
    """Return parallel coordinates as an `<svg>` element: each series is a line through a value on each axis.

    Args:
        series: The later lie on top. Values below an axis lie just below its foot.
        axes: From left to right, with limits or choices.
        name: Unlike those of the page's other charts.
        text: What the chart says, for those who do not see it.
    """
    with style.context(["default", STYLE, {"svg.hashsalt": name}]):
        figure, chart = _figure((max(460, 140 * len(axes)), 380))
        chart.set(xlim=(-0.12, len(axes) - 0.9), ylim=(0, 1))
        chart.set_axis_off()
        uprights = [_upright(chart, position, axis) for position, axis in enumerate(axes)]
        for one in series:
            heights = [_height(upright, value) for upright, value in zip(uprights, one.y, strict=True)]
            _draw(chart, range(len(axes)), heights, one, clip=False)
        return _inline_svg(figure, series, text)


def _figure(size_px: tuple[int, int]) -> tuple[Figure, Axes]:
    width, height = size_px
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    return figure, figure.add_subplot()


def _scale(chart: Axes, which: Literal["x", "y"], axis: Axis) -> None:
    """Give an axis of a chart its scale, its limits and its tick labels."""
    limits = (-0.5, len(axis.choices) - 0.5) if axis.choices else axis.limits
    chart.set(**{f"{which}scale": "log" if axis.is_log else "linear"})
    if limits:
        chart.set(**{f"{which}lim": limits})
    drawn = chart.xaxis if which == "x" else chart.yaxis
    if axis.choices:
        drawn.set_ticks(range(len(axis.choices)), [_shortened(choice) for choice in axis.choices])
        return
    drawn.set_major_locator(
        LogLocator(subs=_log_ticks(axis), numticks=7) if axis.is_log else MaxNLocator(6, steps=[1, 2, 5, 10])
    )
    drawn.set_minor_locator(NullLocator())
    drawn.set_major_formatter(FuncFormatter(lambda value, _: _number_text(value)))


def _log_ticks(axis: Axis) -> tuple[float, ...]:
    """Return which multiples of powers of ten have a tick: few of each on a long axis, many on a short one."""
    decades = math.log10(axis.limits[1] / axis.limits[0]) if axis.limits else math.inf
    return (1.0,) if decades > 2.5 else (1.0, 3.0) if decades > 1 else (1.0, 2.0, 5.0)


def _upright(chart: Axes, position: int, axis: Axis) -> Axes:
    """Return an axis of parallel coordinates: its name above it in lines, its tick labels beside it."""
    upright = chart.twinx()
    upright.grid(visible=False)
    upright.spines[["left", "bottom", "top"]].set_visible(False)
    upright.spines["right"].set(visible=True, position=("data", position))
    _scale(upright, "y", axis)
    for label in upright.get_yticklabels():
        label.set_bbox({"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 1.0})
    chart.text(position, 1.04, axis.title.replace(".", ".\n", 1).replace(" (", "\n("), ha="center", va="bottom")
    return upright


def _height(upright: Axes, value: float) -> float:
    """Return where a value lies on an axis of parallel coordinates, from 0 to 1."""
    height: float = (upright.transScale + upright.transLimits).transform((0.0, value))[1]
    return max(height, -0.03)


def _draw(chart: Axes, x: Sequence[float], y: Sequence[float], series: Series, clip: bool = True) -> None:
    """Draw a series, its line within the chart alone if `clip`; a marker has a rim of the colour of the paper."""
    is_cross = series.marker == "x"
    chart.plot(
        x,
        y,
        color=series.colour,
        alpha=series.opacity,
        linestyle=series.line or "none",
        linewidth=series.width,
        drawstyle="steps-pre" if series.is_step else "default",
        marker=series.marker or "none",
        markersize=15 if series.marker == "*" else series.marker_px,
        markeredgecolor=series.colour if is_cross else PAPER,
        markeredgewidth=2 if is_cross else 0.8,
        clip_on=clip and bool(series.line),
        gid=series.key or None,
    )
    if series.note:
        chart.annotate(series.note, (x[-1], y[-1]), xytext=(6, 6), textcoords="offset points")


def _inline_svg(figure: Figure, series: Sequence[Series], text: str) -> str:
    """Return a figure as an element of a page: in the page's colours, with tips, and no identifier twice."""
    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    width, height = figure.get_size_inches() * 72
    drawing = re.sub("^.*?<svg .*?>|<style.*?</style>", "", buffer.getvalue(), flags=re.DOTALL)
    tips = {one.key: one.tip for one in series if one.key}

    def group(found: re.Match[str]) -> str:
        key, tip = found[1], html.escape(tips.get(found[1], ""))
        return (f'<g class="{key}">' if key in tips else "<g>") + (f"<title>{tip}</title>" if tip else "")

    drawing = re.sub(r'<g id="([^"]*)">', group, drawing)  # matplotlib gives the same names in every chart
    drawing = drawing.replace(INK, "currentColor").replace(PAPER, "var(--paper, Canvas)")
    shape = f"width: 100%; height: auto; min-width: {0.8 * width:.0f}px; max-width: {1.35 * width:.0f}px"
    return (
        f'<svg role="img" aria-label="{html.escape(text)}" viewBox="0 0 {width:g} {height:g}" '
        f'style="{shape}; fill: currentColor; stroke-linejoin: round; stroke-linecap: butt">{drawing}'
    )


def _number_text(value: float) -> str:
    """Return a number with four digits and a true minus, thousands apart."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return text.replace("-", MINUS)


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TICK_LABEL else f"{text[: MAX_TICK_LABEL - 1]}…"
