"""Nuclei are found over a whole slide, at their place and once each."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from sagdeploy.errors import NotAnalysableError
from sagdeploy.guidance.detection import detect_cells
from sagdeploy.pipeline.detection import find_cells
from sagdeploy.slides.slide import open_slide
from sagdeploy.slides.tissue import find_tissue


def test_blocks_find_what_the_whole_slide_shows(painted: Path) -> None:
    with open_slide(painted) as slide:
        tissue = find_tissue(slide, 0.5)
        whole = find_cells(slide, tissue, slide_mpp=0.5, workers=1)
        found = find_cells(slide, tissue, slide_mpp=0.5, workers=2, block_px=400)
        once = detect_cells(slide.read((0, 0), slide.size_l0, slide.size_l0), 0.5) + 0.5
    assert len(found) > 100
    assert cdist(found, found)[np.triu_indices(len(found), 1)].min() > 2  # none twice at an edge
    for cells in (found, once):  # thresholds differ a little from block to block
        near = cdist(whole, cells).min(axis=1) <= 2
        assert near.mean() > 0.8


def test_a_slide_too_coarse_for_nuclei_is_refused(painted: Path) -> None:
    with open_slide(painted) as slide, pytest.raises(NotAnalysableError, match="too coarse"):
        find_cells(slide, find_tissue(slide, 0.5), slide_mpp=0.9)
