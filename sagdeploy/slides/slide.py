"""A slide: its sizes, its scale, its pixels."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sagdeploy.errors import SlideError
from sagdeploy.slides.library import Handle, Level, printable_name
from sagdeploy.slides.metadata import (
    Mpp,
    MppSource,
    background_rgb,
    bounds_l0,
    centre_offset_nm,
    positive,
    resolve_mpp,
)
from sagdeploy.slides.reader import LevelReader, Region, Way, averaged
from sagdeploy.slides.tally import PixelCount, Tally

log = logging.getLogger(__name__)

MAX_SIDE_PX = 400_000
MAX_AREA_PX = 64 * 10**9
"""A whole glass at 40x is 304,000 x 104,000; a header that declares more is damage, or a bomb."""

MAX_LEVELS = 100
"""Scanners write ten at most."""

MAX_READ_PX = 4 * 2**30
"""Level pixels decoded for one picture; only a large slide without a pyramid needs more."""

BLOCK_PX = 2048
"""Side of the largest region asked of OpenSlide at once: 16 MiB as it hands it over."""

SAME_SCALE = 1e-3
"""Levels of a pyramid are whole pixels, so that their downsample is 4.0003 where 4 is meant."""


class Sampling(NamedTuple):
    """How a region becomes pixels: the same for all regions of one size."""

    level: int
    size: tuple[int, int]
    """Level pixels that are read, (width, height)."""

    factor: int
    """Averaged to one over this many pixels a side."""

    box: tuple[float, float, float, float] | None
    """Part of the averaged pixels that is resampled; None where they are the result."""


class Slide:
    """An open slide; made by `open_slide`, closed by leaving its `with` block.

    Threads may read from it at once. After one SlideError from `read` it is dead, as OpenSlide's
    errors latch: to go on past a damaged place, close it and open the slide again. Label and
    macro images, which may show a patient's name, are never touched.
    """

    def __init__(self, path: Path, handle: Handle) -> None:
        self.path = path
        self.name = printable_name(path.name)
        """The file's name, for people; its unprintable characters are escaped."""
        self.levels: tuple[Level, ...] = handle.levels
        self.size_l0 = self.levels[0].size
        said = handle.properties
        self.vendor = said.get("openslide.vendor", "unknown")
        self.objective_power = positive(said.get("openslide.objective-power"))
        self.metadata_mpp = (said.get("openslide.mpp-x"), said.get("openslide.mpp-y"))
        self.background_rgb = background_rgb(said.get("openslide.background-color", ""))
        self.bounds_l0 = bounds_l0(said, self.size_l0)
        self.centre_offset_nm = centre_offset_nm(said)
        self._pixels = LevelReader(handle, self.vendor, self.background_rgb)
        self._tally = Tally()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        self._pixels.close()

    @property
    def reader(self) -> Way:
        """Who decodes level 0: OpenSlide, or the faster direct reader, which gives the same."""
        return self._pixels.way

    @property
    def tiles_read(self) -> PixelCount:
        """Pixels that `read_tiles` has read so far, as often as it has, and those it missed."""
        return self._tally.count

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
        out = np.empty((size_px[1], size_px[0], 3), np.uint8)
        self._fill(out, xy_l0, self._sampling(size_l0, size_px))
        return out

    def read_tiles(
        self,
        xy_l0: NDArray[np.int64],
        *,
        size_l0: tuple[int, int],
        size_px: tuple[int, int],
        out: NDArray[np.uint8],
    ) -> None:
        """Fill `out`, uint8 RGB (n, h, w, 3), with the regions whose corners are `xy_l0` (n, 2).

        Each is what `read` gives of it.
        """
        sampling = self._sampling(size_l0, size_px)
        for pixels, (x, y) in zip(out, xy_l0.tolist(), strict=True):
            self._tally.add(self._fill(pixels, (x, y), sampling))

    def _sampling(self, size_l0: tuple[int, int], size_px: tuple[int, int]) -> Sampling:
        downsample = min(size_l0[0] / size_px[0], size_l0[1] / size_px[1])
        level = self._best_level(downsample)
        scale = self.levels[level].downsample
        wide, high = size_l0[0] / scale, size_l0[1] / scale
        factor = min(max(1, int(downsample / scale * (1 + SAME_SCALE))), BLOCK_PX)
        whole = (size_px[0] * factor, size_px[1] * factor)
        if max(abs(whole[0] - wide), abs(whole[1] - high)) <= 0.5:
            return Sampling(level, whole, factor, None)
        box = (0, 0, wide / factor, high / factor)
        return Sampling(level, (math.ceil(wide), math.ceil(high)), factor, box)

    def _fill(
        self, out: NDArray[np.uint8], xy_l0: tuple[int, int], sampling: Sampling
    ) -> PixelCount:
        level, size, factor, box = sampling
        if box is None and max(size) <= BLOCK_PX:
            return self._pixels.fill(xy_l0, level, out, factor=factor)
        image, count = self._shrunk(xy_l0, level, size, factor)
        if box is not None:
            image = image.resize((out.shape[1], out.shape[0]), Image.Resampling.BILINEAR, box)
        out[:] = np.asarray(image)
        return count

    @contextmanager
    def buffers(
        self, count: int, shape: tuple[int, ...]
    ) -> Iterator[tuple[NDArray[np.uint8], ...]]:
        """Arrays that `read_tiles` fills without a copy, for as long as the block lasts."""
        yield tuple(np.empty(shape, np.uint8) for _ in range(count))

    def _best_level(self, downsample: float) -> int:
        finer = [
            (level.downsample, index)
            for index, level in enumerate(self.levels)
            if level.downsample <= downsample * (1 + SAME_SCALE)
        ]
        return max(finer, default=(1.0, 0))[1]

    def _shrunk(
        self, xy_l0: tuple[int, int], level: int, size: tuple[int, int], factor: int
    ) -> Region:
        """A region of `size` level pixels, averaged over factor x factor of them, in blocks."""
        width, height = size
        side = BLOCK_PX // factor * factor
        if width <= side and height <= side:
            region = self._pixels.region(xy_l0, level, size)
            return Region(averaged(region.image, factor), region.read)
        if width * height > MAX_READ_PX:
            raise SlideError(
                f"{self.name}: no level is small enough to picture {width} x {height} px",
                hint="make a pyramid: vips tiffsave IN OUT.tif --tile --pyramid --bigtiff",
            )
        scale = self.levels[level].downsample
        image = Image.new("RGB", (-(-width // factor), -(-height // factor)))
        count = PixelCount()
        for y in range(0, height, side):
            for x in range(0, width, side):
                corner = (xy_l0[0] + round(x * scale), xy_l0[1] + round(y * scale))
                block = self._pixels.region(
                    corner, level, (min(side, width - x), min(side, height - y))
                )
                image.paste(averaged(block.image, factor), (x // factor, y // factor))
                count += block.read
        return Region(image, count)


def open_slide(path: Path) -> Slide:
    """The slide in a file of any format that OpenSlide reads; SlideError says why it is refused.

    A slide of several files is named by one of them: any .dcm of a DICOM folder, the .mrxs.
    """
    slide = Slide(path, Handle(path))
    (width, height), levels = slide.size_l0, len(slide.levels)
    too_large = max(width, height) > MAX_SIDE_PX or width * height > MAX_AREA_PX
    if too_large or levels > MAX_LEVELS:
        slide.close()
        declared = f"{width} x {height} px" if too_large else f"{levels} levels"
        raise SlideError(
            f"{slide.name}: declares {declared}, more than any scanner makes",
            hint="the header is damaged: copy the slide again",
        )
    log.debug("%s: %s, %d x %d px", slide.name, slide.vendor, width, height)
    return slide
