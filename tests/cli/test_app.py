"""The command line is quick, needs no torch for a client, and keeps stdout for data."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from sagdeploy.cli.app import EXTRA_LIBRARIES, RESUMING, WAY, app, run
from sagdeploy.pipeline.journal import sole_writer

COMMANDS = [command.callback.__name__ for command in app.registered_commands if command.callback]

WITHOUT_EXTRAS = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {libraries}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from sagdeploy.cli.app import run
code = run({arguments})
print("torch" in sys.modules, file=sys.stderr)
sys.exit(code)
"""


def run_without_extras(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a fresh interpreter that has only the base installation."""
    libraries = set(EXTRA_LIBRARIES)
    code = WITHOUT_EXTRAS.format(libraries=libraries, arguments=list(arguments))
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_itself_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command, "--help"]) == 0
    assert f"Example: sagdeploy {command}" in " ".join(capsys.readouterr().out.split())


def test_every_command_has_its_line_and_place_in_the_help() -> None:
    assert list(WAY) == COMMANDS


@pytest.mark.parametrize("arguments", [["--quiet", "info"], ["info", "--quiet"]])
def test_quiet_may_stand_anywhere_and_leaves_results(
    arguments: list[str], painted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, str(painted), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["vendor"] == "generic-tiff"
    assert run(["synth", str(tmp_path / "a"), "--slides", "6", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert run(["info", "--quiet", str(tmp_path / "none.svs")]) == 3
    assert capsys.readouterr().err.startswith("error: ")


def test_quiet_leaves_diagnoses_on_stdout_and_failures_on_stderr(
    painted: Path, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--quiet", "predict", "--repository", str(repository), "--out", str(tmp_path / "o")]
    assert run([*command, str(painted)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{painted.stem}: ")
    assert said.err == ""
    (tmp_path / "bad.svs").write_bytes(b"")
    assert run([*command, str(tmp_path / "bad.svs")]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert "bad: " in said.err


def test_colour_is_for_terminals_that_want_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sagdeploy", "doctor", "--repository", str(tmp_path / "none")]
    for extra, coloured in (({"FORCE_COLOR": "1"}, True), ({"NO_COLOR": "1"}, False)):
        clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
        environment = clean | {"TERM": "xterm-256color"} | extra
        done = subprocess.run(command, capture_output=True, env=environment, check=True)
        assert (b"\x1b[3" in done.stdout) == coloured


def test_help_needs_no_extra_and_loads_little() -> None:
    code = f"""
import sys
from sagdeploy.cli.app import run
for command in {COMMANDS}:
    assert run([command, "--help"]) == 0
heavy = {{"torch", "numpy", "openslide", "onnxruntime", "rich.progress"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_predict_needs_no_extra(tmp_path: Path, painted: Path, repository: Path) -> None:
    out = tmp_path / "out"
    done = run_without_extras(
        "predict", str(painted), "--repository", str(repository), "--out", str(out), "--json"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("False\n")
    (record,) = json.loads(done.stdout)
    assert record["status"] == "done"


def test_a_command_without_its_extra_says_what_to_install(tmp_path: Path, cohort: Path) -> None:
    done = run_without_extras("train", str(cohort), "--bags", "b", "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "pip install 'sagdeploy[train]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sagdeploy", "info", str(tmp_path / "none.svs")]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False)
    assert plain.returncode == debug.returncode == 3
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr


def test_info_prints_json(painted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(painted), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["size_l0"] == [1504, 1104]
    assert facts["mpp"] == pytest.approx(0.5)
    assert facts["mpp_source"] == "metadata"
    assert 0.1 < facts["tissue_share"] < 0.9


def test_only_the_command_line_prints() -> None:
    package = Path(__file__).parents[2] / "sagdeploy"
    for path in package.rglob("*.py"):
        names = {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
        assert "print" not in names or path.parent.name == "cli", path


@pytest.mark.parametrize(
    "arguments", [["extract", "--extractor", "stain_texture", "--out"], ["guide", "--bags"]]
)
def test_a_folder_of_bags_has_one_writer_from_the_first_byte(
    arguments: list[str], cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *options = arguments
    with sole_writer(tmp_path):
        assert run([command, str(cohort), *options, str(tmp_path)]) == 7
    (line,) = capsys.readouterr().err.splitlines()
    assert "another run writes into it" in line
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("command", COMMANDS)
def test_only_a_command_that_resumes_says_so(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(typer.Typer, "__call__", interrupt)
    assert run([command, "--quiet"]) == 130
    said = "error: interrupted" + "; the same command resumes" * (command in RESUMING)
    assert capsys.readouterr().err == f"{said}\n"
    (registered,) = [c for c in app.registered_commands if WAY[command] == c.short_help]
    assert registered.callback is not None
    help_says_so = "the same command resumes" in (registered.callback.__doc__ or "")
    assert help_says_so == (command in RESUMING)


def test_a_run_says_at_the_end_what_bound_it(
    painted: Path, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(painted), "--repository", str(repository), "--out", str(tmp_path)]
    assert run(command) == 0
    said = capsys.readouterr().err
    assert re.search(r"1 slide in .* tiles, .* a second, (extractor|reader)-bound \d+ %", said)
    assert run(command) == 0
    assert "-bound" not in capsys.readouterr().err  # it was up to date
