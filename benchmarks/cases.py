"""Models, and bags of noise of the sizes that they are timed on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sagdeploy.bags.bag import Bag, BagHeader, Magnification
from sagdeploy.bags.bagfile import write_bag
from sagdeploy.bags.cohort import CohortSlide, read_cohort, write_cohort
from sagdeploy.config import TrainSettings, read_settings
from sagdeploy.manifest import ExtractorCard
from sagdeploy.slides.tiling import TilePlan, Tiles
from sagdeploy.training.dataset import Bags, open_bags

CLASSES = ("a", "b", "c", "d")


@dataclass(frozen=True, slots=True)
class Case:
    """A model and the bags that it is timed on."""

    name: str
    recipe: str
    tiles: tuple[int, ...]
    """A slide, one number a magnification."""

    features: int
    batch: int
    """Slides a step."""

    def settings(self, *, epochs: int = 1, **guidance: str) -> TrainSettings:
        """The recipe's, with as many slides a step as the case has."""
        values = read_settings(Path(self.recipe)).model_dump()
        values["optim"] |= {"bag_batch": self.batch, "epochs": epochs}
        values["guidance"] |= guidance
        values["select_by"], values["validation_share"] = "last", 0.0
        return TrainSettings.model_validate(values)

    def write(self, folder: Path, slides: int) -> Path:
        """Bags of noise with guidance, and their cohort; returns the path of the table."""
        rng = np.random.default_rng(0)
        rows = []
        for index in range(slides):
            slide_id = f"slide_{index:02d}"
            write_bag(folder / "bags" / f"{slide_id}.h5", self._bag(slide_id, rng))
            rows.append(CohortSlide(slide_id, None, CLASSES[index % 4], "train"))
        write_cohort(folder / "cohort.csv", rows)
        return folder / "cohort.csv"

    def open(self, folder: Path, slides: int) -> Bags:
        """The same in memory."""
        cohort = read_cohort(self.write(folder, slides), classes=CLASSES, need_paths=False)
        return open_bags(cohort.slides, folder / "bags", classes=cohort.classes)

    def _bag(self, slide_id: str, rng: np.random.Generator) -> Bag:
        mpp = tuple(1.0 + index for index in range(len(self.tiles)))
        header = BagHeader(
            slide_id=slide_id,
            slide_size_l0=(100_000, 80_000),
            mpp=0.25,
            mpp_source="metadata",
            plan=TilePlan("grid", mpp, grid=(7,) * len(mpp)),
            extractor=ExtractorCard(
                name="noise", features=self.features, weights="none", sha256="e" * 64
            ),
            slide_sha256=f"{int(slide_id[-2:]):064x}",
        )
        return Bag(header, tuple(self._magnification(tiles, rng) for tiles in self.tiles))

    def _magnification(self, tiles: int, rng: np.random.Generator) -> Magnification:
        at = np.column_stack([np.arange(tiles) * 8, np.arange(tiles)])
        return Magnification(
            tiles=Tiles(xy_l0=at, size_l0=(8, 8), size_px=(224, 224), mpp=1.0),
            features=rng.standard_normal((tiles, self.features), np.float32),
            tissue_coverage=(rng.random(tiles) > 0.4).astype(np.float64),
            heuristic_coverage=rng.random(tiles) * (rng.random(tiles) > 0.8),
        )
