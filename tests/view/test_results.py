"""Results are read back, and belong together by the slide's bytes."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from sagdeploy.errors import ConfigError
from sagdeploy.view.results import exhibits, read_results


def test_two_models_results_of_one_slide_stand_together(outs: tuple[Path, Path]) -> None:
    shown = exhibits([read_results(out) for out in outs])
    assert [exhibit.slide_id for exhibit in shown] == ["case-1", "case-2"]
    first, second = shown[0].results
    assert first != second
    assert None not in (first, second)
    assert shown[1].slide is None
    assert [result is None for result in shown[1].results] == [False, True]


def test_one_slide_s_folder_will_do(outs: tuple[Path, Path]) -> None:
    (result,) = read_results(outs[0] / "case-1")
    assert result.record.slide_id == "case-1"


def test_attention_is_read_back_as_it_was_written(outs: tuple[Path, Path]) -> None:
    result, _ = read_results(outs[0])
    (attention,) = result.attention()
    assert result.record.attention
    (facts,) = result.record.attention
    assert len(attention.attention) == facts.tiles
    assert attention.size_l0 == facts.tile_size_l0
    assert attention.attention.sum() == pytest.approx(1, abs=1e-6)
    hottest = int(np.argmax(attention.attention))
    assert tuple(attention.xy_l0[hottest]) == facts.top_tiles[0].xy_l0


def test_a_folder_without_results_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no results"):
        read_results(tmp_path)


def test_a_file_that_cannot_be_read_is_not_the_one_that_was_written(
    outs: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "case-1"
    shutil.copytree(outs[0] / "case-1", folder)
    (folder / "tiles.csv").unlink()
    (folder / "tiles.csv").symlink_to("/proc/self/mem")
    (result,) = read_results(tmp_path)
    with pytest.raises(ConfigError, match=r"tiles\.csv is not the file"):
        result.attention()


def test_a_record_that_is_not_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "prediction.json").write_text('{"schema_version": 9}')
    with pytest.raises(ConfigError, match=r"prediction\.json: not a record"):
        read_results(tmp_path)
