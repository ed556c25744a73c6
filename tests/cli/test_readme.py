"""What the README tells a user to type works, in the order in which it is told."""

import re
import shlex
from pathlib import Path

import pytest

from sagdeploy.cli.app import run

README = Path(__file__).parents[2] / "README.md"
MAKEFILE = README.with_name("Makefile")


def commands() -> list[str]:
    """Lines of the README's shell blocks, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(), re.S)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]


def test_the_readme_fits_one_screen() -> None:
    assert len(README.read_text().splitlines()) <= 80


def test_its_make_targets_exist() -> None:
    targets = [line.split()[1] for line in commands() if line.startswith("make ")]
    assert targets
    for target in targets:
        assert f"\n{target}:" in MAKEFILE.read_text()


def test_its_commands_work_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line for line in commands() if line.startswith("sagdeploy ")]
    assert len(lines) >= 8
    for line in lines:
        assert run(shlex.split(line)[1:]) == 0, line
    assert list(tmp_path.glob("out/*/report.html"))
