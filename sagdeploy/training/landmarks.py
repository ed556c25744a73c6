"""What is known about the slides of a split beside their bags: lesions and cells.

It is read for measuring attention only; no model is given any of it. A file that is not there
leaves a measure out, and it is said which and why; a file that is damaged is an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sagdeploy.guidance.annotations import read_annotations
from sagdeploy.guidance.lesions import Lesions, find_lesions
from sagdeploy.guidance.masks import SUFFIXES
from sagdeploy.pipeline.heuristic import cells_of
from sagdeploy.training.dataset import Bags, BagSource


@dataclass(frozen=True, slots=True, eq=False)
class Landmarks:
    """What is known about some slides, by their ids."""

    lesions: Mapping[str, Lesions] = field(default_factory=dict)
    cells: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """(M, 2) x, y at level 0"""

    normal: frozenset[int] = frozenset()
    """The classes none of whose slides has an annotation; empty where no lesion is known."""

    left_out: Mapping[str, str] = field(default_factory=dict)
    """Measures that cannot be taken, and why."""


def read_landmarks(bags: Bags) -> Landmarks:
    """What the cohort's annotations and cells say of the slides of `bags`."""
    left_out = {}
    lesions = {
        source.slide.slide_id: find_lesions(
            read_annotations(path).regions, slide_mpp=source.slide_mpp
        )
        for source in bags.sources
        if (path := _outlines(source)) is not None and source.slide_mpp is not None
    }
    normal = frozenset(bags.labels) - {
        source.label for source in bags.sources if source.slide.annotation_path is not None
    }
    if not any(len(found.outlines) for found in lesions.values()):
        left_out["froc"] = "no slide has outlines of lesions that can be read"
    elif not normal:
        left_out["froc"] = "slides of every class have annotations: none is free of lesions"
    cells = {
        source.slide.slide_id: found
        for source in bags.sources
        if (found := _cells(source)) is not None
    }
    if not cells:
        left_out["nuclear density"] = "no slide has cells that can be read"
    return Landmarks(lesions, cells, frozenset() if "froc" in left_out else normal, left_out)


def _cells(source: BagSource) -> NDArray[np.float64] | None:
    """Centres of a slide's cells (M, 2), None where the cohort names no file that is there."""
    path, size_l0, mpp = source.slide.cells_path, source.slide_size_l0, source.slide_mpp
    if path is None or not path.is_file() or size_l0 is None or mpp is None:
        return None
    return cells_of(source.slide, size_l0=size_l0, slide_mpp=mpp)


def _outlines(source: BagSource) -> Path | None:
    """The file that outlines a slide's lesions; a label mask has no outlines."""
    path = source.slide.annotation_path
    if path is None or path.suffix.lower() in SUFFIXES or not path.is_file():
        return None
    return path
