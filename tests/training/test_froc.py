import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from shapely import MultiPolygon

from sagdeploy.guidance.lesions import find_lesions
from sagdeploy.slides.tiling import Tiles
from sagdeploy.training.froc import (
    NOTHING,
    RATES,
    SlideDetections,
    detect,
    local_maxima,
    weighted_froc,
)

MPP = 0.5
SIDE = 200


def lattice(columns: int, rows: int) -> Tiles:
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    xy_l0 = np.stack([x, y], axis=-1).reshape(-1, 2) * SIDE + (40, 90)
    return Tiles(xy_l0=xy_l0, size_l0=(SIDE, SIDE), size_px=(100, 100), mpp=1.0)


def normal(*scores: float) -> SlideDetections:
    return SlideDetections(np.zeros(0), np.array(scores, float), is_normal=True)


def tumour(*scores: float) -> SlideDetections:
    return SlideDetections(np.array(scores, float), np.zeros(0), is_normal=False)


def test_a_peak_is_a_tile_that_none_around_it_exceeds() -> None:
    values = np.array([[5, 1, 1, 4], [1, 1, 1, 1], [0, 1, 3, 1]], float)
    peaks = local_maxima(values.ravel(), lattice(4, 3))
    assert peaks.tolist() == [0, 3, 10]


def test_missing_tiles_stand_in_nobodys_way() -> None:
    tiles = lattice(3, 1)
    apart = Tiles(tiles.xy_l0[[0, 2]], tiles.size_l0, tiles.size_px, tiles.mpp)
    assert local_maxima(np.array([1.0, 2.0]), apart).tolist() == [0, 1]


def test_a_lesion_has_the_score_of_its_best_detection() -> None:
    tiles = lattice(7, 5)
    attention = np.full(35, 0.001)
    attention[[9, 13, 28]] = (0.5, 0.2, 0.1)  # columns 2, 6 and 0; rows 1, 1 and 4
    wide = shapely.box(40 + 2 * SIDE, 90 + SIDE, 40 + 7 * SIDE, 90 + 2 * SIDE)
    far = shapely.box(10_000, 10_000, 10_600, 10_600)
    lesions = find_lesions(MultiPolygon([wide, far]), slide_mpp=MPP)
    found = detect(attention, tiles, lesions, probability=0.8)
    assert sorted(found.lesions) == pytest.approx([-np.inf, 0.8])
    assert not found.is_normal


def test_isolated_tumour_cells_count_neither_way() -> None:
    tiles = lattice(7, 5)
    attention = np.arange(35) / 595
    cells = shapely.Point(40 + 6.5 * SIDE, 90 + 4.5 * SIDE).buffer(100)
    lesions = find_lesions(MultiPolygon([cells]), slide_mpp=MPP)
    found = detect(attention, tiles, lesions, probability=0.8)
    assert (len(found.lesions), len(found.false)) == (0, 0)


def test_false_alarms_are_scored_by_the_probability_of_a_lesion() -> None:
    attention = np.array([0.5, 0.1, 0.4])
    found = detect(attention, lattice(3, 1), None, probability=0.3)
    assert found.false.tolist() == pytest.approx([0.3, 0.24])
    assert found.is_normal


def test_sensitivity_at_each_rate_of_a_known_cohort() -> None:
    slides = [
        tumour(0.9, 0.5, 0.1, -np.inf),
        normal(0.8, 0.4, 0.3),
        normal(0.2),
        normal(),
        normal(),
    ]
    scores = weighted_froc(slides, np.ones((1, 5)))
    # four normal slides: a rate of 1/4 allows one alarm, 1/2 two, 1 all four
    expected = [0.5, 0.5, 0.75, 0.75, 0.75, 0.75]
    assert [scores[f"froc_at_{rate:g}"][0] for rate in RATES] == expected
    assert scores["froc"][0] == pytest.approx(np.mean(expected))


def test_an_alarm_as_high_as_a_lesion_is_not_below_it() -> None:
    scores = weighted_froc([tumour(0.5), *[normal(0.5, 0.5)] * 4], np.ones((1, 5)))
    assert scores["froc_at_1"][0] == 0
    assert scores["froc_at_2"][0] == 1


@pytest.mark.parametrize("slides", [[normal(0.3)], [tumour(0.3)], [NOTHING]])
def test_without_lesions_or_normal_slides_there_is_no_froc(
    slides: Sequence[SlideDetections],
) -> None:
    assert np.isnan(weighted_froc(slides, np.ones((1, 1)))["froc"]).all()


def test_one_slide_may_raise_all_the_alarms_that_are_allowed() -> None:
    attention = np.zeros(3 * 700)
    attention[::3] = np.linspace(1, 0.3, 700)  # a peak in every third column
    noisy = detect(attention, lattice(3 * 700, 1), None, probability=1.0)
    slides = [noisy, *[normal()] * 79, tumour(0.45)]
    scores = weighted_froc(slides, np.ones((1, len(slides))))
    # 549 alarms are at least as high: more than 4 a slide, fewer than 8
    assert (scores["froc_at_4"][0], scores["froc_at_8"][0]) == (0, 1)
    scores = weighted_froc(slides[:40] + slides[-1:], np.ones((1, 41)))
    assert scores["froc_at_8"][0] == 0


def test_slides_of_many_tiles_take_no_more_memory_than_their_alarms() -> None:
    rng = np.random.default_rng(4)
    slides = [*(normal(*rng.random(20_000)) for _ in range(20)), tumour(0.9999, 0.5)]
    weights = rng.integers(1, 3, (500, len(slides))).astype(float)
    tracemalloc.start()
    scores = weighted_froc(slides, weights)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 60e6  # where a number of each alarm in each resample is 1.6e9
    assert (scores["froc_at_8"] == 0.5).all()


def by_hand(slides: Sequence[SlideDetections], rate: float) -> float:
    """The largest sensitivity of any threshold with few enough alarms, one after another."""
    normals = sum(slide.is_normal for slide in slides)
    lesions = np.concatenate([slide.lesions for slide in slides])
    false = np.concatenate([slide.false for slide in slides])
    finite = lesions[np.isfinite(lesions)]
    allowed = [t for t in finite if (false >= t).sum() <= rate * normals]
    return max((float((lesions >= t).mean()) for t in allowed), default=0.0)


@given(st.integers(0, 2**32 - 1))
def test_weights_count_slides_so_often_and_no_threshold_does_better(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def some(most: int) -> NDArray[np.float64]:
        return rng.random(rng.integers(0, most)).round(1)

    slides = [normal(0.5), tumour(0.5)]
    slides += [normal(*some(9)) if index % 2 else tumour(*some(4)) for index in range(6)]
    weights = rng.integers(0, 3, (4, len(slides))).astype(float)
    weights[:, :2] = 1
    weighted = weighted_froc(slides, weights)
    for row, counts in enumerate(weights.astype(int)):
        drawn = [slides[i] for i in np.repeat(np.arange(len(slides)), counts)]
        for rate in RATES:
            assert weighted[f"froc_at_{rate:g}"][row] == pytest.approx(by_hand(drawn, rate))
