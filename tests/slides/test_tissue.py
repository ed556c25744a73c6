"""Painted pictures at the mask's own scale, and real ones with real ink."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_otsu

from sagdeploy.errors import NotAnalysableError
from sagdeploy.slides.slide import open_slide
from sagdeploy.slides.tissue import TissueMask, find_tissue, otsu_threshold, tissue_mask

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

WIDTH, HEIGHT = 400, 260
GLASS = (241, 240, 238)
STAINS = {
    "eosin": (214, 150, 186),
    "pale eosin": (228, 196, 214),
    "hematoxylin": (122, 78, 150),
    "DAB": (150, 105, 70),
    "strong DAB": (92, 58, 38),
    "counterstain alone": (176, 184, 206),
    "dense nuclei": (62, 28, 67),
}
INKS = {
    "black": (24, 24, 28),
    "green": (20, 130, 72),
    "dark green": (18, 61, 62),
    "blue": (45, 92, 190),
    "dark blue": (20, 33, 114),
    "red": (196, 22, 28),
}


@given(st.integers(0, 2**32 - 1), st.integers(0, 400), st.floats(0, 0.3))
def test_the_threshold_is_otsus(seed: int, nuclei: int, depth: float) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(0.05, 0.02, 300), rng.normal(depth, 0.05, nuclei)]
    colour = np.concatenate(parts).clip(0, 0.25).astype(np.float32)
    for values in (colour, colour[:1]):
        assert otsu_threshold(values) == pytest.approx(threshold_otsu(values), rel=1e-6)  # type: ignore[no-untyped-call] # has no types


def ellipse(width: int = WIDTH, height: int = HEIGHT) -> Mask:
    """A section up left of the middle."""
    y, x = np.mgrid[:height, :width]
    inside: Mask = ((x / width - 0.4) / 0.25) ** 2 + ((y / height - 0.45) / 0.3) ** 2 < 1
    return inside


def stroke() -> Mask:
    """A line of ink beside the section, another across it."""
    marks = np.zeros((HEIGHT, WIDTH), np.bool_)
    marks[20:250, 330:342] = True
    marks[40:220, 150:160] = True
    return marks


def paint(*layers: tuple[Mask, tuple[int, int, int]], noise: float = 3) -> Pixels:
    """Layers on glass, in the given order, with soft edges and a camera's noise."""
    picture = np.broadcast_to(np.array(GLASS, np.float32), (*layers[0][0].shape, 3)).copy()
    for mask, colour in layers:
        through = ndimage.gaussian_filter(mask.astype(np.float32), 0.8)[..., None]
        picture = picture * (1 - through) + through * np.array(colour)
    picture += np.random.default_rng(3).normal(0, noise, picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def likeness(a: Mask, b: Mask) -> float:
    """Intersection over union."""
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("stain", STAINS)
def test_stained_tissue_is_found(stain: str) -> None:
    section = ellipse()
    assert likeness(tissue_mask(paint((section, STAINS[stain]))), section) > 0.93


@pytest.mark.parametrize("ink", INKS)
def test_ink_is_not_tissue(ink: str) -> None:
    section, marks = ellipse(), stroke()
    mask = tissue_mask(paint((section, STAINS["eosin"]), (marks, INKS[ink])))
    assert not mask[marks].any()
    assert likeness(mask, section & ~marks) > 0.9


@pytest.mark.parametrize("ink", INKS)
def test_a_slide_with_ink_alone_has_no_tissue(ink: str) -> None:
    assert tissue_mask(paint((stroke(), INKS[ink]))).mean() < 0.001


def test_tissue_with_nuclei_is_one_piece() -> None:
    section = ellipse()
    nuclei = section & (np.random.default_rng(1).random(section.shape) < 0.15)
    picture = paint((section, STAINS["pale eosin"]), (nuclei, STAINS["dense nuclei"]))
    mask = tissue_mask(picture)
    assert ndimage.label(mask)[1] == 1
    assert likeness(mask, section) > 0.93


def test_pale_stroma_between_stained_cells_is_tissue() -> None:
    section = ellipse()
    cells = np.zeros_like(section)
    cells[::9, ::9] = True
    cells = ndimage.binary_dilation(cells) & section
    picture = paint((section, (212, 214, 217)), (cells, STAINS["DAB"]))
    assert likeness(tissue_mask(picture), section) > 0.9


@pytest.mark.parametrize("grey", [0, 12, 128, 236, 255])
def test_a_constant_picture_has_no_tissue(grey: int) -> None:
    assert not tissue_mask(np.full((HEIGHT, WIDTH, 3), grey, np.uint8)).any()


def test_empty_glass_has_no_tissue() -> None:
    rng = np.random.default_rng(2)
    shaded = np.linspace(205, 250, WIDTH)[None, :, None] + rng.normal(0, 4, (HEIGHT, WIDTH, 3))
    tinted = np.array((238, 228, 215)) + rng.normal(0, 4, (HEIGHT, WIDTH, 3))
    for glass in (shaded, tinted):
        assert not tissue_mask(glass.clip(0, 255).astype(np.uint8)).any()


@pytest.mark.parametrize("stain", ["eosin", "hematoxylin", "DAB"])
def test_a_picture_of_tissue_alone_is_all_tissue(stain: str) -> None:
    dark = np.random.default_rng(4).random((HEIGHT, WIDTH)) < 0.2
    everywhere = np.ones((HEIGHT, WIDTH), np.bool_)
    assert tissue_mask(paint((everywhere, STAINS[stain]), (dark, STAINS["dense nuclei"]))).all()


def test_glass_edges_and_dust_are_not_tissue() -> None:
    section = ellipse()
    edge = np.zeros_like(section)
    edge[:, :8] = edge[-6:] = True
    dust = np.zeros_like(section)
    dust[20:24, 300:305] = dust[220, 380] = True
    picture = paint((section, STAINS["eosin"]), (edge, (9, 8, 10)), (dust, (120, 90, 60)))
    assert likeness(tissue_mask(picture), section) > 0.93


@pytest.mark.parametrize("scale", [0.5, 2.0, 3.5])
def test_the_same_section_at_any_scale(scale: float) -> None:
    size = (round(WIDTH * scale), round(HEIGHT * scale))
    mask = tissue_mask(paint((ellipse(*size), STAINS["eosin"])))
    assert mask.mean() == pytest.approx(ellipse().mean(), rel=0.08)


def write_slide(path: Path, picture: Pixels, mpp: float | None) -> Path:
    tifffile.imwrite(
        path,
        picture,
        tile=(256, 256),
        compression="zlib",
        photometric="rgb",
        resolution=(1e4 / mpp, 1e4 / mpp) if mpp else (1, 1),
        resolutionunit="CENTIMETER" if mpp else "NONE",
        metadata=None,
    )
    return path


@pytest.mark.parametrize("mpp", [0.5, 2.0, None])
def test_the_mask_of_a_slide_lies_on_its_tissue(tmp_path: Path, mpp: float | None) -> None:
    section = ellipse(2000, 1300)
    path = write_slide(tmp_path / "a.tif", paint((section, STAINS["eosin"])), mpp)
    with open_slide(path) as slide:
        tissue = find_tissue(slide, mpp)
    assert tissue.size_l0 == (2000, 1300)
    assert tissue.share == pytest.approx(section.mean(), rel=0.06)
    x, y, width, height = tissue.bounding_box_l0()
    ends = np.array([x, y, x + width, y + height])
    np.testing.assert_allclose(ends, [300, 195, 1300, 975], atol=30)


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), INKS["green"]])
def test_a_slide_without_tissue_is_refused(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    picture = np.full((900, 1400, 3), colour, np.uint8)
    with (
        open_slide(write_slide(tmp_path / "blank.tif", picture, 0.5)) as slide,
        pytest.raises(NotAnalysableError, match=r"blank\.tif: no tissue: 0\.00%") as caught,
    ):
        find_tissue(slide, 0.5)
    assert caught.value.hint


def test_an_absurd_scale_does_not_make_a_huge_mask(tmp_path: Path) -> None:
    section = paint((ellipse(2600, 300), STAINS["eosin"]))
    with open_slide(write_slide(tmp_path / "a.tif", section, 900.0)) as slide:
        assert max(find_tissue(slide, 900.0).mask.shape) == 2048


@pytest.mark.parametrize(("mpp", "width"), [(2.0, 650), (1.0, 325), (0.5, 256), (None, 256)])
def test_the_scale_that_is_given_is_that_of_the_mask(
    tmp_path: Path, mpp: float | None, width: int
) -> None:
    """Whatever the slide's own metadata say."""
    picture = paint((ellipse(2600, 1300), STAINS["eosin"]))
    with open_slide(write_slide(tmp_path / "a.tif", picture, 1.5)) as slide:
        assert find_tissue(slide, mpp).mask.shape == (width // 2, width)


def test_share_and_box_are_those_of_the_mask() -> None:
    mask = np.zeros((10, 20), np.bool_)
    mask[2:4, 5:15] = True
    tissue = TissueMask(mask, (2000, 1000), 0.09)
    assert tissue.share == 0.1
    assert tissue.bounding_box_l0() == (500, 200, 1000, 200)


def real(path: Path, factor: int) -> Pixels:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB").reduce(factor))


def looks_green_or_blue(rgb: Pixels) -> Mask:
    """Ink beyond doubt, told otherwise than the code tells it."""
    red, green, blue = np.moveaxis(rgb.astype(int), 2, 0)
    found: Mask = np.maximum(green, blue) - red > 60
    return found


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_ring_of_ink_on_a_real_prostate_is_left_out(shared_data: Path, factor: int) -> None:
    rgb = real(shared_data / "slides" / "TCGA-XK-AAJU-prostate-pen-marks.jpg", factor)
    mask, ink = tissue_mask(rgb), looks_green_or_blue(rgb)
    assert ink.mean() > 0.02
    assert mask[ink].mean() < 0.01
    assert 0.40 < mask.mean() < 0.46
    height, width = mask.shape
    for x, y in [(0.18, 0.42), (0.30, 0.50), (0.45, 0.75), (0.78, 0.28), (0.84, 0.80)]:
        assert mask[int(y * height), int(x * width)], f"tissue at {x}, {y} is lost"
    for x, y in [(0.05, 0.13), (0.05, 0.8), (0.55, 0.7), (0.95, 0.3)]:
        assert not mask[int(y * height), int(x * width)], f"glass or ink at {x}, {y} is taken"


@pytest.mark.parametrize(
    ("name", "tissue"),
    [
        ("diagnostic-slide-thumb-rgb", (0.38, 0.50)),
        ("tcga-green-pen", (0.75, 0.84)),
        ("tcga-lung-rgb", (0.75, 0.90)),
        ("tcga-red-pen", (0.50, 0.65)),
        ("wsi-blue-pen", (0.25, 0.40)),
    ],
)
def test_real_ink_of_all_colours_is_left_out(
    shared_data: Path, name: str, tissue: tuple[float, float]
) -> None:
    rgb = real(shared_data / "thumbnails" / f"{name}.png", 1)
    mask = tissue_mask(rgb)
    red, green, blue = np.moveaxis(rgb.astype(int), 2, 0)
    ink = looks_green_or_blue(rgb) | ((red > 130) & (green < 45) & (blue < 50))
    assert tissue[0] < mask.mean() < tissue[1]
    assert mask[ink].mean() < 0.02 if ink.sum() > 100 else True


def test_real_fields_of_tissue_are_nearly_all_tissue(shared_data: Path) -> None:
    fields = sorted((shared_data / "tiles" / "brecahad").glob("[0-9]*[0-9].jpg"))
    shares = [tissue_mask(real(field, 16)).mean() for field in fields]
    assert len(shares) == 15
    assert np.median(shares) > 0.99
    assert min(shares) > 0.5  # one field is half fat


@pytest.mark.parametrize(
    ("name", "share", "box"),
    [
        ("CMU-1-Small-Region.svs", 0.41, (57, 69, 2001, 2967)),
        ("multiframe_camelyon_challenge_image.dcm", 0.26, (62, 60, 1086, 633)),
    ],
)
def test_real_slides_have_the_tissue_one_sees(
    shared_data: Path, name: str, share: float, box: tuple[int, int, int, int]
) -> None:
    with open_slide(shared_data / "slides" / name) as slide:
        tissue = find_tissue(slide, slide.resolve_mpp(trust=True).value)
        reach = 0.02 * max(slide.size_l0)
    x, y, width, height = tissue.bounding_box_l0()
    assert tissue.share == pytest.approx(share, abs=0.03)
    np.testing.assert_allclose([x, y, x + width, y + height], box, atol=reach)
