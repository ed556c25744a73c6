"""Charts as SVG: lines, bands, dots and bars on axes, several on one sheet.

A chart is a few kilobytes of text, sharp at any size, and the same bytes for the same numbers;
matplotlib would add 60 MB to an installation for three pictures.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from sagdeploy.training.axis import Axis, ticks
from sagdeploy.training.metrics import Float64
from sagdeploy.training.svg import SOFT, document, text_at

GRID = "#e3e8ed"
COLUMNS, WIDTH, PLOT_HEIGHT, GAP, EDGE = 3, 380, 240, 28, 24
LEFT, TOP, BOTTOM, LEGEND_ROW = 52, 34, 46, 20
CHARACTER = 6.6
"""Width of a character of 12 px, on the large side."""


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A line through points; with a name it is in the legend."""

    x: Float64
    y: Float64
    colour: str
    name: str = ""
    width: float = 2.2
    opacity: float = 1.0
    dashed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """The area between two lines."""

    x: Float64
    low: Float64
    high: Float64
    colour: str


@dataclass(frozen=True, slots=True, eq=False)
class Dots:
    """Points, each with the interval that it lies in."""

    x: Float64
    y: Float64
    colour: str
    low: Float64 | None = None
    high: Float64 | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """A bar between each two edges, from the axis up."""

    edges: Float64
    heights: Float64
    colour: str


Mark = Line | Band | Dots | Bars


@dataclass(frozen=True, slots=True, eq=False)
class Chart:
    """Marks on two axes."""

    title: str
    x: Axis
    y: Axis
    marks: tuple[Mark, ...]


def sheet(charts: Sequence[Chart], *, title: str, note: str = "") -> str:
    """Charts side by side under a title, as an SVG file.

    note: one line below the title
    """
    columns = min(COLUMNS, len(charts))
    width = max(map(_width, charts))
    legend = max(len(_legend_rows(chart)) for chart in charts)
    height = TOP + PLOT_HEIGHT + BOTTOM + LEGEND_ROW * legend
    head = 62 if note else 42
    rows = -(-len(charts) // columns)
    size = (
        2 * EDGE + max(columns * (width + GAP) - GAP, math.ceil(CHARACTER * len(note))),
        head + rows * (height + GAP) - GAP + EDGE,
    )
    body = [
        text_at(EDGE, 30, title, size=18, weight=650),
        text_at(EDGE, 50, note, colour=SOFT) if note else "",
    ]
    for index, chart in enumerate(charts):
        left = EDGE + index % columns * (width + GAP)
        top = head + index // columns * (height + GAP)
        body += [f'<g transform="translate({left} {top})">', *_chart(chart), "</g>"]
    return document(size, title, body)


def _chart(chart: Chart) -> Iterator[str]:
    """Title, grid, marks, axes and legend; the plot's top left is (LEFT, TOP)."""
    place = _Place(chart.x, chart.y)
    yield text_at(LEFT, 20, chart.title, size=14, weight=600)
    yield f'<g transform="translate({LEFT} {TOP})">'
    yield from place.grid()
    yield f'<svg width="{place.width}" height="{PLOT_HEIGHT}" overflow="hidden">'
    for mark in chart.marks:
        yield from _mark(mark, place)
    yield "</svg>"
    yield f'<rect width="{place.width}" height="{PLOT_HEIGHT}" fill="none" stroke="{SOFT}"/>'
    yield text_at(place.width / 2, PLOT_HEIGHT + 36, chart.x.name, colour=SOFT, anchor="middle")
    middle = f'transform="rotate(-90)" x="{-PLOT_HEIGHT / 2:g}" y="-38"'
    yield f'<text {middle} text-anchor="middle" fill="{SOFT}">{escape(chart.y.name)}</text>'
    for number, row in enumerate(_legend_rows(chart)):
        yield from _legend_row(row, PLOT_HEIGHT + BOTTOM + 8 + LEGEND_ROW * number)
    yield "</g>"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where values lie on the plot."""

    x_axis: Axis
    y_axis: Axis
    width: int = WIDTH - LEFT - 8

    def x(self, value: float) -> float:
        return self.x_axis.share(value) * self.width

    def y(self, value: float) -> float:
        return (1 - self.y_axis.share(value)) * PLOT_HEIGHT

    def points(self, x: Float64, y: Float64) -> str:
        pairs = zip(x.tolist(), y.tolist(), strict=True)
        return " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in pairs if math.isfinite(b))

    def grid(self) -> Iterator[str]:
        for value in ticks(self.x_axis):
            at = f"{self.x(value):.1f}"
            yield f'<path d="M{at} 0V{PLOT_HEIGHT}" stroke="{GRID}"/>'
            yield text_at(float(at), PLOT_HEIGHT + 17, f"{value:g}", colour=SOFT, anchor="middle")
        for value in ticks(self.y_axis):
            at = f"{self.y(value):.1f}"
            yield f'<path d="M0 {at}H{self.width}" stroke="{GRID}"/>'
            yield text_at(-7, float(at) + 4, f"{value:g}", colour=SOFT, anchor="end")


def _mark(mark: Mark, place: _Place) -> Iterator[str]:
    if isinstance(mark, Line):
        yield (
            f'<polyline points="{place.points(mark.x, mark.y)}" fill="none"'
            f' stroke="{mark.colour}" stroke-width="{mark.width:g}" stroke-linejoin="round"'
            f' opacity="{mark.opacity:g}"{_dash(mark)}/>'
        )
    elif isinstance(mark, Band):
        there, back = place.points(mark.x, mark.high), place.points(mark.x[::-1], mark.low[::-1])
        yield f'<polygon points="{there} {back}" fill="{mark.colour}" opacity="0.16"/>'
    elif isinstance(mark, Bars):
        for left, right, value in zip(mark.edges, mark.edges[1:], mark.heights, strict=False):
            x, y = place.x(left), place.y(value)
            yield (
                f'<rect x="{x + 1:.1f}" y="{y:.1f}" width="{max(0, place.x(right) - x - 2):.1f}"'
                f' height="{max(0.0, PLOT_HEIGHT - y):.1f}" fill="{mark.colour}"/>'
            )
    else:
        yield from _dots(mark, place)


def _dots(mark: Dots, place: _Place) -> Iterator[str]:
    for index, (x, y) in enumerate(zip(mark.x, mark.y, strict=True)):
        if mark.low is not None and mark.high is not None:
            low, high = place.y(mark.low[index]), place.y(mark.high[index])
            yield (
                f'<path d="M{place.x(x):.1f} {low:.1f}V{high:.1f}" stroke="{mark.colour}"'
                ' stroke-width="1.6"/>'
            )
        yield f'<circle cx="{place.x(x):.1f}" cy="{place.y(y):.1f}" r="4" fill="{mark.colour}"/>'


def _legend_rows(chart: Chart) -> list[list[Line]]:
    """Named lines, as many to a row as fit."""
    rows: list[list[Line]] = []
    room = 0.0
    for line in (mark for mark in chart.marks if isinstance(mark, Line) and mark.name):
        wide = _legend_width(line)
        if not rows or wide > room:
            rows.append([])
            room = WIDTH - LEFT - 8.0
        rows[-1].append(line)
        room -= wide
    return rows


def _legend_row(lines: Sequence[Line], top: float) -> Iterator[str]:
    left = 0.0
    for line in lines:
        stroke = f'stroke="{line.colour}" stroke-width="{line.width:g}"{_dash(line)}'
        yield f'<path d="M{left:.1f} {top:g}h22" {stroke}/>'
        yield text_at(left + 28, top + 4, line.name)
        left += _legend_width(line)


def _width(chart: Chart) -> int:
    """A chart's, or its longest legend's where that is wider."""
    named = (mark for mark in chart.marks if isinstance(mark, Line) and mark.name)
    return max(WIDTH, *(LEFT + math.ceil(_legend_width(line)) for line in named), 0)


def _legend_width(line: Line) -> float:
    return 44 + CHARACTER * len(line.name)


def _dash(line: Line) -> str:
    return ' stroke-dasharray="5 4"' if line.dashed else ""
