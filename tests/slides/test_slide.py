"""Slides written as small TIFFs without loss, so that each pixel read can be told in advance."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from sagdeploy.errors import MissingExtraError, SagError, SlideError
from sagdeploy.slides.library import check_library
from sagdeploy.slides.slide import BLOCK_PX, MAX_SIDE_PX, open_slide
from tests.peak import growth_mib

Pixels = NDArray[np.uint8]

WIDTH, HEIGHT = 1000, 650
TILE = 128


def painted(width: int = WIDTH, height: int = HEIGHT) -> Pixels:
    """Noise, a little darker from left to right, with a lesion up left."""
    rng = np.random.default_rng(7)
    pixels = rng.integers(120, 200, (height, width, 3)).astype(np.uint8)
    pixels -= np.linspace(0, 60, width).astype(np.uint8)[:, None]
    pixels[60:140, 90:260] = (150, 30, 90)
    return pixels


def write_slide(path: Path, levels: Sequence[Pixels], *, mpp: float | None = 0.5) -> Path:
    """A tiled TIFF that OpenSlide reads, without loss."""
    resolution = (1e4 / mpp, 1e4 / mpp) if mpp else (1, 1)
    with tifffile.TiffWriter(path) as file:
        for index, pixels in enumerate(levels):
            file.write(
                pixels,
                tile=(TILE, TILE),
                compression="zlib",
                photometric="rgb",
                subfiletype=int(index > 0),
                resolution=resolution,
                resolutionunit="CENTIMETER" if mpp else "NONE",
                metadata=None,
            )
    return path


def tag_offset(path: Path, name: str) -> int:
    """Where the value of a TIFF tag is in the file."""
    with tifffile.TiffFile(path) as file:
        return int(file.pages.first.tags[name].valueoffset)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def lose_tile(path: Path, index: int) -> None:
    """Leave a tile without data, as scanners do where they saw no tissue."""
    for name in ("TileOffsets", "TileByteCounts"):
        overwrite(path, tag_offset(path, name) + 4 * index, bytes(4))


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    return painted()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, pixels: Pixels) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "one-level.tif", [pixels])


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Levels of 1, 2 and 8, each of another grey."""
    greys = {1: 60, 2: 120, 8: 180}
    levels = [
        np.full((648 // down, 1008 // down, 3), grey, np.uint8) for down, grey in greys.items()
    ]
    return write_slide(tmp_path_factory.mktemp("slides") / "pyramid.tif", levels)


def test_a_slide_tells_its_sizes_and_scale(path: Path) -> None:
    with open_slide(path) as slide:
        assert slide.name == "one-level.tif"
        assert slide.vendor == "generic-tiff"
        assert slide.size_l0 == (WIDTH, HEIGHT)
        assert slide.bounds_l0 == (0, 0, WIDTH, HEIGHT)
        assert slide.background_rgb == (255, 255, 255)
        assert [tuple(level) for level in slide.levels] == [((WIDTH, HEIGHT), 1.0)]
        assert slide.resolve_mpp().value == pytest.approx(0.5)
        assert slide.objective_power is None


def test_a_slide_without_a_scale_says_so(tmp_path: Path, pixels: Pixels) -> None:
    with open_slide(write_slide(tmp_path / "a.tif", [pixels], mpp=None)) as slide:
        assert slide.metadata_mpp == (None, None)
        with pytest.raises(SagError, match=r"a\.tif: no microns per pixel"):
            slide.resolve_mpp()
        assert slide.resolve_mpp(0.25).value == 0.25


@given(
    st.tuples(st.integers(-300, 1200), st.integers(-300, 900)),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
)
def test_a_region_is_what_was_painted_and_white_beyond(
    path: Path, pixels: Pixels, xy: tuple[int, int], size: tuple[int, int]
) -> None:
    expected = np.full((size[1], size[0], 3), 255, np.uint8)
    left, top = max(0, xy[0]), max(0, xy[1])
    right, bottom = max(0, xy[0] + size[0]), max(0, xy[1] + size[1])
    inside = pixels[top:bottom, left:right]
    down, across = slice(top - xy[1], top - xy[1] + len(inside)), left - xy[0]
    expected[down, across : across + inside.shape[1]] = inside
    with open_slide(path) as slide:
        np.testing.assert_array_equal(slide.read(xy, size, size), expected)


def test_a_region_is_uint8_rgb(path: Path) -> None:
    with open_slide(path) as slide:
        region = slide.read((5, 7), (300, 200), (30, 20))
    assert region.shape == (20, 30, 3)
    assert region.dtype == np.uint8


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_a_whole_factor_is_a_box_average(path: Path, pixels: Pixels, factor: int) -> None:
    with open_slide(path) as slide:
        region = slide.read((83, 51), (40 * factor, 30 * factor), (40, 30))
    source = pixels[51 : 51 + 30 * factor, 83 : 83 + 40 * factor].astype(float)
    mean = source.reshape(30, factor, 40, factor, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(region, mean, atol=0.6)


def test_a_broken_factor_is_antialiased_bilinear(path: Path, pixels: Pixels) -> None:
    with open_slide(path) as slide:
        shrunk = slide.read((83, 51), (443, 300), (224, 150))
        enlarged = slide.read((83, 51), (44, 30), (100, 70))
    whole, small = (
        Image.fromarray(pixels[51 : 51 + height, 83 : 83 + width])
        for width, height in [(443, 300), (44, 30)]
    )
    bilinear = Image.Resampling.BILINEAR
    np.testing.assert_array_equal(shrunk, np.asarray(whole.resize((224, 150), bilinear)))
    np.testing.assert_array_equal(enlarged, np.asarray(small.resize((100, 70), bilinear)))


@pytest.mark.parametrize(
    ("downsample", "grey"),
    [(0.5, 60), (1, 60), (1.99, 60), (1.999, 120), (2, 120), (7, 120), (8, 180), (30, 180)],
)
def test_pixels_come_from_the_coarsest_level_that_is_fine_enough(
    pyramid: Path, downsample: float, grey: int
) -> None:
    size_px = (1000, 500)
    size_l0 = (round(1000 * downsample), round(500 * downsample))
    with open_slide(pyramid) as slide:
        region = slide.read((0, 0), size_l0, size_px)
    assert region[5, 5].tolist() == [grey] * 3


def test_a_level_whose_sizes_were_rounded_is_taken_as_it_is(tmp_path: Path) -> None:
    small = painted(201, 131)  # 1003 / 201 and 653 / 131: 4.99 and 4.98
    slide_path = write_slide(tmp_path / "a.tif", [painted(1003, 653), small])
    with open_slide(slide_path) as slide:
        scale = slide.levels[1].downsample
        assert 4.98 < scale < 5
        region = slide.read((0, 0), (round(64 * scale), round(32 * scale)), (64, 32))
    np.testing.assert_array_equal(region, small[:32, :64])


def test_blocks_leave_no_seam(tmp_path: Path) -> None:
    pixels = painted(2 * BLOCK_PX + 460, 160)
    with open_slide(write_slide(tmp_path / "wide.tif", [pixels])) as slide:
        whole = slide.read((0, 0), slide.size_l0, (slide.size_l0[0] // 4, 40))
        ragged = slide.thumbnail(900)
    image = Image.fromarray(pixels)
    np.testing.assert_array_equal(whole, np.asarray(image.reduce(4)))
    expected = image.reduce(5).resize((900, 32), Image.Resampling.BILINEAR, (0, 0, 4556 / 5, 32))
    np.testing.assert_array_equal(ragged, np.asarray(expected))


def test_a_thumbnail_shows_the_whole_slide(path: Path, pixels: Pixels) -> None:
    with open_slide(path) as slide:
        thumbnail = slide.thumbnail(100)
        assert slide.thumbnail(5000).shape == pixels.shape
    assert thumbnail.shape == (65, 100, 3)
    np.testing.assert_array_equal(thumbnail, np.asarray(Image.fromarray(pixels).reduce(10)))


def test_a_tile_without_data_is_white(tmp_path: Path) -> None:
    slide_path = write_slide(tmp_path / "sparse.tif", [np.full((650, 1000, 3), 99, np.uint8)])
    lose_tile(slide_path, 9)  # second row, second column of 8
    with open_slide(slide_path) as slide:
        region = slide.read((0, 0), (400, 300), (400, 300))
    lost = np.zeros((300, 400), np.bool_)
    lost[TILE : 2 * TILE, TILE : 2 * TILE] = True
    np.testing.assert_array_equal((region == 255).all(axis=2), lost)
    assert (region[~lost] == 99).all()


def test_threads_may_share_a_slide(path: Path) -> None:
    corners = [(31 * n % 900, 17 * n % 500) for n in range(60)]
    with open_slide(path) as slide, ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda xy: slide.read(xy, (150, 90), (75, 45)), corners))
        in_turn = [slide.read(xy, (150, 90), (75, 45)) for xy in corners]
    np.testing.assert_array_equal(np.stack(at_once), np.stack(in_turn))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_large_slide_without_a_pyramid_is_pictured_in_little_memory(tmp_path: Path) -> None:
    side = 6144  # 144 MiB as RGBA, and as much again on the way
    pattern = np.full((TILE, TILE, 3), 230, np.uint8)
    tifffile.imwrite(
        tmp_path / "large.tif",
        (pattern for _ in range((side // TILE) ** 2)),
        shape=(side, side, 3),
        dtype=np.uint8,
        tile=(TILE, TILE),
        compression="zlib",
        photometric="rgb",
        metadata=None,
    )
    setup = "from pathlib import Path\nfrom sagdeploy.slides.slide import open_slide"
    work = f"""
with open_slide(Path({str(tmp_path / "large.tif")!r})) as slide:
    assert slide.thumbnail(500).shape == (500, 500, 3)
"""
    assert growth_mib(setup, work) < 256  # of which OpenSlide's cache may take 128


def refusal(path: Path) -> str:
    """The one line with which a file is refused; its hint is there too."""
    with pytest.raises(SlideError) as caught, open_slide(path) as slide:
        slide.read((0, 0), slide.size_l0, slide.size_l0)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path.parent) not in message
    return message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a.svs") == "a.svs: No such file or directory"


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.svs").touch()
    assert refusal(tmp_path / "a.svs") == "a.svs: an empty file"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.svs").mkdir()
    assert "folder" in refusal(tmp_path / "a.svs")


def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.svs")
    assert refusal(tmp_path / "a.svs") == "a.svs: not a regular file"


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.svs").symlink_to(tmp_path / "a.svs")
    assert "symbolic links" in refusal(tmp_path / "a.svs")


@pytest.mark.parametrize("content", [b"hello\nworld", b"\x89PNG\r\n\x1a\n", b"%PDF-1.7 DOE^JANE"])
def test_what_is_no_slide_is_refused_with_its_first_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.svs").write_bytes(content)
    assert refusal(tmp_path / "a.svs") == f"a.svs: not a slide: it starts with {content[:8]!r}"


def test_a_tiff_without_tiles_is_refused(tmp_path: Path, pixels: Pixels) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    assert refusal(tmp_path / "a.tif").startswith("a.tif: a TIFF, but truncated, not tiled")


@pytest.mark.parametrize("kept", [0.01, 0.3, 0.7, 0.99])
def test_a_truncated_slide_is_refused(tmp_path: Path, path: Path, kept: float) -> None:
    data = path.read_bytes()
    # pages first, then their tiles: what is cut off are tiles, unless almost all is
    (tmp_path / "a.tif").write_bytes(data[: int(len(data) * kept)])
    assert refusal(tmp_path / "a.tif").startswith("a.tif: ")


def test_a_damaged_tile_is_an_error_that_stays(tmp_path: Path, path: Path) -> None:
    damaged = tmp_path / "DOE_JANE" / "a.tif"
    damaged.parent.mkdir()
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 60_000] = bytes(60_000)
    damaged.write_bytes(data)
    with open_slide(damaged) as slide:
        with pytest.raises(SlideError, match=r"a\.tif: ") as caught:
            slide.thumbnail(1000)
        assert "DOE" not in str(caught.value)
        assert caught.value.hint
        with pytest.raises(SlideError):
            slide.read((0, 0), (10, 10), (10, 10))


def test_a_slide_that_declares_absurd_sizes_is_refused(tmp_path: Path) -> None:
    width, tile = MAX_SIDE_PX + 4096, 4096
    tifffile.imwrite(
        tmp_path / "bomb.tif",
        (np.zeros((16, tile, 3), np.uint8) for _ in range(-(-width // tile))),
        shape=(16, width, 3),
        dtype=np.uint8,
        tile=(16, tile),
        compression="zlib",
        photometric="rgb",
        metadata=None,
    )
    assert "declares 404096 x 16 px" in refusal(tmp_path / "bomb.tif")


@pytest.mark.parametrize("name", ["我 的 slide;rm -rf.tif", "-a.tif", "'\"$(x).tif", "é" * 120])
def test_any_name_will_do(tmp_path: Path, path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(path.read_bytes())
    with open_slide(tmp_path / name) as slide:
        assert slide.name == name


def test_names_that_cannot_be_printed_are_escaped(tmp_path: Path, path: Path) -> None:
    named = tmp_path / "a\nb\udcff.tif"
    named.write_bytes(path.read_bytes())
    with open_slide(named) as slide:
        assert slide.name == r"a\nb\udcff.tif"
    assert refusal(tmp_path / "a\0b.tif").startswith(r"a\x00b.tif: ")


@pytest.mark.parametrize("version", ["3.4.1", "4.0.0", "4.0.0-rc1"])
def test_a_library_with_known_holes_is_refused(version: str) -> None:
    with pytest.raises(MissingExtraError, match=version) as caught:
        check_library(version)
    assert "pip install" in caught.value.hint


@pytest.mark.parametrize("version", ["4.0.1", "4.0.1-nightly.20260901", "4.1.0", "10.0.0"])
def test_a_newer_library_will_do(version: str) -> None:
    check_library(version)


def test_a_real_aperio_slide_is_read(shared_data: Path) -> None:
    with open_slide(shared_data / "slides" / "CMU-1-Small-Region.svs") as slide:
        assert (slide.vendor, slide.objective_power) == ("aperio", 20)
        assert slide.size_l0 == (2220, 2967)
        assert slide.resolve_mpp().value == 0.499
        assert slide.thumbnail(500).shape == (500, 374, 3)
        assert slide.thumbnail(500)[:60, -60:].min() > 225  # glass


def test_a_real_dicom_slide_is_read(shared_data: Path) -> None:
    name = "multiframe_camelyon_challenge_image.dcm"
    with open_slide(shared_data / "slides" / name) as slide:
        assert (slide.vendor, slide.size_l0) == ("dicom", (1152, 700))
        with pytest.raises(SagError, match="not plausible"):
            slide.resolve_mpp()
        assert slide.resolve_mpp(trust=True).value == pytest.approx(28.9685)


def test_a_real_tiff_of_another_kind_is_refused(shared_data: Path) -> None:
    assert "a TIFF, but" in refusal(shared_data / "slides" / "OS-1-detail.ome.tif")
