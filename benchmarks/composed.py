"""Slides composed of real H&E: crops of one field of BreCaHAD side by side on clear glass.

Every field is a patient, and no slide shows two of them, so that folds by patient never share
a field. A slide is of tumour-free crops; in half of the slides of each field one block is of
crops dense with tumour nuclei, and that is what the label says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sagdeploy.bags.cohort import CohortSlide, write_cohort
from sagdeploy.errors import CohortError
from sagdeploy.files import write_bytes
from sagdeploy.guidance.annotations import write_geojson
from sagdeploy.guidance.cells import cell_regions, read_cells
from sagdeploy.slides.pyramid import write_pyramid

MPP = 0.25
"""The fields were taken at 40x."""

CROP_PX = 160
STEP_PX = 16
DENSE = 4
"""Tumour nuclei in a crop from which on it is dense; one without any is free."""

SIZE_L0 = (2560, 2048)
TISSUE = (12, 9)
"""Columns and rows of crops."""

LESION = (4, 3)
"""Columns and rows of dense crops among them."""

CLASSES = ("free", "tumour")
SLIDES_PER_FIELD = 4

Pixels = NDArray[np.uint8]
Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """A square of a field."""

    rgb: Pixels
    """(CROP_PX, CROP_PX, 3)"""

    nuclei: Points
    """(N, 2) x, y of the tumour nuclei in it."""

    def turned(self, quarters: int, *, mirrored: bool) -> "Crop":
        """The crop turned against the clock, then mirrored left to right."""
        rgb, x, y = np.rot90(self.rgb, quarters), *self.nuclei.T
        for _ in range(quarters):
            x, y = y, CROP_PX - x
        if mirrored:
            rgb, x = rgb[:, ::-1], CROP_PX - x
        return Crop(rgb, np.column_stack([x, y]))


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """The crops of one field."""

    free: tuple[Crop, ...]
    """Without tumour nuclei."""

    dense: tuple[Crop, ...]


def compose_cohort(fields: Path, folder: Path, *, seed: int = 0) -> Path:
    """Compose slides of all fields of a folder; returns the path of `cohort.csv`, written last.

    fields: holds N.jpg and N-cells.csv, the x and y of every tumour nucleus
    The table names no split, and no annotation for slides without tumour. Lesions are the
    hulls of clusters of tumour nuclei, as guidance from cells draws them.
    """
    tables = sorted(fields.glob("*-cells.csv"))
    if not tables:
        raise CohortError(f"{fields}: no N-cells.csv", hint="pass --fields, a folder of BreCaHAD")
    rows = [row for table in tables for row in _slides_of(table, folder, seed)]
    write_cohort(folder / "cohort.csv", rows)
    return folder / "cohort.csv"


def _slides_of(table: Path, folder: Path, seed: int) -> Iterator[CohortSlide]:
    name = table.name.removesuffix("-cells.csv")
    with Image.open(table.with_name(f"{name}.jpg")) as image:
        field = _field(np.asarray(image.convert("RGB")), read_cells(table))
    for number in range(SLIDES_PER_FIELD):
        rng = np.random.default_rng((seed, int(name), number))
        label, slide_id = CLASSES[number % 2], f"{name}-{number}"
        path = folder / "slides" / f"{slide_id}.tif"
        rgb, nuclei = _compose(field, rng, with_lesion=label == "tumour")
        write_pyramid(path, partial(_part, rgb), size_l0=SIZE_L0, mpp=MPP)
        known = _write_known(folder, slide_id, nuclei) if len(nuclei) else (None, None)
        yield CohortSlide(slide_id, path, label, None, f"field-{name}", *known)


def _compose(field: Field, rng: np.random.Generator, *, with_lesion: bool) -> tuple[Pixels, Points]:
    """The pixels of a slide, and the tumour nuclei on it."""
    rgb, nuclei = _glass(rng), [np.empty((0, 2))]
    pairs = zip(SIZE_L0, TISSUE, strict=True)
    corner = [int(rng.integers(0, size - crops * CROP_PX)) for size, crops in pairs]
    block = [int(rng.integers(0, n - m + 1)) for n, m in zip(TISSUE, LESION, strict=True)]
    for row, column in np.ndindex(TISSUE[1], TISSUE[0]):
        place = zip((column, row), block, LESION, strict=True)
        is_dense = with_lesion and all(first <= at < first + n for at, first, n in place)
        crops = field.dense if is_dense else field.free
        crop = crops[rng.integers(len(crops))]
        crop = crop.turned(int(rng.integers(4)), mirrored=bool(rng.integers(2)))
        x, y = corner[0] + column * CROP_PX, corner[1] + row * CROP_PX
        rgb[y : y + CROP_PX, x : x + CROP_PX] = crop.rgb
        nuclei.append(np.add(crop.nuclei, (x, y)))
    return rgb, np.concatenate(nuclei)


def _write_known(folder: Path, slide_id: str, nuclei: Points) -> tuple[Path, Path]:
    """Write outlines of the lesion and its cells; returns the paths of both."""
    annotation = folder / "annotations" / f"{slide_id}.geojson"
    cells = folder / "cells" / f"{slide_id}.csv"
    write_geojson(annotation, cell_regions(nuclei, slide_mpp=MPP).regions)
    lines = "".join(f"{x:.1f},{y:.1f}\n" for x, y in nuclei.tolist())
    write_bytes(cells, f"x_l0,y_l0\n{lines}".encode())
    return annotation, cells


def _field(rgb: Pixels, nuclei: Points) -> Field:
    """The crops of a field that are free of tumour nuclei, and those dense with them."""
    height, width, _ = rgb.shape
    crops = []
    for y in range(0, height - CROP_PX + 1, STEP_PX):
        for x in range(0, width - CROP_PX + 1, STEP_PX):
            own = nuclei - (x, y)
            own = own[((own >= 0) & (own < CROP_PX)).all(axis=1)]
            crops.append(Crop(rgb[y : y + CROP_PX, x : x + CROP_PX], own))
    return Field(
        free=tuple(crop for crop in crops if not len(crop.nuclei)),
        dense=tuple(crop for crop in crops if len(crop.nuclei) >= DENSE),
    )


def _glass(rng: np.random.Generator) -> Pixels:
    width, height = SIZE_L0
    return np.rint(rng.normal(242, 1.5, (height, width, 3))).clip(0, 255).astype(np.uint8)


def _part(rgb: Pixels, xy: tuple[int, int], size: tuple[int, int]) -> Pixels:
    return rgb[xy[1] : xy[1] + size[1], xy[0] : xy[0] + size[0]]
