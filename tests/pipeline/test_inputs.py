"""Files and folders become slides with names of their own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagdeploy.errors import ConfigError
from sagdeploy.files import SAFE_NAME
from sagdeploy.pipeline.inputs import collect_slides, named_cohort
from tests import dicom


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in [("b.svs", "1"), ("a.tiff", "2"), ("a.svs", "3"), ("notes.txt", "4")]:
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.fixture
def nobody(folder: Path) -> Iterator[None]:
    """The folder, closed to whoever runs the test; root is nobody meanwhile."""
    user = os.geteuid()
    folder.chmod(0)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


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
    for reserved in ("run.json", "predictions.csv"):
        with pytest.raises(ConfigError, match=f"no slide can be called {reserved}"):
            collect_slides([folder / "b.svs"], reserved)


def test_a_folder_without_slides_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no slides"):
        collect_slides([tmp_path])


def test_a_pattern_stands_for_what_fits_it_below_folders_too(folder: Path) -> None:
    (folder / "ward" / "deep").mkdir(parents=True)
    for name in ("ward/c.svs", "ward/deep/d.svs", "ward/deep/e.txt"):
        (folder / name).write_text(name)
    (folder / "ward" / "loop").symlink_to(folder)
    found = collect_slides([folder / "**" / "*.svs"])
    assert [slide.path.name for slide in found] == ["a.svs", "b.svs", "c.svs", "d.svs"]
    with pytest.raises(ConfigError, match="no slide fits"):
        collect_slides([folder / "*.ndpi"])


@pytest.mark.parametrize("pattern", ["**.svs", "ward**/*.svs", "a***.svs"])
def test_two_stars_stand_alone_in_a_pattern(folder: Path, pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"\*\* stands for folders"):
        collect_slides([folder / pattern])


def test_a_folder_that_cannot_be_read_says_so(folder: Path, nobody: None) -> None:
    for path in (folder, folder / "*.svs"):
        with pytest.raises(ConfigError, match="Permission denied"):
            collect_slides([path])


def test_a_name_that_no_file_can_have_says_so(folder: Path) -> None:
    with pytest.raises(ConfigError, match="File name too long"):
        collect_slides([folder / ("x" * 300 + "*.svs")])


def test_the_dicom_files_of_one_series_are_one_slide(shared_data: Path, tmp_path: Path) -> None:
    whole, half = dicom.write_series(tmp_path / "one", shared_data / "slides" / dicom.NAME)
    other = tmp_path / "one" / "3.dcm"
    other.write_bytes(dicom.of_series(whole.read_bytes(), 9))
    (tmp_path / "one" / "0.dcm").write_text("no series")
    copy, _ = dicom.write_series(tmp_path / "two", whole)
    names = ["0.dcm", "1.dcm", "3.dcm"]
    assert [slide.path.name for slide in collect_slides([tmp_path / "one"])] == names
    below = collect_slides([tmp_path / "**" / "*"])
    assert [slide.path.name for slide in below] == [*names, "1.dcm"]
    assert below[-1].path == copy
    assert len({slide.slide_id for slide in below}) == 4
    by_a_shell = collect_slides([half, whole, other])
    assert [slide.path for slide in by_a_shell] == [half, other]
    assert len(named_cohort([tmp_path / "one"]).slides) == 3


def test_the_pixels_of_a_mirax_slide_are_no_slides(tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    for name in ("case.mrxs", "case/Slidedat.ini", "case/Data0000.dat", "case/preview.tif"):
        (tmp_path / name).write_text(name)
    (slide,) = collect_slides([tmp_path / "**" / "*"])
    assert slide.path.name == "case.mrxs"
    with pytest.raises(ConfigError, match="no slides in this folder"):
        collect_slides([tmp_path / "case"])


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(folder: Path) -> None:
    (folder / "[b].svs").write_text("5")
    (slide,) = collect_slides([folder / "[b].svs"])
    assert slide.path.name == "[b].svs"


def test_a_table_gives_ids_and_scales(folder: Path) -> None:
    table = folder / "cohort.csv"
    table.write_text("slide_id,slide_path,mpp\ncase-1,b.svs,0.3\ncase-2,a.svs,\n")
    slides = collect_slides([table, folder / "b.svs"])
    assert [(slide.slide_id, slide.path.name, slide.mpp) for slide in slides] == [
        ("case-1", "b.svs", 0.3),
        ("case-2", "a.svs", None),
        ("b", "b.svs", None),
    ]
    with pytest.raises(ConfigError, match="two tables"):
        collect_slides([table, table])


@given(st.lists(st.sampled_from(["a", "a-2", "a-3", "b", "run.json", "predictions.csv", "x" * 80])))
def test_ids_are_distinct_and_no_other_files_name(stems: list[str]) -> None:
    ids = [slide.slide_id for slide in collect_slides([Path(f"{stem}.svs") for stem in stems])]
    assert len({*ids, "run.json", "predictions.csv"}) == len(ids) + 2
    assert all(SAFE_NAME.fullmatch(slide_id) for slide_id in ids)
