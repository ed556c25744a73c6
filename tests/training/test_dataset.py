from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sagdeploy.bags.bagfile import read_bag, write_bag
from sagdeploy.bags.cohort import Cohort
from sagdeploy.errors import BagError, CohortError
from sagdeploy.training.batch import collate
from sagdeploy.training.dataset import open_bags

Toy = tuple[Cohort, Path]
MakeToy = Callable[..., Toy]


def test_a_bag_carries_its_slide_label_and_guidance_together(toy: Toy) -> None:
    cohort, folder = toy
    bags = open_bags(cohort.slides, folder, classes=cohort.classes)
    for slide, bag in zip(sorted(cohort.slides, key=lambda s: s.slide_id), bags, strict=True):
        (written,) = read_bag(folder / f"{slide.slide_id}.h5").magnifications
        assert bag.slide_id == slide.slide_id
        assert cohort.classes[bag.label] == slide.label
        assert torch.equal(bag.features[0], torch.from_numpy(written.features))
        assert torch.equal(bag.heuristic_guidance[0], torch.from_numpy(written.heuristic_guidance))
        assert torch.equal(bag.tissue_guidance[0], torch.from_numpy(written.tissue_guidance))
        assert np.array_equal(bag.tissue_coverage[0], written.tissue_coverage)  # type: ignore[arg-type]


def test_the_order_of_the_cohort_changes_nothing(toy: Toy) -> None:
    cohort, folder = toy
    forth = open_bags(cohort.slides, folder, classes=cohort.classes)
    back = open_bags(cohort.slides[::-1], folder, classes=cohort.classes)
    assert forth.slide_ids == back.slide_ids == tuple(sorted(forth.slide_ids))
    assert [bag.label for bag in forth] == [bag.label for bag in back]


def test_bags_within_the_budget_are_read_once(make_toy: MakeToy) -> None:
    cohort, folder = make_toy()
    bags = open_bags(cohort.slides, folder, classes=cohort.classes)
    for path in folder.iterdir():
        path.unlink()
    assert bags[3] is bags[3]


def test_bags_above_the_budget_are_mapped_from_their_files_and_are_the_same(toy: Toy) -> None:
    cohort, folder = toy
    kept = open_bags(cohort.slides, folder, classes=cohort.classes)
    large = open_bags(cohort.slides, folder, classes=cohort.classes, ram_bytes=0)
    assert large[3] is large[3]
    assert f"{large[3].slide_id}.h5" in Path("/proc/self/maps").read_text()
    assert torch.equal(large[3].features[0], kept[3].features[0])
    before = (folder / f"{large[3].slide_id}.h5").read_bytes()
    large[3].features[0].zero_()
    assert (folder / f"{large[3].slide_id}.h5").read_bytes() == before


def test_bags_of_which_only_the_headers_are_wanted_are_not_held(toy: Toy) -> None:
    cohort, folder = toy
    bags = open_bags(cohort.slides, folder, classes=cohort.classes, ram_bytes=None)
    assert bags[3] is not bags[3]


def test_every_slide_without_a_bag_is_named(make_toy: MakeToy) -> None:
    cohort, folder = make_toy()
    lost = [cohort.slides[4].slide_id, cohort.slides[1].slide_id]
    for slide_id in lost:
        (folder / f"{slide_id}.h5").unlink()
    with pytest.raises(BagError, match=f"2 of 22 .*{', '.join(sorted(lost))}") as caught:
        open_bags(cohort.slides, folder, classes=cohort.classes)
    assert "sagdeploy extract" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "what"),
    [({"sha256": "f" * 64}, "extractor"), ({"features": 5}, "extractor"), ({}, "tile plan")],
)
def test_bags_of_two_kinds_are_refused(
    make_toy: MakeToy, change: dict[str, str | int], what: str
) -> None:
    cohort, folder = make_toy()
    odd = cohort.slides[2].slide_id
    path = folder / f"{odd}.h5"
    bag = read_bag(path)
    magnification = bag.magnifications[0]
    card = bag.header.extractor.model_copy(update=change)
    assert bag.header.plan is not None
    plan = bag.header.plan if change else replace(bag.header.plan, grid=(9,))
    header = bag.header.model_copy(update={"extractor": card, "plan": plan})
    cut = replace(magnification, features=magnification.features[:, : card.features].copy())
    write_bag(path, replace(bag, header=header, magnifications=(cut,)))
    with pytest.raises(BagError, match=f"more than one {what}"):
        open_bags(cohort.slides, folder, classes=cohort.classes)


def test_a_label_that_is_no_class_is_refused(toy: Toy) -> None:
    cohort, folder = toy
    with pytest.raises(CohortError, match="11 slides have a label that is none of benign, naevus"):
        open_bags(cohort.slides, folder, classes=("benign", "naevus"))


def test_no_slide_at_all_is_refused(toy: Toy) -> None:
    cohort, folder = toy
    with pytest.raises(CohortError, match="no slide"):
        open_bags((), folder, classes=cohort.classes)


def test_a_selection_shares_what_is_loaded(toy: Toy) -> None:
    cohort, folder = toy
    bags = open_bags(cohort.slides, folder, classes=cohort.classes)
    chosen = bags.select(bags.slide_ids[5:2:-1])
    assert chosen.slide_ids == bags.slide_ids[3:6]
    assert chosen[0] is bags[3]


def test_a_batch_is_padded_and_says_so(make_toy: MakeToy) -> None:
    cohort, folder = make_toy(mpp=(0.5, 1.0))
    bags = open_bags(cohort.slides, folder, classes=cohort.classes)
    chosen = [bags[0], bags[1], bags[2]]
    batch = collate(chosen)
    assert batch.slide_ids == bags.slide_ids[:3]
    assert batch.labels.tolist() == [bag.label for bag in chosen]
    for s in range(2):
        longest = max(len(bag.features[s]) for bag in chosen)
        assert batch.features[s].shape == (3, longest, 6)
        for b, bag in enumerate(chosen):
            tiles = len(bag.features[s])
            assert batch.is_tile[s][b].tolist() == [True] * tiles + [False] * (longest - tiles)
            assert torch.equal(batch.features[s][b, :tiles], bag.features[s])
            assert not batch.features[s][b, tiles:].any()
            for padded, own in [
                (batch.heuristic_guidance, bag.heuristic_guidance),
                (batch.tissue_guidance, bag.tissue_guidance),
            ]:
                assert torch.equal(padded[s][b, :tiles], own[s])
                assert not padded[s][b, tiles:].any()


def test_a_batch_of_one_copies_no_features(toy: Toy) -> None:
    cohort, folder = toy
    bag = open_bags(cohort.slides, folder, classes=cohort.classes)[0]
    assert collate([bag]).features[0].data_ptr() == bag.features[0].data_ptr()
