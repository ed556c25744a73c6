import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import torch

from sagdeploy.bags.bag import with_guidance
from sagdeploy.bags.bagfile import read_bag, write_bag
from sagdeploy.bags.cohort import Cohort
from sagdeploy.config import TrainSettings
from sagdeploy.errors import BagError, CohortError, ConfigError, ModelError
from sagdeploy.guidance.annotations import write_asap
from sagdeploy.training.checkpoint import load_model, read_results, read_run
from sagdeploy.training.dataset import open_bags
from sagdeploy.training.evaluate import Split, evaluate_run, read_evaluation
from sagdeploy.training.experiment import train_seeds
from sagdeploy.training.inference import evaluating, predict_bags
from sagdeploy.training.judgement import averaged, judge_slides
from sagdeploy.training.panel import intervals_of, scores_of
from sagdeploy.training.predictions import read_predictions

Toy = tuple[Cohort, Path]
MakeToy = Callable[..., Toy]

SETTINGS = TrainSettings.model_validate(
    {
        "optim": {"epochs": 4, "lr": 1e-2, "bag_batch": 4},
        "model": {"options": {"dropout": 0.5}},
        "guidance": {"terms": ("hg",)},
    }
)


@pytest.fixture
def run(toy: Toy, tmp_path: Path) -> Path:
    cohort, bags = toy
    train_seeds(cohort, bags, tmp_path / "run", SETTINGS, [3, 4], jobs=1)
    return tmp_path / "run"


def predictions(run: Path, split: str = "test") -> list[dict[str, str]]:
    with (run / f"predictions_{split}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_evaluation_comes_back_as_it_was_written(toy: Toy, run: Path) -> None:
    evaluation = evaluate_run(run, *toy, resamples=50)
    assert read_evaluation(run) == evaluation
    assert (evaluation.slides, evaluation.patients, evaluation.split) == (6, 6, "test")
    assert [scores.seed for scores in evaluation.seeds] == [3, 4]


def test_mean_and_sd_are_over_the_seeds(toy: Toy, run: Path) -> None:
    evaluation = evaluate_run(run, *toy, resamples=50)
    losses = [scores.metrics["log_loss"] or 0.0 for scores in evaluation.seeds]
    assert evaluation.mean["log_loss"] == pytest.approx(np.mean(losses))
    assert evaluation.sd["log_loss"] == pytest.approx(np.std(losses, ddof=1))
    assert 0 < evaluation.mean["attention_on_heuristic"] < 1
    assert 0 < evaluation.mean["attention_on_tissue"] <= 1


@pytest.mark.parametrize("split", ["test", "train"])
def test_intervals_are_of_the_means_that_are_told(toy: Toy, run: Path, split: Split) -> None:
    evaluation = evaluate_run(run, *toy, split, resamples=50)
    for name, interval in evaluation.intervals.items():
        metric = "auc" if name == "auc_delong" else name
        assert interval.value == pytest.approx(evaluation.mean[metric])
        assert interval.low <= interval.high
    assert evaluation.ensemble["log_loss"].value < evaluation.mean["log_loss"]


def test_every_number_follows_from_the_predictions(toy: Toy, run: Path) -> None:
    evaluation = evaluate_run(run, *toy, resamples=50)
    rows = [row for row in predictions(run) if row["seed"] == "4"]
    right = [row["label"] == row["predicted"] for row in rows]
    assert evaluation.seeds[1].metrics["accuracy"] == np.mean(right)
    truth = [float(row[f"probability_{row['label']}"]) for row in rows]
    assert evaluation.seeds[1].metrics["log_loss"] == pytest.approx(-np.log(truth).mean())
    shares = [float(row["attention_on_tissue"]) for row in rows]
    assert evaluation.seeds[1].metrics["attention_on_tissue"] == pytest.approx(np.mean(shares))


def test_masks_never_reach_the_model(toy: Toy, run: Path, make_toy: MakeToy) -> None:
    cohort, bags = make_toy()
    evaluate_run(run, cohort, bags, resamples=50)
    clean = predictions(run)
    rng = np.random.default_rng(3)
    for slide in cohort.of_split("test"):
        path = bags / f"{slide.slide_id}.h5"
        bag = read_bag(path)
        noise = [rng.random(len(each)) for each in bag.magnifications]
        write_bag(path, with_guidance(bag, tissue=noise, heuristic=noise[::-1]))
    evaluate_run(run, cohort, bags, resamples=50)
    noisy = predictions(run)
    answers = [name for name in clean[0] if name == "predicted" or name.startswith("prob")]
    assert [[row[k] for k in answers] for row in clean] == [
        [row[k] for k in answers] for row in noisy
    ]
    assert [row["attention_on_tissue"] for row in clean] != [
        row["attention_on_tissue"] for row in noisy
    ]


def test_each_look_at_a_split_is_counted(toy: Toy, run: Path) -> None:
    assert [evaluate_run(run, *toy, resamples=20).opened for _ in range(3)] == [1, 2, 3]
    assert evaluate_run(run, *toy, "val", resamples=20).opened == 1


def test_folds_are_evaluated_on_what_they_held_out(make_toy: MakeToy, tmp_path: Path) -> None:
    cohort, bags = make_toy(train=18, val=0, test=0, named=False)
    run = tmp_path / "run"
    train_seeds(cohort, bags, run, SETTINGS, [3], folds=3, jobs=1)
    evaluation = evaluate_run(run, cohort, bags, "folds", resamples=20)
    assert evaluation.slides == 18
    assert [scores.fold for scores in evaluation.seeds] == [0, 1, 2]
    assert evaluation.intervals["log_loss"].value == pytest.approx(evaluation.mean["log_loss"])
    rows = predictions(run, "folds")
    assert len({row["slide_id"] for row in rows}) == len(rows) == 18


def test_a_run_without_folds_says_so(toy: Toy, run: Path) -> None:
    with pytest.raises(ConfigError, match="no folds"):
        evaluate_run(run, *toy, "folds")


def test_a_slide_that_the_run_learned_from_is_no_test(toy: Toy, run: Path) -> None:
    cohort, bags = toy
    leaked = tuple(replace(slide, split="test") for slide in cohort.slides)
    with pytest.raises(CohortError, match="learned from 16 of the slides in test"):
        evaluate_run(run, replace(cohort, slides=leaked), bags)


def test_bags_of_another_extractor_are_refused(run: Path, make_toy: MakeToy) -> None:
    cohort, bags = make_toy()
    for path in bags.iterdir():
        bag = read_bag(path)
        card = bag.header.extractor.model_copy(update={"sha256": "f" * 64})
        write_bag(path, replace(bag, header=bag.header.model_copy(update={"extractor": card})))
    with pytest.raises(BagError, match="another tile plan or extractor"):
        evaluate_run(run, cohort, bags)


def test_a_split_without_slides_is_refused(run: Path, make_toy: MakeToy) -> None:
    with pytest.raises(CohortError, match="no slide"):
        evaluate_run(run, *make_toy(test=0))


def test_weights_that_were_changed_are_refused(toy: Toy, run: Path) -> None:
    path = run / "seed_4" / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="weights"):
        evaluate_run(run, *toy)


def test_a_run_that_was_not_evaluated_says_what_to_type(run: Path) -> None:
    with pytest.raises(ConfigError, match="not evaluated on test") as caught:
        read_evaluation(run)
    assert "sagdeploy evaluate" in caught.value.hint


def test_evaluation_mode_lasts_for_the_block_only() -> None:
    model = torch.nn.Dropout(0.5)
    with evaluating(model):
        assert not model.training
        assert torch.is_inference_mode_enabled()
    assert model.training
    model.eval()
    with evaluating(model):
        pass
    assert not model.training


def test_attention_of_each_magnification_sums_to_one(make_toy: MakeToy, tmp_path: Path) -> None:
    cohort, bags = make_toy(mpp=(0.5, 1.0))
    train_seeds(cohort, bags, tmp_path / "run", SETTINGS, [3], jobs=1)
    record, (result,) = read_run(tmp_path / "run"), read_results(tmp_path / "run")
    opened = open_bags(cohort.slides, bags, classes=cohort.classes)
    for prediction in predict_bags(load_model(tmp_path / "run", record, result), opened):
        assert [attention.sum() for attention in prediction.attention] == pytest.approx([1, 1])


def test_seeds_are_averaged_by_slide(toy: Toy, run: Path) -> None:
    cohort, bags = toy
    record, results = read_run(run), read_results(run)
    opened = open_bags(cohort.of_split("test"), bags, classes=cohort.classes)
    judged = [
        judge_slides(load_model(run, record, result), opened, temperature=result.temperature)
        for result in results
    ]
    together = averaged(slide for slides in judged for slide in slides)
    assert [slide.slide_id for slide in together] == list(opened.slide_ids)
    expected = (judged[0][2].probabilities + judged[1][2].probabilities) / 2
    np.testing.assert_allclose(together[2].probabilities, expected)


def test_slides_of_one_patient_take_away_the_closed_forms(toy: Toy, run: Path) -> None:
    cohort, bags = toy
    record, result = read_run(run), read_results(run)[0]
    opened = open_bags(cohort.slides, bags, classes=cohort.classes)
    alone = judge_slides(load_model(run, record, result), opened, temperature=1.0)
    shared = [replace(slide, patient_id=f"p{i // 2}") for i, slide in enumerate(alone)]
    assert intervals_of([alone], resamples=20)["accuracy"].method == "Wilson"
    intervals = intervals_of([shared], resamples=20)
    assert intervals["accuracy"].method.endswith("over patients")
    assert "auc_delong" not in intervals
    assert intervals["accuracy"].value == scores_of(shared)["accuracy"]


def test_the_order_of_the_cohorts_rows_changes_no_number(toy: Toy, run: Path) -> None:
    cohort, bags = toy
    forth = evaluate_run(run, cohort, bags, resamples=20)
    table = (run / "predictions_test.csv").read_bytes()
    back = evaluate_run(run, replace(cohort, slides=cohort.slides[::-1]), bags, resamples=20)
    assert (run / "predictions_test.csv").read_bytes() == table
    assert back == forth.model_copy(update={"opened": 2})


def test_predictions_say_again_what_was_measured(toy: Toy, run: Path) -> None:
    evaluation = evaluate_run(run, *toy, resamples=20)
    judged = read_predictions(run / "predictions_test.csv", evaluation.classes)
    assert [scores_of(slides) for slides in judged.values()] == [
        scores.metrics for scores in evaluation.seeds
    ]


def test_labels_that_mean_nothing_leave_an_auc_that_holds_a_half(
    make_toy: MakeToy, tmp_path: Path
) -> None:
    # all labels are mixed: of training alone, they would by chance point a little one way or
    # the other, and a pattern as plain as this one be learned, or its reverse
    cohort, bags = make_toy(train=30, val=0, test=40, signal=6.0)
    labels = np.random.default_rng(5).permutation([str(slide.label) for slide in cohort.slides])
    slides = tuple(replace(s, label=str(m)) for s, m in zip(cohort.slides, labels, strict=True))
    settings = TrainSettings.model_validate({"optim": {"epochs": 8, "lr": 1e-2, "bag_batch": 4}})
    areas = {}
    for name, known in [("own", cohort), ("mixed", replace(cohort, slides=slides))]:
        train_seeds(known, bags, tmp_path / name, settings, [0, 1], jobs=1)
        areas[name] = evaluate_run(tmp_path / name, known, bags, resamples=200).intervals["auc"]
    assert areas["own"].low > 0.8  # the same slides can be learned
    assert areas["mixed"].low < 0.5 < areas["mixed"].high


def test_a_patient_that_the_run_learned_from_is_no_test(toy: Toy, run: Path) -> None:
    cohort, bags = toy
    patient = cohort.of_split("train")[0].patient_id
    leaked = tuple(
        replace(slide, patient_id=patient) if slide.split == "test" else slide
        for slide in cohort.slides
    )
    with pytest.raises(CohortError, match=f"learned from 1 of the patients in test.*{patient}"):
        evaluate_run(run, replace(cohort, slides=leaked), bags)


def test_a_copy_of_a_file_that_the_run_learned_from_is_no_test(
    run: Path, make_toy: MakeToy
) -> None:
    cohort, bags = make_toy()
    source = read_bag(bags / f"{cohort.of_split('train')[0].slide_id}.h5").header.slide_sha256
    path = bags / f"{cohort.of_split('test')[2].slide_id}.h5"
    bag = read_bag(path)
    header = bag.header.model_copy(update={"slide_sha256": source})
    write_bag(path, replace(bag, header=header))
    with pytest.raises(CohortError, match="learned from 1 of the files in test"):
        evaluate_run(run, cohort, bags)


def test_faithfulness_is_asked_of_the_first_seeds(toy: Toy, tmp_path: Path) -> None:
    train_seeds(*toy, tmp_path / "run", SETTINGS, [5, 2, 9, 4], jobs=1)
    evaluation = evaluate_run(tmp_path / "run", *toy, resamples=20)
    told = {s.seed: s.metrics["deletion_gain"] is not None for s in evaluation.seeds}
    assert told == {2: True, 4: True, 5: True, 9: False}
    assert "deletion_gain" in evaluation.intervals
    unasked = evaluate_run(tmp_path / "run", *toy, faithful_seeds=0, resamples=20)
    assert "deletion_gain" not in unasked.mean


def test_what_cannot_be_measured_is_said(toy: Toy, run: Path) -> None:
    evaluation = evaluate_run(run, *toy, resamples=20)
    assert set(evaluation.left_out) == {"froc", "nuclear density"}
    assert "froc" not in evaluation.mean
    assert set(evaluation.baselines) == {"uniform over tissue", "centre prior"}


def test_lesions_are_found_by_attention(make_toy: MakeToy, tmp_path: Path) -> None:
    cohort, bags = make_toy(train=30, val=10, test=12, signal=6.0)
    outline = tmp_path / "region.xml"
    write_asap(outline, [shapely.box(0, 0, 3 * 448, 400)])
    slides = tuple(
        replace(s, annotation_path=outline) if s.label == "tumour" else s for s in cohort.slides
    )
    cohort = replace(cohort, slides=slides)
    settings = {"optim": {"epochs": 20, "lr": 1e-2}, "guidance": {"terms": ("hg",)}}
    train_seeds(cohort, bags, tmp_path / "r", TrainSettings.model_validate(settings), [3], jobs=1)
    evaluation = evaluate_run(tmp_path / "r", cohort, bags, resamples=50)
    assert "froc" not in evaluation.left_out
    assert evaluation.mean["froc"] > 0.9
    assert evaluation.mean["froc_at_8"] >= evaluation.mean["froc_at_0.25"]
    assert evaluation.mean["insertion_area"] > 0.5


def test_a_perfect_auc_of_a_few_slides_is_not_certain(make_toy: MakeToy, tmp_path: Path) -> None:
    cohort, bags = make_toy(train=30, val=10, test=10, signal=9.0)
    settings = TrainSettings.model_validate({"optim": {"epochs": 20, "lr": 1e-2}})
    train_seeds(cohort, bags, tmp_path / "run", settings, [3], jobs=1)
    area = evaluate_run(tmp_path / "run", cohort, bags, resamples=50).intervals["auc"]
    assert (area.value, area.method) == (1.0, "Newcombe")
    assert area.low < 0.9
