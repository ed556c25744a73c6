from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sagdeploy.errors import ConfigError
from sagdeploy.files import write_json
from sagdeploy.training.comparison import compare
from sagdeploy.training.evaluate import Evaluation, SeedScores


def write_evaluation(
    run: Path,
    arm: str,
    accuracies: Sequence[float],
    *,
    seeds: Sequence[int] = (1, 2, 3),
    sha256: str = "c" * 64,
) -> Path:
    """An evaluation of which only accuracy and the attention on a region are of interest."""
    scores = tuple(
        SeedScores(seed=seed, fold=None, metrics={"accuracy": a, "majority_accuracy": 0.62})
        for seed, a in zip(seeds, accuracies, strict=True)
    )
    mean, sd = float(np.mean(accuracies)), float(np.std(accuracies, ddof=1))
    evaluation = Evaluation(
        arm=arm,
        split="test",
        classes=("benign", "tumour"),
        slides=129,
        patients=120,
        cohort_sha256=sha256,
        opened=1,
        seeds=scores,
        mean={"accuracy": mean, "majority_accuracy": 0.62},
        sd={"accuracy": sd},
        intervals={},
        ensemble={},
    )
    write_json(run / "evaluation_test.json", evaluation.model_dump(mode="json"))
    return run


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    # The seeds differ by ten points, the arms by one: unpaired it would drown.
    baseline = write_evaluation(tmp_path / "a", "abmil, no guidance", [0.70, 0.80, 0.90])
    guided = write_evaluation(tmp_path / "b", "abmil, HG", [0.92, 0.71, 0.81], seeds=(3, 1, 2))
    first, second = compare([baseline, guided]).rows
    assert first.difference == {}
    difference = second.difference["accuracy"]
    assert difference.value == pytest.approx(0.04 / 3)
    assert difference.low == pytest.approx(0.04 / 3 - 4.302653 * 0.0057735 / 3**0.5, abs=1e-6)


def test_only_shared_seeds_are_paired(tmp_path: Path) -> None:
    baseline = write_evaluation(tmp_path / "a", "a", [0.7, 0.8, 0.9])
    guided = write_evaluation(tmp_path / "b", "b", [0.9, 0.1, 0.9], seeds=(1, 7, 2))
    difference = compare([baseline, guided]).rows[1].difference["accuracy"]
    assert difference.value == pytest.approx((0.2 + 0.1) / 2)


def test_the_table_is_markdown_and_says_what_it_does_not_show(tmp_path: Path) -> None:
    baseline = write_evaluation(tmp_path / "a", "abmil, no guidance", [0.70, 0.80, 0.90])
    guided = write_evaluation(tmp_path / "b", "abmil, HG", [0.71, 0.81, 0.92])
    text = compare([baseline, guided]).markdown()
    assert text.startswith(
        "| Arm | Acc |\n"
        "|---|---|\n"
        "| abmil, no guidance | 80.0 ± 10.0 |\n"
        "| abmil, HG | 81.3 ± 10.5 (+1.3 [-0.1, +2.8]) |\n"
    )
    assert "3 seeds on 129 slides of 120 patients (test)" in text
    assert "62.0" in text
    assert "does not say whether it would be better on new patients" in text


def test_runs_on_different_cohorts_are_not_compared(tmp_path: Path) -> None:
    baseline = write_evaluation(tmp_path / "a", "a", [0.7, 0.8, 0.9])
    other = write_evaluation(tmp_path / "b", "b", [0.7, 0.8, 0.9], sha256="d" * 64)
    with pytest.raises(ConfigError, match="another cohort"):
        compare([baseline, other])


def test_a_run_that_was_not_evaluated_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not evaluated on test"):
        compare([tmp_path])


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ConfigError, match="no run"):
        compare([])
