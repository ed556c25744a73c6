"""A slide is all of its files: each of them counts, whichever of them names it."""

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sagdeploy.errors import SlideError
from sagdeploy.files import sha256_of
from sagdeploy.slides.slide import open_slide
from sagdeploy.slides.source import hash_slide, size_of, unchanged
from tests import dicom


def mirax(folder: Path, name: str = "case") -> Path:
    (folder / name).mkdir(parents=True)
    for file in ("Slidedat.ini", "Index.dat", "Data0000.dat", "Data0001.dat", "notes.txt"):
        (folder / name / file).write_text(f"of {file}")
    path = folder / f"{name}.mrxs"
    path.write_text("a picture")
    return path


def hamamatsu(folder: Path) -> Path:
    for name in ("a.jpg", "a(1,0).jpg", "a.opt", "other.jpg"):
        (folder / name).write_text(f"of {name}")
    path = folder / "case.vms"
    path.write_text(
        "[Virtual Microscope Specimen]\r\nNoJpegColumns=2\r\nImageFile=a.jpg\r\n"
        "ImageFile(1,0)=a(1,0).jpg\r\nOptimisationFile = a.opt\r\nMapFile=../other.jpg\r\n"
    )
    return path


def dicom_slide(folder: Path) -> Path:
    """Two instances of a series, one of another and a note; headers alone."""
    uid = b"\x20\0\x0e\0UI\x04\0"
    for name, series in (("1.dcm", b"1.2\0"), ("2", b"1.2\0"), ("other.dcm", b"1.3\0")):
        (folder / name).write_bytes(bytes(128) + b"DICM" + uid + series + name.encode())
    (folder / "notes.txt").write_text("a note")
    return folder / "1.dcm"


MADE = [
    (mirax, "case/Data0001.dat", "case/notes.txt"),
    (mirax, "case/Slidedat.ini", "case/notes.txt"),
    (hamamatsu, "a(1,0).jpg", "other.jpg"),
    (hamamatsu, "a.opt", "other.jpg"),
    (dicom_slide, "2", "other.dcm"),
    (dicom_slide, "1.dcm", "notes.txt"),
]


def test_a_slide_of_one_file_is_known_by_its_bytes(tmp_path: Path, painted: Path) -> None:
    lone = tmp_path / "lone.mrxs"
    lone.write_text("without its folder")
    for path in (painted, lone):
        assert hash_slide(path) == sha256_of(path)
        assert size_of(path) == path.stat().st_size


@pytest.mark.parametrize(("make", "own", "foreign"), MADE)
def test_every_file_of_a_slide_counts_and_no_other(
    make: Callable[[Path], Path], own: str, foreign: str, tmp_path: Path
) -> None:
    path = make(tmp_path)
    before, size = hash_slide(path), size_of(path)
    with unchanged(path) as source, (tmp_path / foreign).open("a") as file:
        file.write("more")
    assert (source.sha256, source.size_bytes) == (hash_slide(path), size_of(path))
    assert (source.sha256, source.size_bytes) == (before, size)
    with (
        pytest.raises(SlideError, match="changed while it was read"),
        unchanged(path),
        (tmp_path / own).open("a") as file,
    ):
        file.write("more")
    assert hash_slide(path) != before
    assert size_of(path) == size + 4


def test_a_file_that_comes_while_a_slide_is_read_changes_it(tmp_path: Path) -> None:
    path = mirax(tmp_path)
    with pytest.raises(SlideError, match="changed"), unchanged(path):
        (tmp_path / "case" / "Data0002.dat").write_text("more")


def test_the_hash_of_several_files_is_that_of_their_list(tmp_path: Path) -> None:
    path = dicom_slide(tmp_path)
    listed = subprocess.run(
        ["sha256sum", "1.dcm", "2"], cwd=tmp_path, check=True, capture_output=True
    ).stdout
    assert hash_slide(path) == hash_slide(tmp_path / "2") == hashlib.sha256(listed).hexdigest()
    assert size_of(path) == sum((tmp_path / name).stat().st_size for name in ("1.dcm", "2"))


def test_a_slide_that_is_renamed_is_the_same(tmp_path: Path) -> None:
    one, two = mirax(tmp_path / "here"), mirax(tmp_path / "there", "pseudonym")
    assert hash_slide(one) == hash_slide(two) != sha256_of(one)


def test_the_levels_of_a_real_dicom_slide_count(shared_data: Path, tmp_path: Path) -> None:
    whole, half = dicom.write_series(tmp_path, shared_data / "slides" / dicom.NAME)
    with open_slide(half) as slide:
        assert [level.size for level in slide.levels] == [(1152, 700), dicom.HALF]
        assert slide.read((0, 0), slide.size_l0, dicom.HALF).std() > 10
    assert hash_slide(whole) == hash_slide(half) != sha256_of(whole)
    half.write_bytes(dicom.of_series(half.read_bytes(), 9))
    assert hash_slide(whole) == sha256_of(whole)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mrxs")
    for name, reason in (("fifo.mrxs", "not a regular file"), ("none.vms", "No such file")):
        for ask in (hash_slide, size_of):
            with pytest.raises(SlideError, match=f"{name}: {reason}"):
                ask(tmp_path / name)
