"""A detection map gives the cells' places on the slide, padded or not."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sagdeploy.errors import AnnotationError
from sagdeploy.guidance.cellmap import read_cell_map

SIZE_L0 = (2400, 1600)  # at 0.25 microns: 600 x 400 px at 10x


def saved(folder: Path, cells: NDArray[np.uint8]) -> Path:
    Image.fromarray(cells).save(folder / "map.png")
    return folder / "map.png"


def drawn(width: int, height: int, *corners: tuple[int, int]) -> NDArray[np.uint8]:
    """Cells of 4 x 2 px at these corners, counted and scaled as VSGD-Net does."""
    cells = np.zeros((height, width), np.uint8)
    for x, y in corners:
        cells[y : y + 2, x : x + 4] = 255
    return cells


def test_a_cell_is_the_middle_of_its_white_area(tmp_path: Path) -> None:
    path = saved(tmp_path, drawn(600, 400, (10, 20), (500, 30)))
    found = read_cell_map(path, size_l0=SIZE_L0, slide_mpp=0.25)
    assert found.tolist() == [[48, 84], [2008, 124]]


def test_the_padding_of_whole_patches_is_taken_off(tmp_path: Path) -> None:
    path = saved(tmp_path, drawn(768, 512, (10 + 84, 20 + 56)))
    found = read_cell_map(path, size_l0=SIZE_L0, slide_mpp=0.25)
    assert found.tolist() == [[48, 84]]


def test_a_map_of_the_scanner_s_own_10x_covers_the_slide(tmp_path: Path) -> None:
    path = saved(tmp_path, drawn(600, 400, (10, 20)))
    found = read_cell_map(path, size_l0=SIZE_L0, slide_mpp=0.2277)  # sold as 0.25
    assert found.tolist() == [[48, 84]]


def test_cells_that_touch_by_a_corner_are_one(tmp_path: Path) -> None:
    path = saved(tmp_path, drawn(600, 400, (10, 20), (14, 22)))
    assert len(read_cell_map(path, size_l0=SIZE_L0, slide_mpp=0.25)) == 1


def test_faint_pixels_and_empty_maps_hold_no_cell(tmp_path: Path) -> None:
    faint = drawn(600, 400, (10, 20)) // 2
    assert read_cell_map(saved(tmp_path, faint), size_l0=SIZE_L0, slide_mpp=0.25).shape == (0, 2)


@pytest.mark.parametrize("size", [(400, 600), (300, 200), (1024, 512), (2400, 1600)])
def test_the_map_of_another_slide_or_scale_is_refused(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    path = saved(tmp_path, drawn(*size, (10, 20)))
    with pytest.raises(AnnotationError, match="where the slide at 10x has 600 x 400") as caught:
        read_cell_map(path, size_l0=SIZE_L0, slide_mpp=0.25)
    assert "1 micron per pixel" in caught.value.hint
