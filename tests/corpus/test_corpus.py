"""Every bad input ends with the exit code and the one line that the table says."""

import json
import re
import time
from pathlib import Path

import pytest

from sagdeploy.cli.app import run
from sagdeploy.slides.slide import open_slide
from sagdeploy.slides.synthetic import SlideSpec, paint_slide
from tests.bigtiff import write_svs
from tests.corpus import other, slides
from tests.corpus.kit import Kit, Pixels
from tests.corpus.slides import Case

CASES = {case.name: case for case in (*slides.cases(), *other.cases())}
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Pixels:
    path = tmp_path_factory.mktemp("painted") / "slide.tiff"
    paint_slide(path, SlideSpec(seed=3, size_l0=(640, 470), grade=1.0))
    with open_slide(path) as slide:
        return slide.read((0, 0), slide.size_l0, slide.size_l0)


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory, pixels: Pixels) -> Path:
    folder = tmp_path_factory.mktemp("bags")
    slide = write_svs(folder / "slide.svs", pixels)
    options = ["--extractor", "stain_texture", "--tile-px", "112"]
    assert run(["extract", str(slide), *options, "--out", str(folder / "bags")]) == 0
    return folder / "bags"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_bad_input_ends_with_its_code_and_one_line(
    case: Case,
    tmp_path: Path,
    repository: Path,
    bags: Path,
    pixels: Pixels,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    kit = Kit(tmp_path, repository, bags, pixels)
    command = case.make(kit)
    begun = time.monotonic()
    code = run(command)
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if re.match(r"error: |\[1/1\]", line)]
    lines += said.out.splitlines()  # the diagnosis of a slide that is done
    assert time.monotonic() - begun < PATIENCE_S
    assert "Traceback" not in said.err
    assert code == 0 or said.out == ""
    assert not other.TRACE.exists()
    if code:
        assert len(lines) == 1, said.err
        assert lines[0].isprintable()
    assert (code, bool(re.search(case.message, lines[0] if lines else ""))) == (case.code, True), (
        lines
    )
    for record in tmp_path.glob("out/*/prediction.json"):
        assert (json.loads(record.read_text())["prediction"] is None) == (code != 0)


def test_there_are_enough_bad_inputs_and_each_has_a_name() -> None:
    every = [*slides.cases(), *other.cases()]
    assert len(CASES) == len(every) >= 60
