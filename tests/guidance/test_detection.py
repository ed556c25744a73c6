from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from sagdeploy.guidance.cells import read_cells
from sagdeploy.guidance.detection import detect_cells

EOSIN, HAEMATOXYLIN = (235, 180, 205), (90, 60, 140)


def painted(xy_px: NDArray[np.int64], radius_px: int) -> NDArray[np.uint8]:
    """Round dark nuclei on pink, 300 px wide and 200 high."""
    y, x = np.mgrid[:200, :300]
    rgb = np.full((200, 300, 3), EOSIN, np.uint8)
    for centre_x, centre_y in xy_px:
        rgb[np.hypot(x - centre_x, y - centre_y) < radius_px] = HAEMATOXYLIN
    return rgb


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_each_painted_nucleus_is_found_at_its_place(mpp: float) -> None:
    xy_px = np.array([[40, 30], [120, 50], [250, 40], [60, 150], [200, 160]])
    found = detect_cells(painted(xy_px, round(3.5 / mpp)), mpp)
    assert len(found) == len(xy_px)
    assert cdist(xy_px, found).min(axis=1).max() <= 1.5


@pytest.mark.parametrize("colour", [(240, 240, 240), EOSIN])
def test_no_nuclei_are_seen_where_there_are_none(colour: tuple[int, int, int]) -> None:
    noise = np.random.default_rng(0).normal(0, 6, (200, 300, 3))
    flat = np.full((200, 300, 3), colour, np.uint8)
    noisy = np.clip(colour + noise, 0, 255).astype(np.uint8)
    assert detect_cells(flat, 0.25).shape == (0, 2)
    assert detect_cells(noisy, 0.25).shape == (0, 2)


def test_recall_and_precision_on_real_fields(shared_data: Path) -> None:
    """Three of 15 fields; only tumour nuclei are marked, so precision is a lower bound."""
    matched = found = marked = 0
    for name in ("10011", "10015", "10039"):
        folder = shared_data / "tiles" / "brecahad"
        cells = read_cells(folder / f"{name}-cells.csv")
        with Image.open(folder / f"{name}.jpg") as picture:
            detected = detect_cells(np.asarray(picture.convert("RGB")), 0.25)
        distances = np.minimum(cdist(cells, detected), 1e3)
        rows, columns = linear_sum_assignment(distances)
        matched += int((distances[rows, columns] <= 16).sum())  # 4 um
        found += len(detected)
        marked += len(cells)
    assert matched / marked > 0.8
    assert matched / found > 0.3
