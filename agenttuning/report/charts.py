"""Charts as inline SVG: intervals, lines, bars and shares. Pure functions from numbers to markup.

All charts are 480 units wide and scale with their panel. They carry no colours of their own: classes take them from
the page's style sheet, so one drawing serves light and dark. Marks carry a `<title>` with their exact value, and
every chart has a label for screen readers.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

WIDTH = 480.0


@dataclass(frozen=True)
class Interval:
    """A value with its interval, all as shares in [0, 1]."""

    series: str
    """Class of the mark: `base` or `tuned`."""
    value: float
    low: float
    high: float
    told: str
    """What the tooltip says."""


@dataclass(frozen=True)
class Line:
    """One line of a line chart."""

    series: str
    """Class of the line."""
    points: Sequence[tuple[float, float]]


def interval_chart(rows: Sequence[tuple[str, Sequence[Interval]]], label: str, last_is_total: bool = True) -> Markup:
    """Draw shares with whiskers: one row per name, its marks below one another.

    Args:
        rows: name and marks of each row.
        label: what the chart shows, for screen readers.
        last_is_total: set the last row off by a rule.
    """
    left, right, top, step = 92.0, 18.0, 8.0, 21.0
    heights = [step * max(1, len(marks)) + 14 for _, marks in rows]
    bottom = top + sum(heights)

    def x(share: float) -> float:
        return left + share * (WIDTH - left - right)

    parts = [_gridline(x(t / 4), top, bottom) for t in range(5)]
    parts += [_text(x(t / 4), bottom + 18, f"{25 * t} %", "tick", "middle") for t in range(5)]
    y = top
    for index, ((name, marks), height) in enumerate(zip(rows, heights, strict=True)):
        total = last_is_total and index == len(rows) - 1 and len(rows) > 1
        if total:
            parts.append(f'<line class="axis" x1="0" x2="{WIDTH:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(0, y + height / 2 + 4.5, _short(name, 13), "name total" if total else "name"))
        for place, mark in enumerate(marks):
            middle = y + 7 + step * (place + 0.5)
            parts.append(_whisker(mark, x, middle))
        y += height
    return _svg(parts, bottom + 26, label)


def _whisker(mark: Interval, x: Callable[[float], float], y: float) -> str:
    low, high, value = x(mark.low), x(mark.high), x(mark.value)
    beside = high + 7 if high < WIDTH - 62 else low - 7
    anchor = "start" if high < WIDTH - 62 else "end"
    return (
        f'<g class="mark {mark.series}"><title>{escape(mark.told)}</title>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<line x1="{low:.1f}" x2="{low:.1f}" y1="{y - 4:.1f}" y2="{y + 4:.1f}"/>'
        f'<line x1="{high:.1f}" x2="{high:.1f}" y1="{y - 4:.1f}" y2="{y + 4:.1f}"/>'
        f'<circle cx="{value:.1f}" cy="{y:.1f}" r="5.5"/></g>'
        + _text(beside, y + 4.5, f"{100 * mark.value:.0f} %", f"value {mark.series}", anchor)
    )


def line_chart(
    lines: Sequence[Line], x_label: str, y_label: str, label: str, height: float = 220.0, from_zero: bool = False
) -> Markup:
    """Draw lines over a common x-axis; values that are not finite leave gaps.

    Args:
        lines: series in drawing order.
        x_label: name of the x-axis.
        y_label: name of the y-axis with its unit.
        label: what the chart shows, for screen readers.
        height: of the drawing.
        from_zero: let the y-axis begin at 0.
    """
    points = [p for line in lines for p in line.points if math.isfinite(p[1])]
    if not points:
        return Markup("")
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    x_ticks = nice_ticks(min(xs), max(xs), 6)
    y_ticks = nice_ticks(0.0 if from_zero else min(ys), max(ys), 5)
    left, right, top, bottom = 54.0, 12.0, 26.0, height - 42.0
    x_low = min(xs)
    x_span = (max(xs) - x_low) or 1.0
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = (point[0] - x_low) / x_span
        up = (point[1] - y_low) / (y_high - y_low)
        return left + across * (WIDTH - left - right), bottom - up * (bottom - top)

    parts = [_text(0, 12, y_label, "axis-name")]
    for tick in y_ticks:
        y = place((x_low, tick))[1]
        parts.append(f'<line class="grid" x1="{left:g}" x2="{WIDTH - right:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(left - 8, y + 4, number(tick), "tick", "end"))
    for tick in x_ticks:
        if 0 <= tick - x_low <= x_span:
            parts.append(_text(place((tick, y_low))[0], bottom + 18, number(tick), "tick", "middle"))
    parts.append(f'<line class="axis" x1="{left:g}" x2="{WIDTH - right:g}" y1="{bottom:.1f}" y2="{bottom:.1f}"/>')
    parts.append(_text(WIDTH - right, bottom + 36, x_label, "axis-name", "end"))
    for line in lines:
        parts += [f'<polyline class="line {line.series}" points="{piece}"/>' for piece in _pieces(line.points, place)]
    for line in lines:
        if line.series != "raw" and (ends := [p for p in line.points if math.isfinite(p[1])]):
            x, y = place(ends[-1])
            told = f"{x_label} {number(ends[-1][0])}: {number(ends[-1][1])}"
            parts.append(
                f'<circle class="end {line.series}" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{told}</title></circle>'
            )
    return _svg(parts, height, label)


def _pieces(
    points: Sequence[tuple[float, float]], place: Callable[[tuple[float, float]], tuple[float, float]]
) -> list[str]:
    """Return the point lists of a line, broken where a value is not finite."""
    pieces: list[list[str]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            x, y = place(point)
            pieces[-1].append(f"{x:.1f},{y:.1f}")
        elif pieces[-1]:
            pieces.append([])
    return [" ".join(piece) for piece in pieces if piece]


def bar_chart(rows: Sequence[tuple[str, float, str]], label: str) -> Markup:
    """Draw horizontal bars: name, value, and the value as text."""
    left, step = 118.0, 28.0
    most = max((value for _, value, _ in rows), default=0.0) or 1.0
    parts = []
    for index, (name, value, told) in enumerate(rows):
        y = 4 + index * step
        width = max(2.0, value / most * (WIDTH - left - 72))
        parts.append(_text(0, y + 16, _short(name, 16), "name"))
        parts.append(
            f'<path class="bar" d="{_bar(left, y + 3, width, 17)}"><title>{escape(f"{name}: {told}")}</title></path>'
        )
        parts.append(_text(left + width + 8, y + 16, told, "value"))
    return _svg(parts, 8 + step * len(rows), label)


def share_chart(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], label: str) -> Markup:
    """Draw stacked shares: one bar per name, its parts in the order of the series `s0`, `s1`, ..."""
    left, step = 108.0, 34.0
    parts = []
    for index, (name, shares) in enumerate(rows):
        y = 4 + index * step
        parts.append(_text(0, y + 19, _short(name, 15), "name"))
        whole = sum(value for _, value in shares) or 1.0
        x = left
        for place, (part, value) in enumerate(shares):
            width = value / whole * (WIDTH - left)
            drawn = max(0.0, width - 2)
            told = escape(f"{name}: {part} {value / whole:.1%}")
            parts.append(
                f'<rect class="share s{place % 6}" x="{x:.1f}" y="{y + 3:.1f}" width="{drawn:.1f}" height="22" rx="3">'
                f"<title>{told}</title></rect>"
            )
            if width > 42:
                parts.append(_text(x + drawn / 2, y + 18.5, f"{value / whole:.0%}", f"inside s{place % 6}", "middle"))
            x += width
    return _svg(parts, 8 + step * len(rows), label)


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """Return at most about `most` round values that enclose `low` and `high`; at least two."""
    if high - low < sys.float_info.min * most:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    rough = (high - low) / max(1, most - 1)
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def number(value: float) -> str:
    """Return a number for an axis or a table: four digits, thousands as `12k`, small ones as `2e-4`."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.3g}k"
    if abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}"


def _bar(x: float, y: float, width: float, height: float) -> str:
    """A bar that is square at its base and rounded at its end."""
    r = min(4.0, width)
    return (
        f"M{x:.1f},{y:.1f}h{width - r:.1f}a{r:.1f},{r:.1f} 0 0 1 {r:.1f},{r:.1f}v{height - 2 * r:.1f}"
        f"a{r:.1f},{r:.1f} 0 0 1 -{r:.1f},{r:.1f}h-{width - r:.1f}z"
    )


def _gridline(x: float, top: float, bottom: float) -> str:
    return f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'


def _text(x: float, y: float, text: str, classes: str, anchor: str = "start") -> str:
    return f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _svg(parts: Sequence[str], height: float, label: str) -> Markup:
    return Markup(
        f'<svg class="chart" viewBox="0 0 {WIDTH:g} {height:.0f}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )
