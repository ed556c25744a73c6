"""The OpenSlide library: its version, its files, and its errors as one line.

The only door to OpenSlide. A hostile file can still make the C library abort the process,
which no `except` catches: read slides that you do not trust in a child process.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import openslide
from PIL import Image

from sagdeploy.errors import MissingExtraError, SlideError

OLDEST_LIBRARY: Final = (4, 0, 1)
"""The first OpenSlide without CVE-2026-48977: a crafted slide wrote where it liked."""

RGB = tuple[int, int, int]


class Level(NamedTuple):
    """One level of a slide's pyramid."""

    size: tuple[int, int]
    """(width, height) in the level's own pixels."""

    downsample: float
    """Level-0 pixels a pixel."""


class Picture(NamedTuple):
    """A region as OpenSlide gives it."""

    rgb: Image.Image
    """What is transparent shows the background."""

    alpha: Image.Image | None
    """0 where the file has no data; None where all is opaque."""


class Handle:
    """A slide that OpenSlide has opened. After its first error it gives nothing but errors."""

    def __init__(self, path: Path) -> None:
        check_library(library_version())
        self.path = path
        head = _head(path)
        with _one_line(path, head):
            self._slide = openslide.OpenSlide(path)
        self.levels = tuple(
            Level(size, downsample)
            for size, downsample in zip(
                self._slide.level_dimensions, self._slide.level_downsamples, strict=True
            )
        )

    @property
    def properties(self) -> Mapping[str, str]:
        """What the file says of itself."""
        return self._slide.properties

    def keep(self, cache_bytes: int) -> None:
        """Keep this much of what was decoded, as ARGB."""
        self._slide.set_cache(openslide.OpenSlideCache(cache_bytes))

    def close(self) -> None:
        """Give the file back."""
        self._slide.close()

    def region(
        self, xy_l0: tuple[int, int], level: int, size: tuple[int, int], background_rgb: RGB
    ) -> Picture:
        """A region of `size` level pixels."""
        with _one_line(self.path):
            region = self._slide.read_region((int(xy_l0[0]), int(xy_l0[1])), level, size)
        alpha = region.getchannel("A")
        if alpha.getextrema() == (255, 255):
            return Picture(region.convert("RGB"), None)
        opaque = Image.new("RGB", size, background_rgb)
        opaque.paste(region, mask=region)
        return Picture(opaque, alpha)


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


def printable_name(text: str) -> str:
    """A file's name for people: what cannot be printed is escaped."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _head(path: Path) -> bytes:
    """The first bytes of a regular file; asks first, as opening a FIFO would wait for ever."""
    name = printable_name(path.name)
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
    name = printable_name(path.name)
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
        reason = printable_name(str(error).replace(f"{path.parent}{os.sep}", ""))
        raise SlideError(f"{name}: {reason}", hint="the file is damaged: copy it again") from error
