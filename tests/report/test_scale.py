import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sagdeploy.report.scale import BANDS, COLOURS, bands, percentiles, shades

attentions = st.lists(st.integers(1, 50), min_size=2, max_size=40).map(
    lambda odds: (np.array(odds) / sum(odds)).astype(np.float32)
)


def test_percentiles_run_from_0_to_100_in_the_order_of_attention() -> None:
    attention = np.array([0.1, 0.5, 0.05, 0.2, 0.15], np.float32)
    assert percentiles(attention).tolist() == [25, 100, 0, 75, 50]


def test_tiles_of_equal_attention_share_a_percentile() -> None:
    assert percentiles(np.array([0.2, 0.4, 0.2, 0.2], np.float32)).tolist() == [
        pytest.approx(100 / 3), 100, pytest.approx(100 / 3), pytest.approx(100 / 3),
    ]  # fmt: skip


def test_a_single_tile_is_the_most_attended() -> None:
    assert percentiles(np.ones(1, np.float32)).tolist() == [100]


@given(attentions)
def test_percentiles_average_50(attention: NDArray[np.float32]) -> None:
    assert percentiles(attention).mean() == pytest.approx(50)


@given(attentions)
def test_more_attention_is_never_a_lower_shade(attention: NDArray[np.float32]) -> None:
    order = np.argsort(attention)
    for scale in ("percentile", "raw"):
        shade = shades(attention, scale)[order].astype(int)
        assert (np.diff(shade) >= 0).all()
        assert shade.min() >= 1


def test_raw_shades_are_linear_up_to_the_largest() -> None:
    assert shades(np.array([0.0, 0.25, 0.5], np.float32), "raw").tolist() == [1, 128, 255]


def test_the_map_rises_in_lightness_for_every_eye() -> None:
    lightness = COLOURS @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > -0.5).all()
    assert lightness[-1] - lightness[0] > 150


def test_bands_hold_their_share_of_the_tiles() -> None:
    attention = np.random.default_rng(0).permutation(np.arange(1000)).astype(np.float32)
    counts = np.bincount(bands(percentiles(attention)), minlength=len(BANDS))
    assert counts.tolist() == [500, 250, 150, 50, 40, 10]
    assert [band.name for band in BANDS][-1] == "Attention: top 1 %"
