"""What README and documentation tell a user to type works, in one painted cohort, page by page."""

import re
import shlex
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

from sagdeploy.cli.app import app, run
from sagdeploy.config import read_settings

ROOT = Path(__file__).parents[2]
README, FORMATS = ROOT / "README.md", ROOT / "docs" / "formats.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [page.name for page in PAGES]

WHY_NOT_RUN = {
    "it takes minutes; CI runs it",
    "it installs packages",
    "it waits for a browser",
    "it needs Docker",
    "it needs a cluster",
    "it downloads a server and runs until it is stopped",
    "it needs your own ONNX file",
    "it needs real slides",
    "the tutorial runs its like",
    "tests/cli/test_other_tables.py runs it on such tables",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    kind: str
    text: str
    note: str
    """The comment right above it."""

    @property
    def commands(self) -> list[str]:
        """Its lines, without prompts and comments."""
        lines = (line.removeprefix("$ ").split("  #")[0] for line in self.text.splitlines())
        return [line.strip() for line in lines if line.strip()]


def blocks(page: Path, *kinds: str) -> list[Block]:
    found = re.findall(r"(?:<!-- (.*?) -->\n)?```(\S+)\n(.*?)```", page.read_text(), re.S)
    return [Block(kind, text, note) for note, kind, text in found if kind in kinds]


def arguments_of(line: str) -> list[str] | None:
    """What follows `sagdeploy`; None for another program's line."""
    words = shlex.split(line)
    while words and "=" in words[0]:
        del words[0]
    return words[1:] if words and words[0] == "sagdeploy" else None


@dataclass(frozen=True)
class Workshop:
    """A folder in which pages are followed, each line of them once."""

    folder: Path
    followed: set[str] = field(default_factory=set)

    def follow(self, page: Path) -> None:
        """Run a page's own commands; make and pip are other tests' business."""
        for line in (line for block in blocks(page, "sh") for line in block.commands):
            arguments = arguments_of(line)
            if arguments is not None and line not in self.followed:
                assert run(arguments) == 0, line
                self.followed.add(line)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """What the README's commands leave behind."""
    workshop = Workshop(tmp_path_factory.mktemp("workshop"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workshop.folder)
        workshop.follow(README)
    return workshop


def write_files(page: Path) -> None:
    """Write the files that a page shows, each with its name in its first line."""
    for block in blocks(page, "python"):
        name = re.match(r"# (\S+\.py)\n", block.text)
        assert name, "say in the first line what the file is called"
        Path(name[1]).write_text(block.text)


def test_the_readme_leaves_a_report(workshop: Workshop) -> None:
    assert len(workshop.followed) >= 8
    assert list(workshop.folder.glob("out/*/report.html"))


@pytest.mark.parametrize("page", [p for p in PAGES[1:] if blocks(p, "sh")], ids=lambda p: p.name)
def test_a_page_s_commands_work(
    page: Path, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop.folder)
    monkeypatch.syspath_prepend(workshop.folder)
    write_files(page)
    workshop.follow(page)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_what_is_not_run_says_why_and_exists(page: Path) -> None:
    for block in blocks(page, "console"):
        kind, _, reason = block.note.partition(": ")
        assert reason in WHY_NOT_RUN or kind.startswith("fails with "), block
        for line in block.commands:
            arguments = arguments_of(line)
            if arguments is not None:
                check_options(arguments)


def check_options(arguments: list[str]) -> None:
    """Raises where a command, or one of its options, is not there."""
    group: Any = typer.main.get_command(app)
    command = group.commands[arguments[0]]
    command.make_parser(command.context_class(command)).parse_args(arguments[1:])


def test_an_option_that_is_not_there_would_be_noticed() -> None:
    with pytest.raises(typer.TyperException, match="--modle"):
        check_options(["predict", "slide.svs", "--modle", "sag"])


def test_errors_that_are_shown_are_the_real_ones(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workshop.folder)
    shown = 0
    for page in PAGES:
        found = blocks(page, "console", "text")
        for block, after in pairwise(found):
            if block.note.startswith("fails with "):
                code = run(arguments_of(block.commands[0]) or [])
                assert code == int(block.note.removeprefix("fails with "))
                assert capsys.readouterr().err == after.text
                shown += 1
    assert shown


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_help_is_asked_of_the_program_and_never_pasted(page: Path) -> None:
    assert "Usage: sagdeploy" not in page.read_text()


def test_every_command_has_its_help_in_the_documentation() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    shown = re.findall(r"```\{command-help\} (\w+)\n```", text)
    group: Any = typer.main.get_command(app)
    assert shown == list(group.commands)


def test_settings_that_are_shown_are_settings(tmp_path: Path) -> None:
    for page in PAGES:
        for block in blocks(page, "toml"):
            (tmp_path / "shown.toml").write_text(block.text)
            assert read_settings(tmp_path / "shown.toml")


def test_every_file_that_the_commands_write_is_described(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop.folder)
    assert run(["compare", "run", "--out", "comparison-of-one"]) == 0
    folders = ("run", "run/seed_0", "out", "out/slide-001", "comparison-of-one")
    described = FORMATS.read_text()
    for path in (path for folder in folders for path in Path(folder).iterdir() if path.is_file()):
        if path.name[0] != ".":
            assert path.name.replace("_test.", "_<split>.") in described, path
