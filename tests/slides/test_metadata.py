import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagdeploy.errors import ConfigError, NotAnalysableError
from sagdeploy.slides.metadata import (
    MPP_RANGE,
    WHITE,
    Mpp,
    background_rgb,
    bounds_l0,
    resolve_mpp,
)

numbers = st.floats().map(repr)


def test_the_metadata_are_believed() -> None:
    assert resolve_mpp(("0.25", "0.26"), name="a.svs") == Mpp(0.255, "metadata", 0.255)


def test_a_value_given_by_hand_wins() -> None:
    mpp = resolve_mpp(("0.25", "0.25"), name="a.svs", override=0.5, source="cohort")
    assert mpp == Mpp(0.5, "cohort", 0.25)


@pytest.mark.parametrize("said", [(None, None), ("0,499", "0.5"), ("nan", "nan"), ("0.2", "0.4")])
def test_a_value_given_by_hand_mends_useless_metadata(said: tuple[str | None, str | None]) -> None:
    assert resolve_mpp(said, name="a.svs", override=0.5).value == 0.5


@pytest.mark.parametrize(("override", "contradicts"), [(0.25, False), (0.262, False), (0.27, True)])
def test_a_value_that_contradicts_the_metadata_is_told(override: float, contradicts: bool) -> None:
    mpp = resolve_mpp(("0.25", "0.25"), name="a.svs", override=override)
    assert mpp.contradicts is contradicts


def test_nothing_to_contradict_is_no_contradiction() -> None:
    assert not resolve_mpp((None, None), name="a.svs", override=0.5).contradicts


def test_missing_metadata_are_an_error_with_the_way_out() -> None:
    with pytest.raises(NotAnalysableError, match=r"a\.svs: no microns per pixel") as caught:
        resolve_mpp((None, None), name="a.svs")
    assert caught.value.hint.startswith("give the scanner's true value: predict --mpp 0.25")


@pytest.mark.parametrize("text", ["0,499", "", "0.5um", "0", "-0.5", "nan", "inf", "1e999"])
@pytest.mark.parametrize("trust", [False, True])
def test_unreadable_metadata_are_named(text: str, trust: bool) -> None:
    with pytest.raises(NotAnalysableError, match="cannot be read") as caught:
        resolve_mpp((text, "0.5"), name="a.svs", trust=trust)
    assert repr(text) in str(caught.value)


def test_half_a_scale_is_none() -> None:
    with pytest.raises(NotAnalysableError, match=r"cannot be read: '0\.5' and None"):
        resolve_mpp(("0.5", None), name="a.svs")


@pytest.mark.parametrize("said", [("1e9", "1e9"), ("0.01", "0.01"), ("28.97", "28.97")])
def test_implausible_metadata_need_trust(said: tuple[str, str]) -> None:
    with pytest.raises(NotAnalysableError, match="not plausible"):
        resolve_mpp(said, name="a.svs")
    assert resolve_mpp(said, name="a.svs", trust=True).value == float(said[0])


def test_x_and_y_that_disagree_need_trust() -> None:
    with pytest.raises(NotAnalysableError, match=r"'0\.25' and '0\.27'"):
        resolve_mpp(("0.25", "0.27"), name="a.svs")
    assert resolve_mpp(("0.25", "0.27"), name="a.svs", trust=True).value == 0.26


@pytest.mark.parametrize("override", [0.0, -0.5, math.nan, math.inf])
@pytest.mark.parametrize("trust", [False, True])
def test_a_value_given_by_hand_must_be_a_length(override: float, trust: bool) -> None:
    with pytest.raises(ConfigError, match="not a plausible"):
        resolve_mpp(("0.5", "0.5"), name="a.svs", override=override, trust=trust)


def test_an_implausible_value_given_by_hand_needs_trust() -> None:
    with pytest.raises(ConfigError, match="29 is not a plausible"):
        resolve_mpp(("0.5", "0.5"), name="a.svs", override=29.0)
    assert resolve_mpp(("0.5", "0.5"), name="a.svs", override=29.0, trust=True).value == 29.0


@given(st.none() | st.text() | numbers, st.none() | st.text() | numbers)
def test_whatever_the_metadata_say_the_scale_is_plausible_or_refused(
    x: str | None, y: str | None
) -> None:
    with suppress(NotAnalysableError):
        mpp = resolve_mpp((x, y), name="a.svs")
        assert MPP_RANGE[0] <= mpp.value <= MPP_RANGE[1]


@pytest.mark.parametrize(
    ("text", "colour"),
    [("EDE6E0", (237, 230, 224)), ("", WHITE), ("white", WHITE), ("000000", WHITE)],
)
def test_the_background_is_never_dark(text: str, colour: tuple[int, int, int]) -> None:
    assert background_rgb(text) == colour


def bounds(**sides: str) -> tuple[int, int, int, int]:
    return bounds_l0({f"openslide.bounds-{side}": text for side, text in sides.items()}, (90, 60))


def test_bounds_are_read() -> None:
    assert bounds(x="10", y="5", width="70", height="50") == (10, 5, 70, 50)


def test_bounds_are_clipped_to_the_slide() -> None:
    assert bounds(x="10", y="5", width="700", height="50") == (10, 5, 80, 50)


@given(st.dictionaries(st.sampled_from(["x", "y", "width", "height"]), st.text() | numbers))
def test_useless_bounds_are_the_whole_slide(sides: dict[str, str]) -> None:
    assert bounds(**sides) == (0, 0, 90, 60)
