from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sagdeploy.bags.bag import with_guidance
from sagdeploy.bags.bagfile import read_bag, write_bag
from sagdeploy.bags.cohort import Cohort
from sagdeploy.config import GuidanceSettings, TrainSettings
from sagdeploy.errors import ConfigError
from sagdeploy.files import sha256_of
from sagdeploy.training.controls import controlled, in_words
from sagdeploy.training.dataset import Bags, open_bags
from sagdeploy.training.experiment import train_seeds

Toy = tuple[Cohort, Path]
MakeToy = Callable[..., Toy]


@pytest.fixture
def bags(make_toy: MakeToy) -> Bags:
    """Twelve slides of 8 to 12 tiles; the six tumours have HG, each its own."""
    cohort, folder = make_toy(val=0, test=0)
    for index, slide in enumerate(cohort.slides):
        path = folder / f"{slide.slide_id}.h5"
        bag = read_bag(path)
        (magnification,) = bag.magnifications
        assert magnification.heuristic_coverage is not None
        own = magnification.heuristic_coverage * (1 - index / 30)
        own[3] = index / 40 if own.any() else 0.0
        write_bag(path, with_guidance(bag, heuristic=[own]))
    return open_bags(cohort.slides, folder, classes=cohort.classes)


def settings(**changes: Any) -> GuidanceSettings:
    return GuidanceSettings.model_validate({"terms": ("hg", "tg")} | changes)


def guided(bags: Bags) -> dict[str, torch.Tensor]:
    """HG of the slides that have any."""
    return {b.slide_id: b.heuristic_guidance[0] for b in bags if b.heuristic_guidance[0].any()}


def test_without_control_the_bags_are_themselves(bags: Bags) -> None:
    assert controlled(bags, settings(), seed=3) is bags
    assert controlled(bags, GuidanceSettings(), seed=3) is bags


def test_shuffled_guidance_is_another_slides(bags: Bags) -> None:
    own, shuffled = guided(bags), guided(controlled(bags, settings(control="shuffled"), seed=3))
    assert own.keys() == shuffled.keys()
    values = {slide_id: sorted(w[w > 0].tolist()) for slide_id, w in own.items()}
    givers = []
    for slide_id, weights in shuffled.items():
        assert weights.sum() == pytest.approx(1, abs=1e-6)
        assert len(weights) == len(own[slide_id])
        total = sorted(weights[weights > 0].tolist())
        givers += [giver for giver, given in values.items() if given == pytest.approx(total)]
        assert not torch.equal(weights, own[slide_id])
    assert len(set(givers)) >= 3  # where a giver has more tiles, weights are summed


def test_guidance_lands_in_the_same_part_of_a_slide_of_other_size(bags: Bags) -> None:
    shuffled = guided(controlled(bags, settings(control="shuffled"), seed=3))
    for weights in shuffled.values():
        assert not weights[len(weights) * 2 // 3 :].any()  # the toy's regions are the first tiles


def test_uniform_guidance_is_the_same_on_every_tile(bags: Bags) -> None:
    uniform = guided(controlled(bags, settings(control="uniform"), seed=3))
    assert uniform.keys() == guided(bags).keys()
    for weights in uniform.values():
        assert torch.equal(weights, torch.full_like(weights, 1 / len(weights)))


def test_a_share_keeps_the_guidance_of_so_many_slides(bags: Bags) -> None:
    own = guided(bags)
    kept = {
        share: guided(controlled(bags, settings(share=share), seed=3)) for share in (0, 0.5, 0.9)
    }
    assert [len(found) for found in kept.values()] == [0, 3, 5]
    assert kept[0.5].keys() < kept[0.9].keys()
    assert all(torch.equal(own[slide_id], weights) for slide_id, weights in kept[0.9].items())


def test_the_seed_chooses_the_slides_and_their_order_does_not(bags: Bags) -> None:
    half = settings(share=0.5)
    chosen = {tuple(guided(controlled(bags, half, seed=seed))) for seed in range(8)}
    assert len(chosen) > 1
    assert (
        guided(controlled(bags, half, seed=3)).keys()
        == guided(controlled(bags, half, seed=3)).keys()
    )


def test_tissue_guidance_features_and_coverage_stay(bags: Bags) -> None:
    changed = controlled(bags, settings(control="shuffled"), seed=3)
    for before, after in zip(bags, changed, strict=True):
        assert after.tissue_guidance is before.tissue_guidance
        assert after.features is before.features
        assert after.heuristic_coverage is before.heuristic_coverage


def test_nothing_to_shuffle_is_refused(bags: Bags) -> None:
    with pytest.raises(ConfigError, match="two training slides with HG, there are 1"):
        controlled(bags, settings(control="shuffled", share=0.1), seed=3)


@pytest.mark.parametrize("wrong", [{"control": "uniform"}, {"share": 0.25}])
def test_control_of_guidance_that_is_not_there_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="HG, which is not among the terms"):
        GuidanceSettings.model_validate({"terms": ("tg",)} | wrong)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"terms": ()}, "no guidance"),
        ({}, "HG + TG"),
        ({"weight": 2.0, "control": "shuffled"}, "HG + TG x 2, shuffled HG"),
        ({"terms": ("hg",), "share": 0.25}, "HG, HG on 25% of its slides"),
    ],
)
def test_an_arm_says_what_controls_it(changes: dict[str, Any], words: str) -> None:
    assert in_words(settings(**changes)) == words


def test_controls_train_to_weights_of_their_own_and_weight_0_to_the_baselines(
    toy: Toy, tmp_path: Path
) -> None:
    cohort, folder = toy
    arms: dict[str, dict[str, Any]] = {
        "baseline": {},
        "hg": {"terms": ("hg",)},
        "shuffled": {"terms": ("hg",), "control": "shuffled"},
        "uniform": {"terms": ("hg",), "control": "uniform"},
        "quarter": {"terms": ("hg",), "share": 0.25},
        "weight 0": {"terms": ("hg",), "control": "shuffled", "weight": 0},
    }
    hashes = {}
    for name, guidance in arms.items():
        wanted = TrainSettings.model_validate(
            {"optim": {"epochs": 2, "bag_batch": 4}, "guidance": guidance}
        )
        mixed = replace(cohort, slides=cohort.slides[::-1]) if name == "quarter" else cohort
        train_seeds(mixed, folder, tmp_path / name, wanted, [3], jobs=1)
        hashes[name] = sha256_of(tmp_path / name / "seed_3" / "weights.safetensors")
    assert hashes["baseline"] == hashes["weight 0"]
    assert len(set(hashes.values())) == len(arms) - 1
