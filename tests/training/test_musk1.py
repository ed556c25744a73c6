"""MUSK1, a benchmark of multiple instance learning, by the public commands; see benchmarks."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.musk1 import write_musk1
from sagdeploy.cli.app import run


def test_abmil_learns_musk1_from_files_of_features_alone(
    tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort, bags = write_musk1(shared_data / "mil" / "musk1.npz", tmp_path)
    assert len(list(bags.iterdir())) == 92
    table = [str(cohort), "--bags", str(bags)]
    settings = ["--config", "musk1-abmil", "--epochs", "12", "--jobs", "1"]
    out = str(tmp_path / "run")
    assert run(["train", *table, "--out", out, *settings, "--folds", "3"]) == 0
    assert run(["evaluate", out, *table, "--split", "folds", "--json"]) == 0
    evaluation = json.loads(capsys.readouterr().out)
    accuracy = np.mean([fold["metrics"]["accuracy"] for fold in evaluation["seeds"]])
    assert evaluation["slides"] == 92
    assert accuracy > 0.75
