"""What all tests share: seeds, the Hypothesis profile, real data."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from sagdeploy.pipeline.synth import CohortSpec, paint_cohort
from sagdeploy.slides.synthetic import SlideSpec, paint_slide
from tests.untrained import publish_untrained

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parent.parent
CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real slides, annotations and weights; skips where there is none."""
    folder = Path(os.environ.get("SAGDEPLOY_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data is not at {folder}: set SAGDEPLOY_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A painted slide, wider than high, 1504 x 1104 px at 0.5 um."""
    path = tmp_path_factory.mktemp("painted") / "painted.tiff"
    paint_slide(path, SlideSpec(seed=3, size_l0=(1504, 1104), grade=1.0))
    return path


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`cohort.csv` of twelve small painted slides of two classes."""
    spec = CohortSpec(slides=12, size_l0=(1200, 880), seed=1)
    return paint_cohort(tmp_path_factory.mktemp("cohort"), spec)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with `sag` in it: an ABMIL that was never trained."""
    scratch = tmp_path_factory.mktemp("untrained")
    repository = scratch / "model_repository"
    publish_untrained(repository, scratch)
    return repository


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """A real Chromium without a window, which resolves no name; skips where there is none."""
    if not CHROMIUM.is_file():
        pytest.skip(f"{CHROMIUM} is missing: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            chromium_sandbox=os.getuid() != 0,  # Chromium has none for root
            args=["--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
        )
        yield browser
        browser.close()
