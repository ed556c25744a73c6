"""Painted slides: for tests, and for a demonstration that needs nobody's data."""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Final

from sagdeploy.errors import ConfigError
from sagdeploy.slides.anatomy import Cells, join
from sagdeploy.slides.artefacts import PENS, Pen
from sagdeploy.slides.lattice import Box, Floats
from sagdeploy.slides.painting import plan_painting
from sagdeploy.slides.pyramid import write_pyramid

MIN_SIDE_L0: Final = 64
MPP_RANGE: Final = (0.1, 4.0)
"""Beyond these, nuclei are no longer drawn: too large for their textures, or below a pixel."""


@dataclass(frozen=True, slots=True)
class SlideSpec:
    """What decides every pixel of a painted slide."""

    seed: int
    """Places and colours of everything; no other field moves the tissue or its lesion."""

    size_l0: tuple[int, int] = (2592, 1904)
    """(width, height); multiples of 16 keep the smaller levels' downsamples whole."""

    mpp: float = 0.5

    grade: float = 0.0
    """Look of the lesion's nuclei: 0 small, pale and alike, 1 large, dark and unlike."""

    pen: Pen | None = "blue"
    """Colour of a stroke of ink on the glass beside the tissue."""

    pen_touches: bool = False
    """Whether the stroke runs across a corner of the box around the tissue, which grids cover."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}")
        if min(self.size_l0) < MIN_SIDE_L0:
            raise ConfigError(f"size_l0 must be at least {MIN_SIDE_L0} a side, got {self.size_l0}")
        if not (isfinite(self.mpp) and MPP_RANGE[0] <= self.mpp <= MPP_RANGE[1]):
            raise ConfigError(f"mpp must be in {MPP_RANGE[0]}..{MPP_RANGE[1]}, got {self.mpp}")
        if not 0 <= self.grade <= 1:
            raise ConfigError(f"grade must be in 0..1, got {self.grade}")
        if self.pen is not None and self.pen not in PENS:
            raise ConfigError(f"pen must be one of {', '.join(PENS)}, got {self.pen!r}")


@dataclass(frozen=True, slots=True, eq=False)
class PaintedSlide:
    """What is known of a slide because it was painted."""

    tissue_l0: Floats
    """(V, 2) outline of the tissue, without its ragged edge."""

    lesion_l0: Floats
    """(V, 2) outline of the lesion, as a pathologist would draw it."""

    cells: Cells


def paint_slide(path: Path, spec: SlideSpec) -> PaintedSlide:
    """Paint a slide into a pyramidal TIFF at `path`, and tell what is on it."""
    painting = plan_painting(
        seed=spec.seed,
        size_l0=spec.size_l0,
        mpp=spec.mpp,
        grade=spec.grade,
        pen=spec.pen,
        pen_touches=spec.pen_touches,
    )
    write_pyramid(path, painting.region, size_l0=spec.size_l0, mpp=spec.mpp)
    width, height = spec.size_l0
    bands = [Box(0, y, width, min(1024, height - y)) for y in range(0, height, 1024)]
    return PaintedSlide(
        painting.anatomy.tissue.vertices,
        painting.anatomy.lesion.vertices,
        join([painting.anatomy.cells(band) for band in bands]),
    )
