import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenttuning.report.charts import (
    Interval,
    Line,
    bar_chart,
    interval_chart,
    line_chart,
    nice_ticks,
    number,
    share_chart,
)

finite = st.floats(-1e9, 1e9, allow_nan=False)


def coordinates(svg: str) -> list[float]:
    return [float(v) for v in re.findall(r'\b(?:x|y|x1|x2|y1|y2|cx|cy)="(-?[\d.]+)"', svg)]


@given(finite, finite, st.integers(2, 8))
def test_ticks_enclose_the_values_and_are_even(low, high, most):
    low, high = min(low, high), max(low, high)
    ticks = nice_ticks(low, high, most)
    slack = (ticks[1] - ticks[0]) * 1e-6
    assert len(ticks) >= 2
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert len(ticks) <= 2 * most + 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0002, "2e-4"), (0.00015, "1.5e-4"), (0.5, "0.5"), (1234.5, "1234"), (12000, "12k"), (2.5e6, "2.5M")],
)
def test_numbers(value, text):
    assert number(value) == text


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)).map(sorted), min_size=1, max_size=6))
def test_intervals_stay_in_the_drawing(rates):
    rows = [(f"e{i}", [Interval("base", v, low, high, "told")]) for i, (low, v, high) in enumerate(rates)]
    svg = str(interval_chart(rows, "chart"))
    box = [float(v) for v in re.search(r'viewBox="([^"]+)"', svg)[1].split()]
    assert ElementTree.fromstring(svg) is not None
    assert all(0 <= value <= max(box) for value in coordinates(svg))


def test_marks_lie_where_their_values_are():
    svg = str(interval_chart([("a", [Interval("tuned", 0.0, 0, 0.2, ""), Interval("base", 1.0, 0.8, 1, "")])], "c"))
    zero, one = (float(v) for v in re.findall(r'<circle cx="([\d.]+)"', svg))
    ticks = dict(re.findall(r'class="tick" x="([\d.]+)"[^>]*>(\d+) %', svg))
    places = {text: float(x) for x, text in ticks.items()}
    assert zero == places["0"]
    assert one == places["100"]


def test_lines_break_where_values_are_not_finite():
    points = [(1.0, 2.0), (2.0, 1.5), (3.0, math.nan), (4.0, 1.0), (5.0, math.inf), (6.0, 0.5)]
    svg = str(line_chart([Line("main", points)], "step", "loss", "Loss"))
    assert svg.count("<polyline") == 3
    assert "nan" not in svg.lower().replace("name", "")
    assert "inf" not in svg.replace("infinite", "")
    assert "step 6: 0.5" in svg


def test_no_finite_value_gives_no_chart():
    assert line_chart([Line("main", [(1.0, math.nan)])], "x", "y", "c") == ""


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=30))
def test_lines_stay_in_the_drawing(points):
    svg = str(line_chart([Line("main", sorted(points))], "x", "y", "c"))
    for piece in re.findall(r'points="([^"]+)"', svg):
        for pair in piece.split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= 480
            assert 0 <= y <= 220


def test_names_are_escaped_and_shortened():
    svg = str(bar_chart([("<b>" + "x" * 40, 1.0, "1s")], "c"))
    assert "<b>" not in svg
    assert "…" in svg


def test_shares_fill_the_bar():
    svg = str(share_chart([("items", [("a", 20), ("b", 80)]), ("tokens", [("a", 1), ("b", 1)])], "c"))
    assert re.findall(r'class="inside s\d"[^>]*>(\d+%)', svg) == ["20%", "80%", "50%", "50%"]
    assert "items: b 80.0%" in svg


def test_no_rows_are_no_error():
    assert "<svg" in bar_chart([], "c")
    assert "<svg" in share_chart([("items", [("a", 0)])], "c")
