"""Scales as people write them, in files, flags and tables."""

import math

import pytest

from metasr.scale import ALL_SCALES, REPORTED_SCALES, Scale


@pytest.mark.parametrize(
    ("written", "rows", "columns", "shown"),
    [
        (2, 2, 2, "2"),
        (2.0, 2, 2, "2"),
        ("2.50", 2.5, 2.5, "2.5"),
        (1.1, 1.1, 1.1, "1.1"),
        ("1x4", 1, 4, "1x4"),
        (" 2 x 3.3 ", 2, 3.3, "2x3.3"),
        ("2x2", 2, 2, "2"),
        (".5e1", 5, 5, "5"),
        (1.4142135, 1.4142135, 1.4142135, "1.4142135"),
        (math.pi, math.pi, math.pi, "3.14159265359"),
        (16, 16, 16, "16"),
    ],
)
def test_a_scale_is_a_number_or_rows_x_columns(written, rows, columns, shown):
    scale = Scale.parse(written)
    assert (scale.rows, scale.columns) == (rows, columns)
    assert str(scale) == shown
    assert Scale.parse(scale) is scale


@pytest.mark.parametrize(
    "written",
    [
        "",
        "two",
        "1x",
        "x4",
        "1x2x3",
        "2,3",
        "-2",
        "0x4",
        "0.5",
        1,
        "1x1",
        0.99,
        "4x17",
        16.01,
        "nan",
        math.nan,
        math.inf,
        "1e999",
        True,
        None,
        [2],
        "2x-3",
        "0x1p3",
    ],
)
def test_what_is_no_scale_is_refused_by_name(written):
    with pytest.raises(ValueError, match="is not a scale: give a number above 1 and up to 16") as caught:
        Scale.parse(written)
    assert str(caught.value).startswith((f"{written} ", "inf ", "1 ", "1x1", "16.01 "))


def test_scales_are_keys_in_order():
    written = ["4", "1x4", "2", "2x3.3", "1.1"]
    assert [str(scale) for scale in sorted(map(Scale.parse, written))] == ["1x4", "1.1", "2", "2x3.3", "4"]
    assert {Scale(2, 2): "found"}[Scale.parse("2.0")] == "found"


def test_the_reported_scales_and_the_curve_are_those_of_the_protocol():
    assert [scale.to_json() for scale in REPORTED_SCALES] == [1.1, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
    assert [str(scale) for scale in ALL_SCALES[:3]] == ["1.1", "1.2", "1.3"]
    assert (len(ALL_SCALES), str(ALL_SCALES[-1])) == (30, "4")
    assert set(REPORTED_SCALES) < set(ALL_SCALES)
