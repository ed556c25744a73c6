"""A small slide, wider than high, with one lesion up left, and a diagnosis made up for it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from sagdeploy.manifest import ExtractorCard, Manifest, ModelCard, Parity
from sagdeploy.pipeline.predict import Prediction, PredictOptions, SlideFacts, TissueFacts
from sagdeploy.serving.engine import Diagnosis
from sagdeploy.slides.metadata import Mpp
from sagdeploy.slides.slide import Slide, open_slide
from sagdeploy.slides.tiling import TilePlan, Tiles

SIZE_L0 = (1000, 650)
LESION = (slice(100, 200), slice(300, 400))
"""Rows and columns of the only dark red on the slide: exactly the hottest tile."""

HOTTEST_XY_L0 = (300, 100)

MakePrediction = Callable[..., Prediction]


@pytest.fixture(scope="session")
def lesion_pixels() -> NDArray[np.uint8]:
    """(650, 1000, 3) of the slide."""
    pixels = np.full((*SIZE_L0[::-1], 3), 240, np.uint8)
    pixels[LESION] = (120, 10, 40)
    return pixels


@pytest.fixture(scope="session")
def slide_path(tmp_path_factory: pytest.TempPathFactory, lesion_pixels: NDArray[np.uint8]) -> Path:
    path = tmp_path_factory.mktemp("slides") / "DOE_JANE_1955.tif"
    tifffile.imwrite(path, lesion_pixels, tile=(128, 128), photometric="rgb")
    return path


@pytest.fixture
def slide(slide_path: Path) -> Iterator[Slide]:
    with open_slide(slide_path) as opened:
        yield opened


@pytest.fixture(scope="session")
def make_prediction() -> MakePrediction:
    """Builds a prediction: `make_prediction(scales=2, slide_id=..., engine=..., ...)`."""
    return _prediction


@pytest.fixture
def prediction() -> Prediction:
    return _prediction()


def _prediction(*, scales: int = 1, temperature: float = 1.5, **changes: object) -> Prediction:
    tiles = tuple(_tiles(100 + 50 * scale, 0.5 + 0.25 * scale) for scale in range(scales))
    logits = np.array([-1.0, 2.0, 0.5], np.float32)
    odds = np.exp(logits / np.float32(temperature))
    base = Prediction(
        slide_id="slide-7",
        manifest=_manifest(tiles, temperature),
        diagnosis=Diagnosis(odds / odds.sum(), logits, tuple(_attention(t) for t in tiles)),
        tiles=tiles,
        tissue_coverage=tuple(np.linspace(0, 1, len(t)) for t in tiles),
        slide=SlideFacts(
            sha256="a1" * 32,
            size_bytes=1_938_955,
            size_l0=SIZE_L0,
            bounds_l0=(20, 30, 900, 600),
            mpp=Mpp(0.5, "metadata", 0.5),
            vendor="generic-tiff",
            objective_power=None,
            levels=(SIZE_L0,),
            missing_share=0.0,
        ),
        tissue=TissueFacts(0.25, 0.06),
        options=PredictOptions(),
        engine="Triton 2.51.0",
        counts={"tiles": sum(map(len, tiles))},
        warnings=(),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def _tiles(side: int, mpp: float) -> Tiles:
    x, y = (np.arange(0, length - side + 1, side) for length in SIZE_L0)
    corners = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return Tiles(corners.astype(np.int64), (side, side), (224, 224), mpp)


def _attention(tiles: Tiles) -> NDArray[np.float32]:
    """Falls with the distance from the lesion, by the tiles' corners."""
    distance = np.abs(tiles.xy_l0 - HOTTEST_XY_L0).sum(axis=1) + np.arange(len(tiles)) / 64
    odds = np.exp(-distance / 150)
    attention: NDArray[np.float32] = (odds / odds.sum()).astype(np.float32)
    return attention


def _manifest(tiles: tuple[Tiles, ...], temperature: float) -> Manifest:
    return Manifest(
        name="sag",
        version=3,
        classes=("normal", "naevus", "=melanoma<b>"),
        plan=TilePlan(mpp=tuple(t.mpp for t in tiles)),
        extractor=ExtractorCard(
            name="mobilenet_v2", features=1280, weights="ImageNet", sha256="b2" * 32
        ),
        temperature=temperature,
        diagnosis_sha256="c3" * 32,
        card=ModelCard(
            model="abmil",
            guidance=("hg",),
            seed=7,
            epoch=31,
            cohort_sha256="d4" * 32,
            slides={"train": 216, "val": 54},
            validation={"auc": 0.962},
        ),
        parity=Parity(tiles=(1,), extractor=(0.0,), diagnosis=(0.0,)),
        software={"torch": "2.13.0"},
    )
