"""A toy cohort that can be learned: a few tiles of each slide carry the pattern of its class."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sagdeploy.bags.bag import Bag, BagHeader, Magnification
from sagdeploy.bags.bagfile import write_bag
from sagdeploy.bags.cohort import Cohort, CohortSlide, read_cohort, write_cohort
from sagdeploy.manifest import ExtractorCard
from sagdeploy.slides.tiling import TilePlan, Tiles

CLASSES = ("benign", "tumour")
FEATURES = 6


Toy = tuple[Cohort, Path]
MakeToy = Callable[..., Toy]


def toy_bag(
    slide_id: str,
    label: int,
    *,
    tiles: int,
    seed: int,
    mpp: tuple[float, ...] = (0.5,),
    sha256: str = "e" * 64,
    signal: float = 3.0,
) -> Bag:
    """A bag whose first three tiles show its class, and are its annotated region."""
    rng = np.random.default_rng(seed)
    plan = TilePlan(kind="grid", grid=(7,) * len(mpp), mpp=mpp)
    card = ExtractorCard(name="toy", features=FEATURES, weights="none", sha256=sha256)
    header = BagHeader(
        slide_id=slide_id,
        slide_size_l0=(3000, 2000),
        mpp=0.25,
        mpp_source="metadata",
        plan=plan,
        extractor=card,
        slide_sha256=f"{seed:064x}",
    )
    magnifications = [
        _magnification(rng, label, tiles + 2 * s, value, signal) for s, value in enumerate(mpp)
    ]
    return Bag(header, tuple(magnifications))


def _magnification(
    rng: np.random.Generator, label: int, tiles: int, mpp: float, signal: float
) -> Magnification:
    features = rng.normal(size=(tiles, FEATURES)).astype(np.float32)
    features[:3, label] += signal
    heuristic = np.zeros(tiles)
    heuristic[:3] = (1.0, 0.75, 0.5) if label else 0.0
    tissue = np.ones(tiles)
    tissue[-2:] = 0.0
    xy = np.stack([np.arange(tiles) * 448, np.arange(tiles) * 3], axis=1)
    return Magnification(
        tiles=Tiles(xy_l0=xy, size_l0=(448, 448), size_px=(224, 224), mpp=mpp),
        features=features,
        tissue_coverage=tissue,
        heuristic_coverage=heuristic,
    )


def write_toy(
    parent: Path,
    *,
    train: int = 12,
    val: int = 4,
    test: int = 6,
    named: bool = True,
    mpp: tuple[float, ...] = (0.5,),
    signal: float = 3.0,
    folder: str = "toy",
) -> Toy:
    """Bags of slides that alternate between the classes, each of its own patient."""
    bags = parent / folder
    slides = []
    for index, split in enumerate(["train"] * train + ["val"] * val + ["test"] * test):
        label = index % 2
        slide = CohortSlide(
            slide_id=f"s{(index * 7) % 100:02d}",
            slide_path=parent / f"s{index}.svs",
            label=CLASSES[label],
            split=split if named else None,
            patient_id=f"p{index}",
        )
        bag = toy_bag(
            slide.slide_id, label, tiles=8 + index % 5, seed=index, mpp=mpp, signal=signal
        )
        write_bag(bags / f"{slide.slide_id}.h5", bag)
        slides.append(slide)
    table = parent / f"{folder}.csv"
    write_cohort(table, slides)
    return read_cohort(table), bags


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A cohort and its bags, for tests that only read them."""
    return write_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def make_toy(tmp_path: Path) -> MakeToy:
    """Writes a cohort and its bags, and returns both: `make_toy(train=12, val=4, test=6)`."""
    return partial(write_toy, tmp_path)
