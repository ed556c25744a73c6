import ctypes
import multiprocessing
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sagdeploy.bags.cohort import Cohort
from sagdeploy.config import TrainSettings
from sagdeploy.errors import BagError, CohortError, ConfigError, SagError
from sagdeploy.files import sha256_of
from sagdeploy.training.checkpoint import read_results, read_run
from sagdeploy.training.experiment import train_seeds
from sagdeploy.training.train import EpochDone

Toy = tuple[Cohort, Path]
MakeToy = Callable[..., Toy]

IN_OPEN = 0x20
"""inotify's event of a file that is opened."""


def settings(**changes: Any) -> TrainSettings:
    optim = {"epochs": 2, "lr": 1e-2, "bag_batch": 4} | changes.pop("optim", {})
    return TrainSettings.model_validate({"optim": optim} | changes)


def weights_of(run: Path) -> dict[str, str]:
    return {path.parent.name: sha256_of(path) for path in run.glob("*/weights.safetensors")}


@contextmanager
def opened_in(folder: Path) -> Iterator[set[str]]:
    """Names of the files of a folder that are opened by anybody while the block runs."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(watch, os.fsencode(folder), IN_OPEN) >= 0
    names: set[str] = set()
    yield names
    events = os.read(watch, 1 << 20)
    os.close(watch)
    while events:
        _, _, _, length = struct.unpack_from("iIII", events)
        names.add(events[16 : 16 + length].rstrip(b"\0").decode())
        events = events[16 + length :]


def test_a_run_tells_what_it_was(toy: Toy, tmp_path: Path) -> None:
    cohort, bags = toy
    wanted = settings(guidance={"terms": ("hg", "tg")}, model={"options": {"hidden": 4}})
    record = train_seeds(cohort, bags, tmp_path, wanted, [3, 1], jobs=1)
    assert read_run(tmp_path) == record
    assert record.arm == "abmil (hidden=4), HG + TG"
    assert record.slides == {"train": 12, "val": 4, "test": 6}
    assert record.seeds == (3, 1)
    assert record.cohort_sha256 == cohort.sha256
    assert [result.seed for result in read_results(tmp_path)] == [1, 3]


def test_training_opens_no_bag_of_the_test_split(toy: Toy, tmp_path: Path) -> None:
    cohort, bags = toy
    with opened_in(bags) as opened:
        train_seeds(cohort, bags, tmp_path, settings(), [3], jobs=1)
    known = {slide.slide_id for slide in cohort.slides if slide.split != "test"}
    assert opened - {""} == {f"{slide_id}.h5" for slide_id in known}


def test_neither_test_bags_nor_test_labels_change_the_weights(
    toy: Toy, make_toy: MakeToy, tmp_path: Path
) -> None:
    cohort, bags = toy
    other, other_bags = make_toy()
    for slide in other.of_split("test"):
        (other_bags / f"{slide.slide_id}.h5").unlink()
    swapped = tuple(
        replace(s, label="tumour" if s.label == "benign" else "benign") if s.split == "test" else s
        for s in other.slides
    )
    train_seeds(cohort, bags, tmp_path / "a", settings(), [3], jobs=1)
    train_seeds(replace(other, slides=swapped), other_bags, tmp_path / "b", settings(), [3], jobs=1)
    assert weights_of(tmp_path / "a") == weights_of(tmp_path / "b")


def test_the_order_of_the_cohorts_rows_changes_nothing(toy: Toy, tmp_path: Path) -> None:
    cohort, bags = toy
    mixed = replace(cohort, slides=cohort.slides[::-1])
    train_seeds(cohort, bags, tmp_path / "a", settings(), [3, 4], jobs=1)
    train_seeds(mixed, bags, tmp_path / "b", settings(), [3, 4], jobs=1)
    assert weights_of(tmp_path / "a") == weights_of(tmp_path / "b")


def test_processes_train_to_the_same_bits(toy: Toy, tmp_path: Path) -> None:
    cohort, bags = toy
    told: list[EpochDone] = []
    train_seeds(cohort, bags, tmp_path / "one", settings(), [3, 4], jobs=1)
    train_seeds(cohort, bags, tmp_path / "two", settings(), [3, 4], jobs=2, progress=told.append)
    assert weights_of(tmp_path / "one") == weights_of(tmp_path / "two")
    assert sorted((done.seed, done.epoch) for done in told) == [(3, 1), (3, 2), (4, 1), (4, 2)]


def test_an_error_in_a_process_is_raised_here(toy: Toy, tmp_path: Path) -> None:
    cohort, bags = toy
    with pytest.raises(ConfigError, match="not finite") as caught:
        train_seeds(cohort, bags, tmp_path, settings(optim={"lr": 1e30}), [3, 4], jobs=2)
    assert "optim.lr" in caught.value.hint


def test_processes_that_are_killed_are_told_of(toy: Toy, tmp_path: Path) -> None:
    cohort, bags = toy

    def kill_all(done: EpochDone) -> None:
        if done.seed == 4 and done.epoch == 1:
            for child in multiprocessing.active_children():
                child.kill()

    wanted = settings(optim={"epochs": 500})
    with pytest.raises(SagError, match="ended with code -9") as caught:
        train_seeds(cohort, bags, tmp_path, wanted, [3, 4], jobs=2, progress=kill_all)
    assert "resumes" in caught.value.hint


def test_more_seeds_join_a_run_without_redoing_any(toy: Toy, tmp_path: Path) -> None:
    cohort, bags = toy
    train_seeds(cohort, bags, tmp_path, settings(), [3], jobs=1)
    told: list[EpochDone] = []
    record = train_seeds(cohort, bags, tmp_path, settings(), [4, 3], jobs=1, progress=told.append)
    assert record.seeds == (3, 4)
    assert {done.seed for done in told} == {4}


def test_a_folder_of_another_run_is_refused(toy: Toy, tmp_path: Path) -> None:
    cohort, bags = toy
    train_seeds(cohort, bags, tmp_path, settings(), [3], jobs=1)
    with pytest.raises(ConfigError, match="other settings"):
        train_seeds(cohort, bags, tmp_path, settings(patience=3), [3], jobs=1)


def test_each_fold_holds_out_its_own_slides(make_toy: MakeToy, tmp_path: Path) -> None:
    cohort, bags = make_toy(train=18, val=0, test=0, named=False)
    record = train_seeds(cohort, bags, tmp_path, settings(), [3], folds=3, jobs=1)
    assert record.folds == 3
    held_out = [slide_id for result in read_results(tmp_path) for slide_id in result.held_out]
    assert sorted(held_out) == sorted(slide.slide_id for slide in cohort.slides)


def test_a_cohort_without_splits_gives_up_a_share_for_validation(
    make_toy: MakeToy, tmp_path: Path
) -> None:
    cohort, bags = make_toy(train=20, val=0, test=0, named=False)
    record = train_seeds(cohort, bags, tmp_path, settings(), [3], jobs=1)
    assert record.slides == {"train": 16, "val": 4}


def test_slides_without_bags_are_refused_before_anything_is_written(
    make_toy: MakeToy, tmp_path: Path
) -> None:
    cohort, bags = make_toy()
    (bags / f"{cohort.slides[0].slide_id}.h5").unlink()
    with pytest.raises(BagError, match="1 of 16"):
        train_seeds(cohort, bags, tmp_path / "run", settings(), [3])
    assert not (tmp_path / "run").exists()


def test_choosing_by_validation_needs_validation(make_toy: MakeToy, tmp_path: Path) -> None:
    cohort, bags = make_toy(val=0)
    with pytest.raises(ConfigError, match="select_by 'loss' needs validation"):
        train_seeds(cohort, bags, tmp_path, settings(validation_share=0), [3], jobs=1)
    wanted = settings(validation_share=0, select_by="last")
    assert train_seeds(cohort, bags, tmp_path, wanted, [3], jobs=1).slides["train"] == 12


def test_one_class_alone_cannot_be_learned(toy: Toy, tmp_path: Path) -> None:
    cohort, bags = toy
    kept = tuple(s for s in cohort.slides if s.split != "train" or s.label == "tumour")
    with pytest.raises(CohortError, match="all of one class"):
        train_seeds(replace(cohort, slides=kept), bags, tmp_path, settings(), [3], jobs=1)
