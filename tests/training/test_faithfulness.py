from collections.abc import Sequence
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sagdeploy.models.attention import ModelOutput, masked_softmax
from sagdeploy.training.dataset import LabelledBag
from sagdeploy.training.faithfulness import SHARES, FaithfulnessScores, faithfulness
from sagdeploy.training.inference import predict_bags


class Looker(nn.Module):
    """Diagnoses by the largest of feature 0, and looks where feature `looks_at` is large."""

    def __init__(self, looks_at: int) -> None:
        super().__init__()
        self.looks_at = looks_at
        self.seen: list[int] = []

    def forward(self, features: Sequence[Tensor], is_tile: Sequence[Tensor]) -> ModelOutput:
        self.seen.append(int(is_tile[0].sum()))
        evidence = sum(
            each[..., 0].masked_fill(~real, 0.0).amax(dim=1)
            for each, real in zip(features, is_tile, strict=True)
        )
        assert isinstance(evidence, Tensor)
        attention = tuple(
            masked_softmax(each[..., self.looks_at], real)[:, None, None]
            for each, real in zip(features, is_tile, strict=True)
        )
        return ModelOutput(torch.stack([torch.ones_like(evidence), evidence], dim=1), attention)


def bag(slide_id: str = "s1", *, sizes: Sequence[int] = (200,)) -> LabelledBag:
    """Four tiles a magnification show the diagnosis in feature 0; others draw in feature 1."""
    shown = []
    for tiles in sizes:
        features = torch.zeros(tiles, 3)
        features[[3, 50, 51, 120], 0] = torch.tensor([5.0, 4.0, 4.0, 4.0])
        features[20:40, 1] = 5.0
        shown.append(features)
    nothing = tuple(torch.zeros(tiles) for tiles in sizes)
    return LabelledBag(
        slide_id=slide_id,
        patient_id="p",
        label=1,
        tiles=(None,) * len(sizes),
        features=tuple(shown),
        heuristic_guidance=nothing,
        tissue_guidance=nothing,
        heuristic_coverage=(None,) * len(sizes),
        tissue_coverage=(None,) * len(sizes),
    )


def scores(model: nn.Module, slide: LabelledBag, seed: int = 3) -> FaithfulnessScores:
    (prediction,) = predict_bags(model, [slide])
    return faithfulness(model, slide, prediction, temperature=1.0, seed=seed)


def test_attention_on_what_decides_is_faithful() -> None:
    found = scores(Looker(0), bag())
    assert found.insertion_area is not None
    assert found.insertion_area > 0.9
    assert found.deletion_area is not None
    assert found.deletion_area < 0.35
    assert (found.deletion_gain or 0) > 0.3


def test_attention_on_what_does_not_decide_is_not_faithful() -> None:
    right, wrong = scores(Looker(0), bag()), scores(Looker(1), bag())
    assert (wrong.deletion_gain or 0) < 0.2 < (right.deletion_gain or 0)
    assert (wrong.insertion_gain or 0) < (right.insertion_gain or 0)


def test_equal_attention_gains_nothing_on_average() -> None:
    found = [scores(Looker(2), bag(f"s{index}")) for index in range(60)]
    gains = np.array([astuple(one) for one in found], float)[:, 2:]
    error = gains.std(axis=0, ddof=1) / len(gains) ** 0.5
    assert (np.abs(gains.mean(axis=0)) < 3 * error).all()


def test_the_random_order_is_the_same_for_every_arm() -> None:
    chance = [
        (found.insertion_area or 0) - (found.insertion_gain or 0)
        for found in (scores(Looker(0), bag()), scores(Looker(1), bag()))
    ]
    assert chance[0] == pytest.approx(chance[1])
    assert scores(Looker(0), bag()) == scores(Looker(0), bag())
    assert len({scores(Looker(0), bag(), seed=seed) for seed in range(8)}) > 1


def test_each_share_of_the_tiles_is_kept_three_times() -> None:
    model = Looker(0)
    scores(model, bag())
    _whole, *parts = model.seen
    assert parts == [round(share * 200) for share in SHARES] * 3


def test_a_slide_of_few_tiles_keeps_one_at_least() -> None:
    small = bag(sizes=(150,))
    model = Looker(0)
    few = replace(small, features=(small.features[0][:4],))
    scores(model, few)
    assert min(model.seen) == 1


def test_every_magnification_is_taken_from() -> None:
    one, two = scores(Looker(0), bag()), scores(Looker(0), bag(sizes=(200, 130)))
    assert (two.deletion_gain or 0) > 0
    assert two != one
