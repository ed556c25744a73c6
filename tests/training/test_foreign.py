"""Models learn from the feature files of other software, and say that they did."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sagdeploy.bags.cohort import Cohort, CohortSlide, read_cohort, write_cohort
from sagdeploy.bags.tables import read_tables
from sagdeploy.config import TrainSettings
from sagdeploy.errors import BagError, ExportError
from sagdeploy.export.run import export_run
from sagdeploy.training.batch import collate
from sagdeploy.training.checkpoint import load_model, read_results, read_run
from sagdeploy.training.dataset import open_bags
from sagdeploy.training.evaluate import evaluate_run
from sagdeploy.training.experiment import train_seeds
from tests.bags.foreign import write_clam, write_plain, write_stamp, write_trident

SETTINGS = TrainSettings.model_validate(
    {
        "model": {"standardise": True},
        "optim": {"epochs": 30, "lr": 1e-2, "bag_batch": 4, "schedule": "constant"},
    }
)
Write = Callable[[Path, "np.ndarray[tuple[int, int], np.dtype[np.float32]]"], None]


def places(tiles: int) -> "np.ndarray[tuple[int, int], np.dtype[np.int64]]":
    return np.stack([np.arange(tiles) * 512, np.arange(tiles) * 3], axis=1)


DIALECTS: dict[str, Write] = {
    "TRIDENT, 256 px at 20x, overlap 0": lambda path, features: write_trident(
        path, features, places(len(features)), size_l0=(9000, 5000)
    ),
    "CLAM": lambda path, features: write_clam(path, features, places(len(features))),
    "STAMP, 256 um in 224 px": lambda path, features: write_stamp(
        path, features, places(len(features)).astype(np.float32)
    ),
    "unknown": write_plain,
}


def write_folder(folder: Path, write: Write) -> Cohort:
    """Slides whose class shows in a few tiles, with features of very different sizes."""
    folder.mkdir()
    slides = []
    for index, split in enumerate(["train"] * 12 + ["val"] * 4 + ["test"] * 6):
        rng = np.random.default_rng(index)
        features = rng.normal(size=(6 + index % 4, 5)).astype(np.float32)
        features[:3, index % 2] += 6
        write(folder / f"s{index:02d}.h5", features * (200, 0.1, 1, 1, 1) + (-90, 0, 0, 0, 5))
        label = ("benign", "tumour")[index % 2]
        slides.append(CohortSlide(f"s{index:02d}", None, label, split))
    write_cohort(folder / "cohort.csv", slides)
    return read_tables(folder / "cohort.csv")


@pytest.mark.parametrize("origin", DIALECTS)
def test_a_model_learns_from_their_files_and_remembers_whose_they_were(
    tmp_path: Path, origin: str
) -> None:
    cohort = write_folder(tmp_path / "bags", DIALECTS[origin])
    record = train_seeds(cohort, tmp_path / "bags", tmp_path / "run", SETTINGS, [0], jobs=1)
    assert (record.origin, record.plan) == (origin, None)
    assert record.arm == "abmil, standardised, no guidance"
    evaluation = evaluate_run(tmp_path / "run", cohort, tmp_path / "bags", resamples=20)
    assert evaluation.mean["accuracy"] == 1
    with pytest.raises(ExportError, match="features of other software"):
        export_run(tmp_path / "run", tmp_path / "models", "sag")


def test_the_scaling_is_of_the_training_slides_alone(tmp_path: Path) -> None:
    bags = tmp_path / "bags"
    cohort = write_folder(bags, write_plain)
    train_seeds(cohort, bags, tmp_path / "run", SETTINGS, [0], jobs=1)
    record, (result,) = read_run(tmp_path / "run"), read_results(tmp_path / "run")
    model = load_model(tmp_path / "run", record, result)
    train = open_bags(cohort.of_split("train"), bags, classes=cohort.classes)
    tiles = np.concatenate([bag.features[0].numpy() for bag in train])
    np.testing.assert_allclose(model.state_dict()["mean"], tiles.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(model.state_dict()["deviation"], tiles.std(axis=0), rtol=1e-4)


@pytest.mark.parametrize("other", ["CLAM", "TRIDENT, 256 px at 20x, overlap 0"])
def test_files_of_two_kinds_are_not_mixed(tmp_path: Path, other: str) -> None:
    cohort = write_folder(tmp_path / "bags", DIALECTS["STAMP, 256 um in 224 px"])
    DIALECTS[other](tmp_path / "bags" / "s03.h5", np.ones((4, 5), np.float32))
    with pytest.raises(BagError, match="more than one extractor: s03"):
        open_bags(cohort.slides, tmp_path / "bags", classes=cohort.classes)


SOFT = "slide_id,label,soft_label\na,x,0.25;0.75\nb,y,\n"


def test_soft_labels_teach_and_hard_labels_judge(tmp_path: Path) -> None:
    table = tmp_path / "cohort.csv"
    table.write_text(SOFT)
    for name in ("a", "b"):
        write_plain(tmp_path / f"{name}.h5", np.ones((3, 2), np.float32))
    cohort = read_cohort(table, need_paths=False)
    bags = open_bags(cohort.slides, tmp_path, classes=cohort.classes)
    batch = collate([bags[0], bags[1]])
    assert batch.labels.tolist() == [0, 1]
    assert batch.targets.tolist() == [[0.25, 0.75], [0, 1]]
    assert collate([bags[1]]).targets.tolist() == [1]
