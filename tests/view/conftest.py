"""A slide with one lesion, and what two models made of it: one looks at it, one beside it."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
import tifffile

from sagdeploy.pipeline.outcome import SlideOutcome
from sagdeploy.pipeline.predict import PredictOptions, predict_slide
from sagdeploy.report.folder import write_failure, write_results
from sagdeploy.serving.local import LocalEngine
from sagdeploy.slides.slide import open_slide
from sagdeploy.view.matching import SlideFinder
from sagdeploy.view.results import exhibits, read_results
from sagdeploy.view.server import listening
from sagdeploy.view.site import Site

LESION_XY_L0, BESIDE_XY_L0 = (336, 224), (784, 448)
"""Two of the tiles, of 112 px a side."""

LESION_RGB = (120, 10, 40)


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the slide, 1344 x 896 px at 0.5 um, under a name that nobody should see."""
    rng = np.random.default_rng(5)
    pixels = np.full((896, 1344, 3), 244, np.uint8)
    pixels[56:784, 112:1232] = (214, 160, 190) - rng.integers(0, 12, (728, 1120, 1))
    pixels[224:336, 336:448] = LESION_RGB
    folder = tmp_path_factory.mktemp("slides")
    tifffile.imwrite(
        folder / "DOE_JANE_1955.tif",
        pixels,
        tile=(256, 256),
        photometric="rgb",
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
    )
    return folder


@pytest.fixture(scope="session")
def outs(
    tmp_path_factory: pytest.TempPathFactory, slides: Path, repository: Path
) -> tuple[Path, Path]:
    """Folders of results: of a model that looks at the lesion, and of one that looks beside it."""
    folder = tmp_path_factory.mktemp("results")
    engine = LocalEngine(repository)
    with open_slide(slides / "DOE_JANE_1955.tif") as slide:
        manifest = engine.manifest("sag")
        prediction = predict_slide(slide, "case-1", engine, manifest, PredictOptions(mpp=0.5))
        (tiles,) = prediction.tiles
        for name, hottest in (("guided", LESION_XY_L0), ("unguided", BESIDE_XY_L0)):
            odds = np.exp(-np.abs(tiles.xy_l0 - hottest).sum(axis=1) / 200)
            attention = (odds / odds.sum()).astype(np.float32)
            diagnosis = replace(prediction.diagnosis, attention=(attention,))
            write_results(replace(prediction, diagnosis=diagnosis), slide, folder / name / "case-1")
    write_failure(SlideOutcome("case-2", "failed", 3, "case-2: corrupt"), folder / "guided/case-2")
    return folder / "guided", folder / "unguided"


class Viewer(NamedTuple):
    """A viewer that is being served."""

    address: str
    """With its token."""

    @property
    def port(self) -> int:
        """Where it listens."""
        return urlsplit(self.address).port or 0

    @property
    def token(self) -> str:
        """What its first request must bring."""
        return urlsplit(self.address).query.removeprefix("token=")


@pytest.fixture(scope="session")
def viewer(outs: tuple[Path, Path], slides: Path) -> Iterator[Viewer]:
    site = Site(exhibits([read_results(out) for out in outs]), SlideFinder([slides]))
    with listening(site) as (address, serve_forever):
        threading.Thread(target=serve_forever, daemon=True).start()
        yield Viewer(address)
