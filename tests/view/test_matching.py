"""Slides are known by their bytes, not by their names."""

import shutil
from pathlib import Path

import pytest

from sagdeploy.report.record import SlideRecord
from sagdeploy.view.matching import SlideFinder
from sagdeploy.view.results import read_results


@pytest.fixture
def slide(outs: tuple[Path, Path]) -> SlideRecord:
    found = read_results(outs[0])[0].record.slide
    assert found
    return found


def test_a_renamed_slide_is_found_among_others(
    slides: Path, painted: Path, slide: SlideRecord, tmp_path: Path
) -> None:
    shutil.copy(painted, tmp_path / "case-1.tiff")  # the right name, another slide
    shutil.copy(slides / "DOE_JANE_1955.tif", tmp_path / "z.tif")
    (tmp_path / "a.svs").write_text("no slide")
    assert SlideFinder([tmp_path]).find("case-1", slide) == tmp_path / "z.tif"


def test_one_changed_byte_is_another_slide(
    slides: Path, slide: SlideRecord, tmp_path: Path
) -> None:
    data = bytearray((slides / "DOE_JANE_1955.tif").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "case-1.tif").write_bytes(data)
    assert SlideFinder([tmp_path]).find("case-1", slide) is None


def test_a_slide_that_arrives_later_is_found(
    slides: Path, slide: SlideRecord, tmp_path: Path
) -> None:
    file = tmp_path / "case-1.tif"
    file.write_bytes(b"still copying")
    finder = SlideFinder([tmp_path])
    assert finder.find("case-1", slide) is None
    shutil.copy(slides / "DOE_JANE_1955.tif", file)
    assert finder.find("case-1", slide) == file


def test_without_a_folder_nothing_is_found(slide: SlideRecord) -> None:
    assert SlideFinder([]).find("case-1", slide) is None
