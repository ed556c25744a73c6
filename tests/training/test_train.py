import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sagdeploy.bags.bag import with_guidance
from sagdeploy.bags.bagfile import read_bag, write_bag
from sagdeploy.bags.cohort import Cohort
from sagdeploy.config import TrainSettings
from sagdeploy.errors import ConfigError, ModelError
from sagdeploy.training.dataset import open_bags
from sagdeploy.training.state import bag_order, lr_factor, new_state
from sagdeploy.training.tensors import read_tensors
from sagdeploy.training.train import EpochDone, SeedTask, train_seed

Toy = tuple[Cohort, Path]
MakeToy = Callable[..., Toy]
MakeTask = Callable[..., SeedTask]

SMALL: dict[str, Any] = {"epochs": 6, "lr": 1e-2, "bag_batch": 3}


class StoppedError(Exception):
    """Stands for a kill between two epochs."""


def settings(**changes: Any) -> TrainSettings:
    optim = SMALL | changes.pop("optim", {})
    return TrainSettings.model_validate({"optim": optim} | changes)


@pytest.fixture
def make_task(toy: Toy, tmp_path: Path) -> MakeTask:
    cohort, folder = toy

    def make(run: str = "run", *, seed: int = 3, **changes: Any) -> SeedTask:
        bags = open_bags(cohort.slides, folder, classes=cohort.classes)
        return SeedTask(
            run=tmp_path / run,
            settings=settings(**changes),
            classes=2,
            train=bags.select(s.slide_id for s in cohort.of_split("train")),
            validation=bags.select(s.slide_id for s in cohort.of_split("val")),
            seed=seed,
            save_every_s=0.0,
        )

    return make


def weights(task: SeedTask) -> dict[str, torch.Tensor]:
    return read_tensors(task.folder / "weights.safetensors")[0]


def are_equal(first: SeedTask, second: SeedTask) -> bool:
    own, other = weights(first), weights(second)
    return own.keys() == other.keys() and all(torch.equal(own[k], other[k]) for k in own)


ARMS = [
    {},
    {"guidance": {"terms": ("hg", "tg")}},
    {"guidance": {"terms": ("hg",), "compat": "reference"}},
    {"guidance": {"terms": ("hg", "tg"), "weighting": "equal"}},
    {"model": {"options": {"dropout": 0.5}}},
    {"model": {"name": "scatnet"}, "guidance": {"terms": ("hg",)}, "optim": {"epochs": 5}},
]


def test_a_pattern_of_few_tiles_is_learned(make_toy: MakeToy, make_task: MakeTask) -> None:
    cohort, folder = make_toy(train=30, val=10, test=0, folder="plain", signal=6.0)
    bags = open_bags(cohort.slides, folder, classes=cohort.classes)
    train = bags.select(slide.slide_id for slide in cohort.of_split("train"))
    validation = bags.select(slide.slide_id for slide in cohort.of_split("val"))
    result = train_seed(replace(make_task(), train=train, validation=validation))
    assert result.validation["accuracy"] == 1
    assert result.validation["loss"] < 0.3


def test_the_same_seed_gives_the_same_files(make_task: MakeTask) -> None:
    one, two = make_task("one"), make_task("two")
    train_seed(one)
    train_seed(two)
    for name in ("weights.safetensors", "metrics.csv", "result.json"):
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()


def test_another_seed_gives_other_weights(make_task: MakeTask) -> None:
    one, two = make_task("one"), make_task("two", seed=4)
    train_seed(one)
    train_seed(two)
    assert not are_equal(one, two)


@pytest.mark.parametrize("arm", ARMS)
def test_a_stopped_run_goes_on_to_the_same_bits(make_task: MakeTask, arm: dict[str, Any]) -> None:
    whole, parts = make_task("whole", **arm), make_task("parts", **arm)
    train_seed(whole)

    def stop_at(epoch: int) -> Callable[[EpochDone], None]:
        def progress(done: EpochDone) -> None:
            if done.epoch == epoch:
                raise StoppedError

        return progress

    for epoch in (2, 3, 5):
        with pytest.raises(StoppedError):
            train_seed(parts, stop_at(epoch))
    train_seed(parts)
    for name in ("weights.safetensors", "metrics.csv", "result.json"):
        assert (whole.folder / name).read_bytes() == (parts.folder / name).read_bytes()


def test_the_state_is_gone_when_the_seed_is_done(make_task: MakeTask) -> None:
    task = make_task()
    train_seed(task)
    assert sorted(path.name for path in task.folder.iterdir()) == [
        "metrics.csv",
        "result.json",
        "weights.safetensors",
    ]


def test_a_seed_that_is_done_is_not_trained_again(make_task: MakeTask) -> None:
    task = make_task()
    first = train_seed(task)
    told: list[EpochDone] = []
    assert train_seed(task, told.append) == first
    assert told == []


def test_a_state_of_another_model_is_refused(make_task: MakeTask) -> None:
    def stop(done: EpochDone) -> None:
        if done.epoch == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_seed(make_task(), stop)
    with pytest.raises(ModelError, match="not the state of this training"):
        train_seed(make_task(model={"options": {"hidden": 5}}))


@pytest.mark.parametrize("weighting", ["uncertainty", "equal"])
def test_guidance_of_weight_0_is_the_baseline_bit_for_bit(
    make_task: MakeTask, weighting: str
) -> None:
    baseline = make_task("baseline")
    guidance = {"terms": ("hg", "tg"), "weight": 0, "weighting": weighting}
    guided = make_task("guided", guidance=guidance)
    train_seed(baseline)
    train_seed(guided)
    assert are_equal(baseline, guided)


def test_guidance_moves_attention_onto_its_region(make_task: MakeTask) -> None:
    baseline = make_task("baseline")
    guided = make_task("guided", guidance={"terms": ("hg", "tg")})
    train_seed(baseline)
    train_seed(guided)
    assert not are_equal(baseline, guided)
    header, *rows = (guided.folder / "metrics.csv").read_text().splitlines()
    hg = header.split(",").index("hg")
    assert float(rows[-1].split(",")[hg]) < float(rows[0].split(",")[hg])


def test_arms_of_one_seed_start_alike(make_task: MakeTask) -> None:
    baseline, guided = (
        new_state(task.settings, task.train, classes=2, seed=3).model.state_dict()
        for task in (make_task(), make_task(guidance={"terms": ("hg", "tg")}))
    )
    assert all(torch.equal(baseline[name], guided[name]) for name in baseline)


def test_the_order_of_bags_follows_from_seed_and_epoch() -> None:
    first = bag_order(20, seed=3, epoch=1)
    assert sorted(first) == list(range(20))
    assert bag_order(20, seed=3, epoch=1) == first
    assert bag_order(20, seed=3, epoch=2) != first
    assert bag_order(20, seed=4, epoch=1) != first


def test_training_leaves_the_callers_generator_alone(make_task: MakeTask) -> None:
    before = torch.get_rng_state()
    train_seed(make_task(model={"options": {"dropout": 0.5}}))
    assert torch.equal(torch.get_rng_state(), before)


def test_log_variances_have_their_own_group(make_task: MakeTask) -> None:
    task = make_task(guidance={"terms": ("hg", "tg")})
    state = new_state(task.settings, task.train, classes=2, seed=3)
    network, variances = state.optimizer.groups
    assert (variances.lr, variances.weight_decay) == (1e-2, 0)
    assert (network.lr, network.weight_decay) == (1e-2, 5e-3)
    assert len(variances.parameters) == 1


def test_the_public_codes_log_variances_are_decayed_with_the_network(make_task: MakeTask) -> None:
    task = make_task(guidance={"terms": ("hg",), "compat": "reference"})
    state = new_state(task.settings, task.train, classes=2, seed=3)
    (group,) = state.optimizer.groups
    assert len(group.parameters) == 1 + len(list(state.model.parameters()))


def test_a_loss_that_is_not_finite_stops_and_names_the_bags(make_task: MakeTask) -> None:
    task = make_task(optim={"lr": 1e30, "bag_batch": 1})
    with pytest.raises(ConfigError, match=r"not finite .* s\d\d") as caught:
        train_seed(task)
    assert "optim.lr" in caught.value.hint
    assert not (task.folder / "result.json").exists()


def test_a_bag_of_huge_features_is_named(make_task: MakeTask) -> None:
    task = make_task(optim={"bag_batch": 1})
    source = task.train.sources[2]
    bag = source.read()
    huge = replace(bag, features=tuple(torch.full_like(f, 3e38) for f in bag.features))
    sources = [replace(s, loaded=huge) if s is source else s for s in task.train.sources]
    task = replace(task, train=replace(task.train, sources=tuple(sources)))
    with pytest.raises(ConfigError, match=f"not finite .*{bag.slide_id}"):
        train_seed(task)


@pytest.mark.parametrize(
    ("select_by", "column"), [("loss", "validation_loss"), ("auc", "validation_auc")]
)
def test_the_kept_epoch_is_the_best_on_validation(
    make_task: MakeTask, select_by: str, column: str
) -> None:
    task = make_task(select_by=select_by, optim={"lr": 0.3})
    result = train_seed(task)
    header, *rows = (task.folder / "metrics.csv").read_text().splitlines()
    values = [float(row.split(",")[header.split(",").index(column)]) for row in rows]
    best = min(values) if select_by == "loss" else max(values)
    assert result.epoch == values.index(best) + 1
    assert result.validation[select_by] == pytest.approx(best)


def test_the_last_epoch_needs_no_validation(make_task: MakeTask) -> None:
    result = train_seed(replace(make_task(select_by="last"), validation=None))
    assert (result.epoch, result.epochs, result.validation, result.temperature) == (6, 6, {}, 1)


def test_patience_ends_a_training_that_no_longer_gains(make_task: MakeTask) -> None:
    result = train_seed(make_task(patience=2, optim={"epochs": 200, "lr": 0.3}))
    assert result.epochs < 200
    assert result.epochs == result.epoch + 2


def test_progress_tells_every_epoch(make_task: MakeTask) -> None:
    told: list[EpochDone] = []
    train_seed(make_task(), told.append)
    assert [(done.seed, done.epoch, done.epochs) for done in told] == [
        (3, e, 6) for e in range(1, 7)
    ]


def test_several_magnifications_are_trained(make_toy: MakeToy, make_task: MakeTask) -> None:
    cohort, folder = make_toy(mpp=(0.5, 1.0), folder="two")
    bags = open_bags(cohort.slides, folder, classes=cohort.classes)
    task = replace(make_task(guidance={"terms": ("hg", "tg")}), train=bags, validation=bags)
    assert train_seed(task).epochs == 6


def test_slides_without_guidance_do_not_break_the_loss(
    make_toy: MakeToy, make_task: MakeTask
) -> None:
    cohort, folder = make_toy(folder="bare")
    for slide in cohort.slides:
        path = folder / f"{slide.slide_id}.h5"
        bag = read_bag(path)
        bare = [np.zeros(len(each)) for each in bag.magnifications]
        write_bag(path, with_guidance(bag, tissue=bare, heuristic=bare))
    bags = open_bags(cohort.slides, folder, classes=cohort.classes)
    task = replace(make_task(guidance={"terms": ("hg", "tg")}), train=bags, validation=bags)
    train_seed(task)
    assert "nan" not in (task.folder / "metrics.csv").read_text()


def test_the_result_tells_what_was_trained(make_task: MakeTask) -> None:
    task = make_task()
    train_seed(task)
    result = json.loads((task.folder / "result.json").read_text())
    assert result["seed"] == 3
    assert result["validation"].keys() >= {"loss", "accuracy", "auc"}
    assert 0 < result["least_on_tissue"] < 1


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [("cosine", [1, 0.515, 0.03]), ("step", [1, 0.5, 0.25]), ("constant", [1, 1, 1])],
)
def test_schedules(schedule: str, factors: list[float]) -> None:
    optim = settings(
        optim={"schedule": schedule, "epochs": 10, "lr": 1e-2, "min_lr": 3e-4, "step_epochs": 5}
    ).optim
    assert [lr_factor(optim, epoch) for epoch in (0, 5, 10)] == pytest.approx(factors)
