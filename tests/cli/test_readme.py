"""The README is short and names what is there; tests/docs runs what it tells a user to type."""

import re
from pathlib import Path

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
