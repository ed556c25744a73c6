"""Regions of a slide's levels: OpenSlide's pixels, by the faster way where it gives the same."""

import logging
import math
import threading
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sagdeploy.errors import SlideError
from sagdeploy.slides.direct import DirectReader
from sagdeploy.slides.library import RGB, Handle, printable_name
from sagdeploy.slides.tally import PixelCount
from sagdeploy.slides.tileindex import UnfitError

log = logging.getLogger(__name__)

CACHE_BYTES: Final = 128 * 2**20
"""Decoded tiles that OpenSlide keeps: a row of them on a slide 100,000 px wide, so that tiles
read row by row decode each once."""

ASIDE_CACHE_BYTES: Final = 32 * 2**20
"""The same where OpenSlide reads only what the direct reader, which keeps its own, cannot."""

SAMPLES: Final = 3
"""Tiles of a level that are compared before its direct reading is trusted."""

Way = Literal["direct", "OpenSlide"]
Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels."""


class Region(NamedTuple):
    """A picture for Pillow to go on with, and of what level pixels it was made."""

    image: Image.Image
    read: PixelCount


class LevelReader:
    """Reads one open slide; threads may read at once.

    A level is read directly once a few of its tiles, tissue among them, were the same both ways.
    What cannot be read directly, even a single damaged tile, is left to OpenSlide: it ends as it
    always would. As OpenSlide's errors stay, nothing is read directly after one.
    """

    def __init__(self, handle: Handle, vendor: str, background_rgb: RGB) -> None:
        self._handle = handle
        self._background = background_rgb
        self._name = printable_name(handle.path.name)
        self._direct = self._opened = self._open_direct(vendor)
        self._is_trusted: dict[int, bool] = {}
        self._checking = threading.Lock()
        handle.keep(CACHE_BYTES)

    def close(self) -> None:
        """Give the file back."""
        self._direct = None
        if self._opened is not None:
            self._opened.close()
        self._handle.close()

    @property
    def way(self) -> Way:
        """How level 0 is read; compares the ways where that was not done yet."""
        return "direct" if self._may_direct(0) else "OpenSlide"

    def region(self, xy_l0: tuple[int, int], level: int, size: tuple[int, int]) -> Region:
        """A region of `size` level pixels."""
        if self._may_direct(level):
            pixels = np.empty((size[1], size[0], 3), np.uint8)
            if self._read_direct(xy_l0, level, pixels, factor=1):
                box = self._on_slide(xy_l0, level, size)
                return Region(Image.fromarray(pixels), _all_there(box))
        return self._by_openslide(xy_l0, level, size)

    def fill(
        self, xy_l0: tuple[int, int], level: int, out: NDArray[np.uint8], *, factor: int
    ) -> PixelCount:
        """The same into `out`, uint8 RGB (h, w, 3), averaged over factor x factor level pixels."""
        size = (out.shape[1] * factor, out.shape[0] * factor)
        if self._may_direct(level) and self._read_direct(xy_l0, level, out, factor=factor):
            return _all_there(self._on_slide(xy_l0, level, size))
        region = self.region(xy_l0, level, size)
        out[:] = np.asarray(averaged(region.image, factor))
        return region.read

    def _by_openslide(self, xy_l0: tuple[int, int], level: int, size: tuple[int, int]) -> Region:
        try:
            image, alpha = self._handle.region(xy_l0, level, size, self._background)
        except SlideError:
            self._direct = None
            raise
        box = self._on_slide(xy_l0, level, size)
        count = _all_there(box)
        if alpha is not None and count.read:
            count = PixelCount(count.read, alpha.crop(box).histogram()[0])
        return Region(image, count)

    def _on_slide(self, xy_l0: tuple[int, int], level: int, size: tuple[int, int]) -> Box:
        """The part of a region whose pixels lie wholly on the slide, in pixels of the region."""
        whole, downsample = self._handle.levels[level]
        x, y = xy_l0[0] / downsample, xy_l0[1] / downsample
        left, top = max(0, math.ceil(-x)), max(0, math.ceil(-y))
        right, bottom = math.floor(whole[0] - x), math.floor(whole[1] - y)
        return left, top, max(left, min(size[0], right)), max(top, min(size[1], bottom))

    def _read_direct(
        self, xy_l0: tuple[int, int], level: int, out: NDArray[np.uint8], *, factor: int
    ) -> bool:
        """Whether `out` was filled.

        Not where OpenSlide would interpolate, an average would cross tiles, or one is damaged.
        """
        direct, downsample = self._direct, self._handle.levels[level].downsample
        x, y = xy_l0[0] / downsample, xy_l0[1] / downsample
        if direct is None or not (x.is_integer() and y.is_integer()):
            return False
        xy = (int(x), int(y))
        if not direct.can_average(level, xy, factor):
            return False
        try:
            direct.read(level, xy, out, factor=factor)
        except UnfitError as error:
            log.debug("%s: OpenSlide reads a region: %s", self._name, error)
            return False
        return True

    def _open_direct(self, vendor: str) -> DirectReader | None:
        try:
            return DirectReader(self._handle.path, vendor, self._handle.levels, self._background)
        except UnfitError as error:
            log.debug("%s: OpenSlide reads it all: %s", self._name, error)
            return None

    def _may_direct(self, level: int) -> bool:
        """Whether a level is read directly, which its first reader finds out."""
        direct = self._direct
        if direct is None or level not in direct.levels:
            return False
        if level not in self._is_trusted:
            with self._checking:
                if level not in self._is_trusted:
                    self._is_trusted[level] = self._agrees(direct, level)
        return self._is_trusted[level]

    def _agrees(self, direct: DirectReader, level: int) -> bool:
        """Whether sample tiles are the same both ways.

        OpenSlide gets a handle of its own for them: an error must not stay with the slide's.
        """
        downsample = int(self._handle.levels[level].downsample)
        try:
            reference = Handle(self._handle.path)
            try:
                for (x, y), size in direct.samples(level, SAMPLES):
                    pixels = np.empty((size[1], size[0], 3), np.uint8)
                    direct.read(level, (x, y), pixels)
                    xy_l0 = (x * downsample, y * downsample)
                    same = reference.region(xy_l0, level, size, self._background)
                    if not np.array_equal(pixels, np.asarray(same.rgb)):
                        raise UnfitError(f"other pixels at {xy_l0}")
            finally:
                reference.close()
        except (UnfitError, SlideError) as error:
            log.debug("%s: OpenSlide reads level %d: %s", self._name, level, error)
            return False
        log.debug("%s: level %d is read directly", self._name, level)
        self._handle.keep(ASIDE_CACHE_BYTES)
        return True


def _all_there(box: Box) -> PixelCount:
    """The count of a part that lacks nothing."""
    left, top, right, bottom = box
    return PixelCount((right - left) * (bottom - top))


def averaged(image: Image.Image, factor: int) -> Image.Image:
    """A picture with one pixel for factor x factor of its own."""
    return image.reduce(factor) if factor > 1 else image
