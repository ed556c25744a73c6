from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sagdeploy.errors import OutputError
from sagdeploy.slides.pyramid import PIECE_PX, write_pyramid
from sagdeploy.slides.slide import open_slide
from sagdeploy.slides.tiff import TILE_PX

SIZE = (1900, 1100)


def quadrants(xy_l0: tuple[int, int], size_l0: tuple[int, int]) -> NDArray[np.uint8]:
    """Red to the right of x = 1024, blue below y = 512, on a grey ground."""
    x, y = (start + np.arange(length) for start, length in zip(xy_l0, size_l0, strict=True))
    picture = np.full((size_l0[1], size_l0[0], 3), 40, np.uint8)
    picture[:, x >= 1024, 0] = 200
    picture[y >= 512, :, 2] = 200
    return picture


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyramid") / "slide.tif"
    write_pyramid(path, quadrants, size_l0=SIZE, mpp=0.2425)
    return path


def test_openslide_finds_size_levels_and_mpp(path: Path) -> None:
    with open_slide(path) as slide:
        assert slide.vendor == "generic-tiff"
        assert slide.size_l0 == SIZE
        assert [level.size for level in slide.levels] == [SIZE, (475, 275), (119, 69)]
        assert [float(text or 0) for text in slide.metadata_mpp] == pytest.approx([0.2425] * 2)


@pytest.mark.parametrize("scale", [1, 4, 16])
def test_every_level_shows_the_same_places(path: Path, scale: int) -> None:
    with open_slide(path) as slide:
        size_px = (SIZE[0] // scale, SIZE[1] // scale)
        picture = slide.read((0, 0), SIZE, size_px)
    margin = 64 // scale  # JPEG rings at the edges between colours
    x, y = 1024 // scale, 512 // scale
    above, below = slice(0, y - margin), slice(y + margin, None)
    left, right = slice(0, x - margin), slice(x + margin, None)
    for rows, columns, colour in [
        (above, left, (40, 40, 40)),
        (above, right, (200, 40, 40)),
        (below, left, (40, 40, 200)),
        (below, right, (200, 40, 200)),
    ]:
        np.testing.assert_allclose(picture[rows, columns].mean(axis=(0, 1)), colour, atol=4)


def test_regions_are_asked_for_in_small_pieces_and_once(tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    def region(xy_l0: tuple[int, int], size_l0: tuple[int, int]) -> NDArray[np.uint8]:
        asked.append(size_l0)
        return quadrants(xy_l0, size_l0)

    write_pyramid(tmp_path / "slide.tif", region, size_l0=SIZE, mpp=0.5)
    assert sum(width * height for width, height in asked) == SIZE[0] * SIZE[1]
    assert max(width for width, _ in asked) <= PIECE_PX
    assert max(height for _, height in asked) <= TILE_PX


def test_a_slide_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(OutputError):
        write_pyramid(tmp_path / "taken" / "slide.tif", quadrants, size_l0=SIZE, mpp=0.5)


def test_a_failure_while_painting_leaves_nothing(tmp_path: Path) -> None:
    def region(xy_l0: tuple[int, int], size_l0: tuple[int, int]) -> NDArray[np.uint8]:
        if xy_l0[1] > 300:
            raise KeyboardInterrupt
        return quadrants(xy_l0, size_l0)

    with pytest.raises(KeyboardInterrupt):
        write_pyramid(tmp_path / "slide.tif", region, size_l0=SIZE, mpp=0.5)
    assert not list(tmp_path.iterdir())
