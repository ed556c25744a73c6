"""Slides are known by their bytes, not by their names."""

import os
import shutil
import threading
from pathlib import Path

import pytest

from sagdeploy.errors import SlideError
from sagdeploy.report.record import SlideRecord
from sagdeploy.view.matching import OncePerFile, SlideFinder
from sagdeploy.view.results import read_results

UNREADABLE = Path("/proc/self/mem")
"""A regular file, of which nobody can read the beginning."""


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


def test_once_a_slide_is_found_no_other_file_is_looked_at(
    slides: Path, slide: SlideRecord, tmp_path: Path
) -> None:
    named = tmp_path / "case-1.tif"
    named.write_text("another slide")
    shutil.copy(slides / "DOE_JANE_1955.tif", tmp_path / "z.tif")
    finder = SlideFinder([tmp_path])
    assert finder.find("case-1", slide) == tmp_path / "z.tif"
    named.unlink()
    named.symlink_to(UNREADABLE)
    assert finder.find("case-1", slide) == tmp_path / "z.tif"
    (tmp_path / "z.tif").unlink()
    with pytest.raises(SlideError, match=r"case-1: .* cannot be read"):
        finder.find("case-1", slide)


def test_a_slide_is_found_while_another_is_hashed(
    slides: Path, slide: SlideRecord, tmp_path: Path
) -> None:
    shutil.copy(slides / "DOE_JANE_1955.tif", tmp_path / "case-1.tif")
    (tmp_path / "case-2.tif").touch()
    os.truncate(tmp_path / "case-2.tif", 1 << 40)  # of nothing: it would take minutes
    finder = SlideFinder([tmp_path])
    new, known = (
        threading.Thread(target=finder.find, args=(name, slide)) for name in ("case-2", "case-1")
    )
    new.start()
    new.join(0.2)
    known.start()
    known.join(20)
    waits = [new.is_alive(), known.is_alive()]
    os.truncate(tmp_path / "case-2.tif", 0)
    new.join()
    known.join()
    assert waits == [True, False]


def test_a_file_is_hashed_once_however_many_ask(tmp_path: Path) -> None:
    asked: list[Path] = []
    first, go_on = threading.Event(), threading.Event()

    def ask(path: Path) -> int:
        asked.append(path)
        first.set()
        go_on.wait()
        return 7

    once, answers = OncePerFile(ask), list[int]()
    identity = (tmp_path, 1, 1)
    threads = [threading.Thread(target=lambda: answers.append(once(identity))) for _ in range(4)]
    for thread in threads:
        thread.start()
    first.wait()
    go_on.set()
    for thread in threads:
        thread.join()
    assert (asked, answers) == ([tmp_path], [7] * 4)
