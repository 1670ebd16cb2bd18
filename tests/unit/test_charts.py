"""Charts for pages: parts of one file, that say what they were given, wherever it came from."""

import re
from xml.etree import ElementTree

import pytest

from metasr.charts import Axis, Series, parallel_chart, xy_chart

EVIL = "<script>alert('$x$')</script>\""
LINE = Series([1, 2, 3], [0.1, 0.3, 0.2], line="-", marker="o", key="run-1", tip="run 1")


def element(svg):
    return ElementTree.fromstring(svg.replace("xlink:href", "href"))


def points_of(svg, key):
    """Return the corners of the line of a series, in pixels."""
    line = element(svg).find(f".//g[@class='{key}']/path").get("d")
    return [tuple(map(float, pair)) for pair in re.findall(r"[ML] (\S+) (\S+)", line)]


def test_charts_beside_each_other_share_no_identifier_and_are_the_same_bytes_each_time():
    first, second = (xy_chart([LINE], Axis("step"), Axis("gain"), name=name, text="t") for name in ("a", "b"))
    assert first == xy_chart([LINE], Axis("step"), Axis("gain"), name="a", text="t")
    used, others = (set(re.findall(r'(?<=id=")[^"]+', svg)) for svg in (first, second))
    assert used
    assert not used & others
    assert set(re.findall(r"#([mp][0-9a-f]{6,})", first)) <= used


def test_text_from_elsewhere_is_text_wherever_it_stands():
    series = Series([1, 2], [1, 2], marker="o", note=EVIL, key="k", tip=EVIL)
    svg = xy_chart([series], Axis(EVIL), Axis(EVIL, choices=(EVIL[:18], "b")), name="a", text=EVIL)
    assert "<script" not in svg
    root = element(svg)
    assert root.get("aria-label") == EVIL
    assert root.find(".//title").text == EVIL
    assert [text.text for text in root.iter("text")].count(EVIL) == 2


def test_a_line_through_parallel_axes_meets_each_at_its_value():
    axes = [Axis("rate", (1e-4, 1e-2), is_log=True), Axis("norm", choices=("none", "batch")), Axis("gain", (0, 10))]
    lines = [
        Series((), y, line="-", key=key)
        for key, y in (("low", [1e-4, 0, 0]), ("mid", [1e-3, 1, 5]), ("far", [1e-2, 0, -99]))
    ]
    svg = parallel_chart(lines, axes, name="a", text="t")
    low, mid, far = (points_of(svg, line.key) for line in lines)
    assert mid[0][1] == pytest.approx((low[0][1] + far[0][1]) / 2)
    assert low[1] == far[1] != mid[1]
    height = low[0][1] - far[0][1]
    assert low[2][1] - mid[2][1] == pytest.approx(height / 2)
    assert 0 < far[2][1] - low[2][1] < 0.1 * height
