"""Charts put values where they belong, and are plain SVG."""

from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagdeploy.training.axis import TICKS, Axis, axis_of, ticks
from sagdeploy.training.chart import PLOT_HEIGHT, Bars, Chart, Dots, Line, sheet

SVG = "{http://www.w3.org/2000/svg}"


def chart(*marks: Line | Bars | Dots, name: str = "loss") -> Chart:
    return Chart(name, Axis("epoch", 0, 10), Axis(name, -1, 1), marks)


def elements(text: str, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(text).iter(f"{SVG}{tag}"))


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_on_the_axis(low: float, length: float) -> None:
    axis = Axis("", low, low + length)
    found = ticks(axis)
    assert 1 <= len(found) <= TICKS + 1
    room = 1e-6 * max(abs(low), length)
    assert all(axis.low - room <= tick <= axis.high + room for tick in found)
    assert len(set(found)) == len(found)


def test_a_log_axis_has_powers_of_ten() -> None:
    axis = axis_of("weight", [np.array([0.7, np.nan, 950.0]), np.array([0.0])], is_log=True)
    assert ticks(axis) == [1, 10, 100, 1000]
    assert axis.share(10) - axis.share(1) == pytest.approx(axis.share(100) - axis.share(10))


def test_an_axis_of_one_value_has_room() -> None:
    axis = axis_of("", [np.array([0.5])])
    assert axis.low < 0.5 < axis.high


def test_the_lowest_value_is_at_the_bottom_and_what_is_unknown_is_left_out() -> None:
    x, y = np.array([0.0, 5.0, 10.0]), np.array([-1.0, np.nan, 1.0])
    (line,) = elements(sheet([chart(Line(x, y, "#000"))], title="t"), "polyline")
    first, last = (tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split())
    assert first == (0, PLOT_HEIGHT)
    assert last[1] == 0
    assert last[0] > 300


def test_text_is_escaped_and_long_legends_have_room() -> None:
    name = "<b>" + 80 * "m"
    text = sheet([chart(Line(np.zeros(2), np.zeros(2), "#000", name))], title='"a" & b')
    root = ElementTree.fromstring(text)
    assert [title.text for title in root.iter(f"{SVG}title")] == ['"a" & b']
    assert float(root.attrib["width"]) > 6 * len(name)
    assert name in [label.text for label in root.iter(f"{SVG}text")]


def test_dots_have_their_interval_and_bars_their_height() -> None:
    half = np.array([0.0])
    text = sheet(
        [
            chart(Dots(np.array([5.0]), half, "#123456", half - 0.5, half + 0.5)),
            chart(Bars(np.array([0.0, 5.0]), half, "#654321")),
        ],
        title="t",
    )
    (interval,) = [p for p in elements(text, "path") if p.attrib["stroke"] == "#123456"]
    assert interval.attrib["d"].endswith(f"{0.75 * PLOT_HEIGHT:.1f}V{0.25 * PLOT_HEIGHT:.1f}")
    (bar,) = [r for r in elements(text, "rect") if r.attrib["fill"] == "#654321"]
    assert float(bar.attrib["height"]) == PLOT_HEIGHT / 2
