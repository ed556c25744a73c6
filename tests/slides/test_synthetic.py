from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sagdeploy.errors import ConfigError
from sagdeploy.slides.anatomy import LESION
from sagdeploy.slides.slide import open_slide
from sagdeploy.slides.synthetic import PaintedSlide, SlideSpec, paint_slide

SPEC = SlideSpec(seed=5, size_l0=(1300, 780), grade=1.0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("synthetic") / "slide.tif"


@pytest.fixture(scope="module")
def painted(path: Path) -> PaintedSlide:
    return paint_slide(path, SPEC)


def test_the_same_spec_paints_the_same_bytes(
    path: Path, painted: PaintedSlide, tmp_path: Path
) -> None:
    again = paint_slide(tmp_path / "other-name.tif", SPEC)
    assert (tmp_path / "other-name.tif").read_bytes() == path.read_bytes()
    assert (again.lesion_l0 == painted.lesion_l0).all()
    assert (again.cells.xy_l0 == painted.cells.xy_l0).all()


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
def test_openslide_reads_size_levels_and_mpp(tmp_path: Path, mpp: float) -> None:
    paint_slide(tmp_path / "slide.tif", SlideSpec(seed=1, size_l0=(610, 430), mpp=mpp))
    with open_slide(tmp_path / "slide.tif") as slide:
        assert slide.size_l0 == (610, 430)
        assert [level.size for level in slide.levels] == [(610, 430), (153, 108), (39, 27)]
        assert slide.resolve_mpp().value == pytest.approx(mpp)


def test_the_outline_lies_where_the_lesion_was_painted(path: Path, painted: PaintedSlide) -> None:
    def inside(outline: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        mask = Image.new("1", SPEC.size_l0)
        ImageDraw.Draw(mask).polygon([(x, y) for x, y in outline.tolist()], fill=1)
        return np.asarray(mask)

    with open_slide(path) as slide:
        red = slide.read((0, 0), SPEC.size_l0, SPEC.size_l0)[..., 0].astype(float)
    tissue, lesion = inside(painted.tissue_l0), inside(painted.lesion_l0)
    found = red[lesion].mean()
    assert found < red[tissue & ~lesion].mean() - 15
    for moved in (lesion[::-1], lesion[:, ::-1], lesion[::-1, ::-1]):
        assert found < red[moved & tissue].mean() - 15


def test_cells_of_the_lesion_lie_in_its_outline(painted: PaintedSlide) -> None:
    cells = painted.cells.where(painted.cells.kind == LESION)
    low, high = painted.lesion_l0.min(axis=0), painted.lesion_l0.max(axis=0)
    assert len(cells) > 30
    assert (cells.xy_l0 >= low).all()
    assert (cells.xy_l0 <= high).all()
    np.testing.assert_allclose(cells.xy_l0.mean(axis=0), (low + high) / 2, atol=60)


def test_a_slide_is_smaller_than_a_quarter_of_a_byte_a_pixel(
    path: Path, painted: PaintedSlide
) -> None:
    assert path.stat().st_size < SPEC.size_l0[0] * SPEC.size_l0[1] / 4


@pytest.mark.parametrize(
    "bad",
    [
        {"seed": -1},
        {"size_l0": (600, 40)},
        {"mpp": 0.0},
        {"mpp": float("nan")},
        {"grade": 1.5},
        {"pen": "purple"},
    ],
)
def test_a_senseless_spec_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        SlideSpec(**{"seed": 0, **bad})
