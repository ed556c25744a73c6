from typing import Any

import numpy as np
import pytest

from sagdeploy.training.alignment import AttentionScores, attention_scores, mean_attention


def test_attention_scores_of_a_known_slide() -> None:
    attention = np.array([0.5, 0.1, 0.3, 0.1])
    heuristic = np.array([0.8, 0.6, 0.4, 0.0])
    tissue = np.array([1.0, 1.0, 0.5, 0.0])
    scores = attention_scores(attention, tissue=tissue, heuristic=heuristic)
    assert scores.attention_on_tissue == pytest.approx(0.5 + 0.1 + 0.15)
    assert scores.attention_on_heuristic == pytest.approx(0.4 + 0.06 + 0.12)
    assert scores.uniform_on_heuristic == pytest.approx(1.8 / 4)
    assert scores.chance_auprc == 0.5
    assert scores.attention_auprc == pytest.approx((1 + 2 / 4) / 2)
    assert scores.pointing_game == 1
    assert scores.top_precision == 1


def test_the_top_percent_is_of_the_tiles() -> None:
    attention = np.linspace(1, 2, 400) / 600
    heuristic = np.zeros(400)
    heuristic[[399, 398, 397, 0]] = 1
    scores = attention_scores(attention, tissue=None, heuristic=heuristic)
    assert scores.top_precision == 3 / 4


@pytest.mark.parametrize("heuristic", [None, np.zeros(2)])
def test_a_slide_without_a_region_has_no_heuristic_scores(heuristic: Any) -> None:
    scores = attention_scores(np.array([0.4, 0.6]), tissue=np.array([1.0, 0]), heuristic=heuristic)
    assert scores == AttentionScores(0.4, None, None, None, None, None, None)


def test_a_region_thinner_than_half_a_tile_has_no_tile_to_point_at() -> None:
    scores = attention_scores(np.array([0.4, 0.6]), tissue=None, heuristic=np.array([0.3, 0]))
    assert scores.attention_on_heuristic == pytest.approx(0.12)
    assert scores.attention_auprc is None
    assert scores.pointing_game is None


def test_the_mean_leaves_out_slides_that_lack_a_score() -> None:
    lacking = AttentionScores(0.2, None, None, None, None, None, None)
    full = AttentionScores(0.4, 0.5, 0.1, 0.9, 0.1, 1.0, 1.0)
    mean = mean_attention([lacking, full])
    assert mean.attention_on_tissue == pytest.approx(0.3)
    assert mean.attention_on_heuristic == 0.5


def test_equal_attention_points_nowhere_in_particular() -> None:
    heuristic = np.array([1.0, 0, 0, 0, 1.0])
    scores = attention_scores(np.full(5, 0.2), tissue=None, heuristic=heuristic)
    assert scores.pointing_game == pytest.approx(2 / 5)
    assert scores.top_precision == pytest.approx(2 / 5)
    assert scores.attention_auprc == pytest.approx(scores.chance_auprc)


def test_equal_tiles_at_the_edge_of_the_top_percent_are_drawn_from() -> None:
    attention = np.repeat([3.0, 2.0, 1.0], [1, 4, 295])  # three are the top percent
    heuristic = np.zeros(300)
    heuristic[[0, 1]] = 1
    scores = attention_scores(attention / attention.sum(), tissue=None, heuristic=heuristic)
    assert scores.top_precision == pytest.approx((1 + 2 * 1 / 4) / 3)
