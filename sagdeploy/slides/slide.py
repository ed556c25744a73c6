"""A slide as OpenSlide reads it: its sizes, its scale, its pixels.

The only door to OpenSlide. A hostile file can still make the C library abort the process,
which no `except` catches: read slides that you do not trust in a child process.
"""

import logging
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from sagdeploy.errors import MissingExtraError, SlideError
from sagdeploy.slides.metadata import (
    Mpp,
    MppSource,
    background_rgb,
    bounds_l0,
    centre_offset_nm,
    positive,
    resolve_mpp,
)

log = logging.getLogger(__name__)

OLDEST_LIBRARY = (4, 0, 1)
"""The first OpenSlide without CVE-2026-48977: a crafted slide wrote where it liked."""

MAX_SIDE_PX = 400_000
MAX_AREA_PX = 64 * 10**9
"""A whole glass at 40x is 304,000 x 104,000; a header that declares more is damage, or a bomb."""

MAX_READ_PX = 4 * 2**30
"""Level pixels decoded for one picture; only a large slide without a pyramid needs more."""

BLOCK_PX = 2048
"""Side of the largest region asked of OpenSlide at once: 16 MiB as it hands it over."""

CACHE_BYTES = 128 * 2**20
"""Decoded JPEG tiles kept: a row of them on a slide 100,000 px wide, so that tiles read row
by row decode each once."""

SAME_SCALE = 1e-3
"""Levels of a pyramid are whole pixels, so that their downsample is 4.0003 where 4 is meant."""


class Level(NamedTuple):
    """One level of a slide's pyramid."""

    size: tuple[int, int]
    """(width, height) in the level's own pixels."""

    downsample: float
    """Level-0 pixels a pixel."""


class Slide:
    """An open slide; made by `open_slide`, closed by leaving its `with` block.

    Threads may read from it at once. After one SlideError from `read` it is dead, as OpenSlide's
    errors latch: to go on past a damaged place, close it and open the slide again. Label and
    macro images, which may show a patient's name, are never touched.
    """

    def __init__(self, path: Path, handle: openslide.OpenSlide) -> None:
        self._handle = handle
        self.path = path
        self.name = _printable(path.name)
        """The file's name, for people; its unprintable characters are escaped."""
        self.levels = tuple(
            Level(size, downsample)
            for size, downsample in zip(
                handle.level_dimensions, handle.level_downsamples, strict=True
            )
        )
        self.size_l0 = self.levels[0].size
        said = handle.properties
        self.vendor = said.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
        self.objective_power = positive(said.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER))
        self.metadata_mpp = (
            said.get(openslide.PROPERTY_NAME_MPP_X),
            said.get(openslide.PROPERTY_NAME_MPP_Y),
        )
        self.background_rgb = background_rgb(said.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, ""))
        self.bounds_l0 = bounds_l0(said, self.size_l0)
        self.centre_offset_nm = centre_offset_nm(said)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        self._handle.close()

    def resolve_mpp(
        self,
        override: float | None = None,
        *,
        source: MppSource = "option",
        trust: bool = False,
    ) -> Mpp:
        """Microns per pixel of this slide; see `slides.metadata`."""
        return resolve_mpp(
            self.metadata_mpp, name=self.name, override=override, source=source, trust=trust
        )

    def thumbnail(self, max_px: int) -> NDArray[np.uint8]:
        """The whole slide as RGB (h, w, 3), its longer side at most `max_px`, never enlarged."""
        longest = max(self.size_l0)
        kept = min(max_px, longest)
        width, height = (max(1, round(side * kept / longest)) for side in self.size_l0)
        return self.read((0, 0), self.size_l0, (width, height))

    def read(
        self, xy_l0: tuple[int, int], size_l0: tuple[int, int], size_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """A region of the slide as RGB (h, w, 3), resampled to `size_px`.

        The resampling rule is fixed, because features depend on it. Read from the coarsest level
        that is not coarser than wanted (by more than 0.1 %). Shrink by the largest whole factor,
        averaging its pixels (box). What remains, less than a factor of two or an enlargement,
        is done by Pillow's antialiased BILINEAR. So a level that fits is taken as it is, a whole
        multiple is a pure box average, and a tile depends on its own pixels only.

        What is transparent (never scanned, lost, or beyond the slide) becomes the colour of the
        background. Memory beside the result is bounded, whatever the region.
        """
        downsample = min(size_l0[0] / size_px[0], size_l0[1] / size_px[1])
        level = self._best_level(downsample)
        scale = self.levels[level].downsample
        wide, high = size_l0[0] / scale, size_l0[1] / scale
        factor = min(max(1, int(downsample / scale * (1 + SAME_SCALE))), BLOCK_PX)
        whole = (size_px[0] * factor, size_px[1] * factor)
        if max(abs(whole[0] - wide), abs(whole[1] - high)) <= 0.5:
            return np.asarray(self._shrunk(xy_l0, level, whole, factor), np.uint8)
        image = self._shrunk(xy_l0, level, (math.ceil(wide), math.ceil(high)), factor)
        box = (0, 0, wide / factor, high / factor)
        return np.asarray(image.resize(size_px, Image.Resampling.BILINEAR, box), np.uint8)

    def _best_level(self, downsample: float) -> int:
        finer = [
            (level.downsample, index)
            for index, level in enumerate(self.levels)
            if level.downsample <= downsample * (1 + SAME_SCALE)
        ]
        return max(finer, default=(1.0, 0))[1]

    def _shrunk(
        self, xy_l0: tuple[int, int], level: int, size: tuple[int, int], factor: int
    ) -> Image.Image:
        """A region of `size` level pixels, averaged over factor x factor of them, in blocks."""
        width, height = size
        side = BLOCK_PX // factor * factor
        if width <= side and height <= side:
            return _reduced(self._region(xy_l0, level, size), factor)
        if width * height > MAX_READ_PX:
            raise SlideError(
                f"{self.name}: no level is small enough to picture {width} x {height} px",
                hint="make a pyramid: vips tiffsave IN OUT.tif --tile --pyramid --bigtiff",
            )
        scale = self.levels[level].downsample
        image = Image.new("RGB", (-(-width // factor), -(-height // factor)))
        for y in range(0, height, side):
            for x in range(0, width, side):
                corner = (xy_l0[0] + round(x * scale), xy_l0[1] + round(y * scale))
                block = self._region(corner, level, (min(side, width - x), min(side, height - y)))
                image.paste(_reduced(block, factor), (x // factor, y // factor))
        return image

    def _region(self, xy_l0: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        with _one_line(self.path):
            region = self._handle.read_region((int(xy_l0[0]), int(xy_l0[1])), level, size)
        if region.getchannel("A").getextrema() == (255, 255):
            return region.convert("RGB")
        opaque = Image.new("RGB", size, self.background_rgb)
        opaque.paste(region, mask=region)
        return opaque


def open_slide(path: Path) -> Slide:
    """The slide in a file of any format that OpenSlide reads; SlideError says why it is refused.

    A slide of several files is named by one of them: any .dcm of a DICOM folder, the .mrxs.
    """
    check_library(library_version())
    head = _head(path)
    with _one_line(path, head):
        handle = openslide.OpenSlide(path)
        handle.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        slide = Slide(path, handle)
    width, height = slide.size_l0
    if max(width, height) > MAX_SIDE_PX or width * height > MAX_AREA_PX:
        slide.close()
        raise SlideError(
            f"{slide.name}: declares {width} x {height} px, more than any scanner makes",
            hint="the header is damaged: copy the slide again",
        )
    log.debug("%s: %s, %d x %d px", slide.name, slide.vendor, width, height)
    return slide


def library_version() -> str:
    """Version of the OpenSlide library in use."""
    return str(openslide.__library_version__)


def check_library(version: str) -> None:
    """Refuse an OpenSlide library with known holes, by MissingExtraError."""
    if tuple(int(part) for part in re.findall(r"\d+", version)[:3]) < OLDEST_LIBRARY:
        raise MissingExtraError(
            f"OpenSlide {version} is older than {'.'.join(map(str, OLDEST_LIBRARY))} and unsafe",
            hint="pip install --upgrade openslide-bin",
        )


def _head(path: Path) -> bytes:
    """The first bytes of a regular file; asks first, as opening a FIFO would wait for ever."""
    name = _printable(path.name)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise SlideError(
                f"{name}: a folder, not a slide", hint="a DICOM slide is any .dcm of its folder"
            )
        if not stat.S_ISREG(status.st_mode):
            raise SlideError(f"{name}: not a regular file")
        if status.st_size == 0:
            raise SlideError(f"{name}: an empty file", hint="copy the slide again")
        with path.open("rb") as file:
            return file.read(8)
    except OSError as error:
        raise SlideError(f"{name}: {error.strerror}", hint="check the path") from error
    except ValueError as error:  # a NUL in the name
        raise SlideError(f"{name}: {error}", hint="check the path") from error


@contextmanager
def _one_line(path: Path, head: bytes = b"") -> Iterator[None]:
    """Turns OpenSlide's errors into a SlideError that names the file, without its folder."""
    name = _printable(path.name)
    try:
        yield
    except openslide.OpenSlideUnsupportedFormatError as error:
        what = (
            "a TIFF, but truncated, not tiled, or of an unknown kind"
            if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
            else f"not a slide: it starts with {head!r}"
        )
        raise SlideError(
            f"{name}: {what}",
            hint="copy it again, or convert it: vips tiffsave IN OUT.tif --tile --pyramid",
        ) from error
    except openslide.OpenSlideError as error:
        reason = _printable(str(error).replace(f"{path.parent}{os.sep}", ""))
        raise SlideError(f"{name}: {reason}", hint="the file is damaged: copy it again") from error


def _reduced(image: Image.Image, factor: int) -> Image.Image:
    return image.reduce(factor) if factor > 1 else image


def _printable(text: str) -> str:
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
