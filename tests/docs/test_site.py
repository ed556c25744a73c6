"""The documentation builds without a warning, and its pages stand alone."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.page_watch import watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

DOCS = Path(__file__).parents[2] / "docs"
NEEDED = ("sphinx", "myst_parser", "furo")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built with warnings as errors."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed: pip install 'sagdeploy[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    done = subprocess.run(
        [*command, str(DOCS), str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out


def test_no_page_asks_anything_of_anyone(site: Path, browser: "Browser") -> None:
    with watched(browser) as seen:
        for name in ("index", "commands", "api/slides", "search"):
            seen.page.goto((site / f"{name}.html").as_uri())
        assert seen.complaints == []
        assert all(address.startswith(("file:///", "data:")) for address in seen.requests)


def test_links_lead_to_pages_that_are_there(site: Path) -> None:
    for page in site.glob("*.html"):
        for address in re.findall(r'href="([^"#:?]+)[^":]*"', page.read_text()):
            assert (page.parent / address).exists(), f"{page.name}: {address}"


def test_the_schemas_are_schemas(site: Path) -> None:
    linked = {
        n for page in DOCS.glob("*.md") for n in re.findall(r"schema:([\w-]+)", page.read_text())
    }
    written = {path.name.split(".")[0] for path in (site / "schemas").iterdir()}
    assert linked == written
    for path in (site / "schemas").iterdir():
        assert json.loads(path.read_text())["type"] == "object"


def test_the_reference_shows_what_a_signature_cannot_say(site: Path) -> None:
    text = (site / "api" / "slides.html").read_text()
    assert "corners, row by row" in text or "(N, 2)" in text
    assert "NDArray" in text
