"""What all tests share: seeds, the Hypothesis profile, real data."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real slides, annotations and weights; skips where there is none."""
    folder = Path(os.environ.get("SAGDEPLOY_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data is not at {folder}: set SAGDEPLOY_TEST_DATA")
    return folder
