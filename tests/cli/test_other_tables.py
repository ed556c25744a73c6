"""Tables and feature files of other software go through the commands as they are."""

from pathlib import Path

import numpy as np
import pytest

from sagdeploy.cli.app import run
from tests.bags.foreign import write_stamp


@pytest.fixture
def stamp(tmp_path: Path) -> list[str]:
    """STAMP's two tables and its features of ten patients, as arguments of a command."""
    clini, slides = ["PATIENT,isMSIH"], ["PATIENT,FILENAME"]
    for index in range(10):
        features = np.random.default_rng(index).normal(size=(4, 3)).astype(np.float32)
        features[:, index % 2] += 5
        write_stamp(tmp_path / f"s{index}.h5", features, np.zeros((4, 2), np.float32))
        clini.append(f"p{index},{('MSIH', 'nonMSIH')[index % 2]}")
        slides.append(f"p{index},s{index}.h5")
    (tmp_path / "clini.csv").write_text("\n".join([*clini, "p99,MSIH", ""]))
    (tmp_path / "slide.csv").write_text("\n".join([*slides, ""]))
    (tmp_path / "splits_0.csv").write_text(
        ",train,val,test\n0,s0,s4,s6\n1,s1,s5,s7\n2,s2,,\n3,s3,,\n"
    )
    tables = [str(tmp_path / "clini.csv"), "--slide-table", str(tmp_path / "slide.csv")]
    return [*tables, "--label", "isMSIH", "--bags", str(tmp_path)]


def test_stamp_s_tables_train_and_evaluate_and_the_rows_left_out_are_told(
    stamp: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    splits = ["--splits", str(tmp_path / "splits_0.csv")]
    assert run(["train", *stamp, *splits, "--out", out, "--epochs", "2", "--jobs", "1"]) == 0
    said = capsys.readouterr().err
    assert "left out: clini.csv line 12: patient p99 has no slide" in said
    assert "left out: slide.csv line 10: slide s8 is not in splits_0.csv" in said
    assert run(["evaluate", out, *stamp, *splits]) == 0
    assert "2 slides, 2 patients" in capsys.readouterr().out


def test_a_recipe_that_is_none_is_told_those_there_are(
    stamp: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", *stamp, "--out", str(tmp_path / "run"), "--config", "musk"]) == 2
    assert "musk1-abmil" in capsys.readouterr().err
