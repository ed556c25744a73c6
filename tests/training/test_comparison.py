from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sagdeploy.bags.cohort import Cohort
from sagdeploy.config import TrainSettings
from sagdeploy.errors import ConfigError
from sagdeploy.files import write_json
from sagdeploy.training.alignment import AttentionScores
from sagdeploy.training.comparison import Comparison, compare, with_verdicts
from sagdeploy.training.contrast import Difference
from sagdeploy.training.evaluate import Evaluation, SeedScores, evaluate_run
from sagdeploy.training.experiment import train_seeds
from sagdeploy.training.intervals import Interval
from sagdeploy.training.judgement import Judged, SlideJudgement
from sagdeploy.training.panel import scores_of
from sagdeploy.training.predictions import predictions_file, write_predictions

MakeToy = Callable[..., tuple[Cohort, Path]]

CLASSES = ("benign", "tumour")
NOWHERE = AttentionScores(None, None, None, None, None, None, None)
SLIDES = 100


def answers(right: Mapping[int, Sequence[int]]) -> Judged:
    """By seed, which of a hundred slides are answered rightly; every third is a tumour."""
    return {
        (seed, None): [
            SlideJudgement(
                slide_id=f"s{index:02}",
                patient_id=f"p{index:02}",
                label=int(index % 3 == 0),
                probabilities=np.array(
                    [0.9, 0.1] if (index % 3 > 0) == (index in told) else [0.2, 0.8]
                ),
                attention=NOWHERE,
            )
            for index in range(SLIDES)
        ]
        for seed, told in right.items()
    }


def write_run(run: Path, arm: str, judged: Judged, **changes: Any) -> Path:
    """What `evaluate` would have written."""
    seeds = tuple(
        SeedScores(seed=seed, fold=fold, metrics=scores_of(slides))
        for (seed, fold), slides in judged.items()
    )
    columns = {
        name: [value for s in seeds if (value := s.metrics[name]) is not None]
        for name in seeds[0].metrics
    }
    evaluation = Evaluation(
        arm=arm,
        split="test",
        classes=CLASSES,
        slides=SLIDES,
        patients=SLIDES,
        cohort_sha256="c" * 64,
        opened=2,
        seeds=seeds,
        mean={name: float(np.mean(column)) for name, column in columns.items() if column},
        sd={name: float(np.std(column, ddof=1)) for name, column in columns.items() if column},
        intervals={},
        ensemble={},
        baselines={},
        left_out={},
    ).model_copy(update=changes)
    write_json(run / "evaluation_test.json", evaluation.model_dump(mode="json"))
    write_predictions(predictions_file(run, "test"), judged, CLASSES)
    return run


@pytest.fixture
def arms(tmp_path: Path) -> list[Path]:
    """A baseline, one that is as good on other slides, and one that is better on most."""
    base = {seed: range(seed, 70 + seed) for seed in range(4)}
    other = {seed: range(30 - seed, 100 - seed) for seed in range(4)}
    better = {seed: range(2 * seed, 94 + seed) for seed in range(4)}
    return [
        write_run(tmp_path / name, f"abmil, {name}", answers(right))
        for name, right in [("no guidance", base), ("HG", other), ("HG + TG", better)]
    ]


def test_the_first_arm_has_no_difference_and_the_others_from_it(arms: list[Path]) -> None:
    rows = compare(arms, resamples=200).rows
    assert rows[0].differences == {}
    assert rows[0].seeds == (0, 1, 2, 3)
    assert rows[1].differences["accuracy"].value == pytest.approx(0)
    expected = np.mean([94 - seed - 70 for seed in range(4)]) / SLIDES
    assert rows[2].differences["accuracy"].value == pytest.approx(expected)


def test_only_what_holds_for_new_patients_is_an_improvement(arms: list[Path]) -> None:
    _, other, better = compare(arms, resamples=500).rows
    assert {found.verdict for found in other.differences.values()} == {"not shown"}
    assert better.differences["accuracy"].verdict == "improvement"
    worse = compare([arms[2], arms[0]], resamples=500).rows[1]
    assert worse.differences["accuracy"].verdict == "worse"


def test_the_table_is_markdown_and_says_what_it_shows(arms: list[Path]) -> None:
    text = compare(arms[:2], resamples=100).markdown()
    alike, _, head, rule, first, second = text.splitlines()[:6]
    assert alike == "All arms: abmil."
    assert head == "| Arm | Acc | P | R | AUC |"
    assert rule == "|---|---|---|---|---|"
    assert first.startswith("| no guidance | 70.0 ± 0.0 | ")
    assert second.startswith("| HG | 70.0 ± 0.0 | ")
    assert "100 slides of 100 patients (test)" in text
    assert "commonest\nclass: 66.0" in text
    assert "looked at these slides 4 times" in text
    assert "| HG | Acc | +0.0 | [+0.0, +0.0], p 1.000, above in 50% | [" in text
    assert "Holm over the 4 rows" in text
    assert "Only this may be called an improvement" in " ".join(text.split())


def test_an_arm_alone_is_shown_without_differences(arms: list[Path]) -> None:
    text = compare(arms[:1]).markdown()
    assert "abmil, no guidance" in text
    assert "new patients" not in text


def test_attention_that_knows_no_model_is_a_row(tmp_path: Path) -> None:
    interval = Interval(value=0.125, low=0.1, high=0.2, method="BCa bootstrap over patients")
    baselines = {"uniform over tissue": {"attention_on_heuristic": interval}}
    run = write_run(
        tmp_path / "a",
        "a",
        answers({0: range(70), 1: range(70)}),
        baselines=baselines,
        mean={"accuracy": 0.7, "majority_accuracy": 0.66, "attention_on_heuristic": 0.5},
    )
    text = compare([run]).markdown()
    assert "| Arm | Acc | Attention on region |" in text
    assert "| *uniform over tissue* | n/a | 12.5 |" in text


def test_a_comparison_comes_back_from_its_json(arms: list[Path]) -> None:
    result = compare(arms, resamples=50)
    assert Comparison.model_validate_json(result.model_dump_json()) == result


def test_many_looks_make_a_verdict_harder() -> None:
    interval = Interval(value=0.1, low=0.01, high=0.2, method="BCa bootstrap over patients")
    found = Difference(
        value=0.1,
        seeds=None,
        seeds_p=None,
        share_above=None,
        patients=interval,
        patients_p=0.03,
        detectable=0.1,
    )
    ((alone,),) = [list(arm.values()) for arm in with_verdicts([{"auc": found}])]
    assert (alone.verdict, alone.holm_p) == ("improvement", 0.03)
    first, _ = with_verdicts([{"auc": found}, {"auc": found, "accuracy": found}])
    assert first["auc"].verdict == "not shown"
    assert first["auc"].holm_p == pytest.approx(0.09)


@pytest.mark.parametrize("change", [{"cohort_sha256": "d" * 64}, {"classes": ("a", "b")}])
def test_runs_on_different_cohorts_are_not_compared(tmp_path: Path, change: dict[str, Any]) -> None:
    judged = answers({0: range(70), 1: range(70)})
    runs = [
        write_run(tmp_path / "a", "a", judged),
        write_run(tmp_path / "b", "b", judged, **change),
    ]
    with pytest.raises(ConfigError, match="another cohort"):
        compare(runs)


def test_a_seed_of_fewer_slides_is_not_compared(tmp_path: Path) -> None:
    judged = answers({0: range(70), 1: range(70)})
    short: Judged = {(0, None): judged[0, None], (1, None): judged[1, None][:-1]}
    runs = [write_run(tmp_path / "a", "a", judged), write_run(tmp_path / "b", "b", short)]
    with pytest.raises(ConfigError, match="seed 1 is of other slides"):
        compare(runs)


def test_a_run_that_was_not_evaluated_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not evaluated on test"):
        compare([tmp_path])


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ConfigError, match="no run"):
        compare([])


def test_trained_arms_are_compared_by_what_they_wrote(make_toy: MakeToy, tmp_path: Path) -> None:
    cohort, folder = make_toy(test=20)
    runs = []
    for name, terms in [("baseline", ()), ("hg", ("hg", "tg"))]:
        settings = {"optim": {"epochs": 12, "lr": 1e-2}, "guidance": {"terms": terms}}
        wanted = TrainSettings.model_validate(settings)
        train_seeds(cohort, folder, tmp_path / name, wanted, [0, 1, 2], jobs=1)
        evaluate_run(tmp_path / name, cohort, folder, resamples=20)
        runs.append(tmp_path / name)
    result = compare(runs, resamples=200)
    found = result.rows[1].differences["attention_on_heuristic"]
    assert found.value > 0
    assert found.patients is not None
    assert found.patients.method.endswith("widened for the seeds")
    assert "uniform over tissue" in result.markdown()
