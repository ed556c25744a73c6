"""Files and folders become slides with names of their own."""

from pathlib import Path

import pytest

from sagdeploy.errors import ConfigError
from sagdeploy.files import SAFE_NAME
from sagdeploy.pipeline.inputs import collect_slides


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in [("b.svs", "1"), ("a.tiff", "2"), ("a.svs", "3"), ("notes.txt", "4")]:
        (tmp_path / name).write_text(content)
    return tmp_path


def test_a_folder_stands_for_its_slides_in_order(folder: Path) -> None:
    assert [slide.path.name for slide in collect_slides([folder])] == ["a.svs", "a.tiff", "b.svs"]


def test_slides_of_one_name_get_ids_of_their_own(folder: Path) -> None:
    ids = [slide.slide_id for slide in collect_slides([folder])]
    assert len(set(ids)) == 3
    assert ids[2] == "b"
    assert all(slide_id.startswith("a-") for slide_id in ids[:2])


def test_ids_do_not_depend_on_the_order(folder: Path) -> None:
    first = {slide.path: slide.slide_id for slide in collect_slides([folder])}
    again = collect_slides([folder / "b.svs", folder / "a.tiff", folder / "a.svs"])
    assert {slide.path: slide.slide_id for slide in again} == first


def test_the_same_slide_twice_is_two_results(folder: Path) -> None:
    (folder / "copy").mkdir()
    (folder / "copy" / "b.svs").write_text("1")
    ids = [s.slide_id for s in collect_slides([folder / "b.svs", folder / "copy" / "b.svs"])]
    assert len(set(ids)) == 2


def test_names_that_cannot_be_folders_become_safe(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("我 的.svs", "..svs.svs", "-rf.svs", "a b.svs")]
    ids = [slide.slide_id for slide in collect_slides(paths)]
    assert len(set(ids)) == 4
    assert all(SAFE_NAME.fullmatch(slide_id) for slide_id in ids)


def test_a_pseudonym_is_for_one_slide(folder: Path) -> None:
    (slide,) = collect_slides([folder / "b.svs"], "case-12")
    assert slide.slide_id == "case-12"
    with pytest.raises(ConfigError, match="3"):
        collect_slides([folder], "case-12")


def test_a_folder_without_slides_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no slides"):
        collect_slides([tmp_path])
