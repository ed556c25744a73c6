"""The attention as numbers in the slide's frame: a pyramidal OME-TIFF that viewers overlay.

One image a magnification, with two channels: the attention of the tile at each pixel, and its
percentile; 0 where there is no tile. Its (0, 0) is that of the whole slide, and its pixels are a
whole number of level-0 pixels wide, which `PhysicalSize` gives in microns. Reference: the OME
model 2016-06.
"""

import math
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from sagdeploy.files import write_whole
from sagdeploy.pipeline.predict import Prediction
from sagdeploy.report.scale import percentiles
from sagdeploy.slides import tiff
from sagdeploy.slides.tiff import TILE_PX, Directory
from sagdeploy.slides.tiling import Tiles

MAX_PIXELS: Final = 2**24
"""Of one plane: 64 MiB, whatever the slide."""

PER_TILE: Final = 8
"""Pixels a side of the smallest tile, where the tiles lie on no coarser lattice of the slide."""

SCHEMA: Final = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
CHANNELS: Final = ("attention", "percentile")

Plane = NDArray[np.float32]


class Frame(NamedTuple):
    """The pixels of a map."""

    downsample: int
    """Level-0 pixels a pixel."""

    size_px: tuple[int, int]


def write_ome_tiff(path: Path, prediction: Prediction) -> None:
    """Write the attention of all magnifications, whole or not at all."""
    magnifications = tuple(zip(prediction.tiles, prediction.diagnosis.attention, strict=True))
    frames = [_frame(tiles, prediction.slide.size_l0) for tiles, _ in magnifications]
    with write_whole(path) as partial, partial.open("wb") as file:
        tiff.start(file)
        planes = [
            _write_plane(file, paint(frame, tiles, values), frame, prediction.slide.mpp.value)
            for (tiles, attention), frame in zip(magnifications, frames, strict=True)
            for values in (attention, percentiles(attention))
        ]
        planes[0] = replace(planes[0], description=_xml(prediction, frames))
        tiff.finish(file, planes)


def paint(frame: Frame, tiles: Tiles, values: NDArray[np.floating]) -> Plane:
    """(h, w) the value of the tile at each pixel, the highest where tiles overlap; else 0."""
    start = (tiles.xy_l0 // frame.downsample).clip(0)
    stop = np.maximum((tiles.xy_l0 + tiles.size_l0) // frame.downsample, start + 1)
    plane = np.zeros(frame.size_px[::-1], np.float32)
    order = np.argsort(values, kind="stable")
    edges = np.hstack([start, stop])[order].tolist()
    for (x0, y0, x1, y1), value in zip(edges, values[order].tolist(), strict=True):
        plane[y0:y1, x0:x1] = value
    return plane


def _frame(tiles: Tiles, size_l0: tuple[int, int]) -> Frame:
    """The coarsest pixels on whose edges all tiles lie, or else a fraction of a tile."""
    lattice = math.gcd(*tiles.size_l0, *np.unique(tiles.xy_l0).tolist())
    downsample = max(lattice, min(tiles.size_l0) // PER_TILE, 1)
    while math.prod(size := _shrunk(size_l0, downsample)) > MAX_PIXELS:
        downsample *= 2
    return Frame(downsample, size)


def _write_plane(file: BinaryIO, plane: Plane, frame: Frame, mpp: float) -> Directory:
    """Write a plane and its smaller levels, each half as large, down to a single tile."""
    levels: list[Directory] = []
    downsample = frame.downsample
    while True:
        height, width = plane.shape
        levels.append(
            tiff.write_tiles(
                file,
                _compressed(plane),
                size_px=(width, height),
                mpp=mpp * downsample,
                is_reduced=bool(levels),
                pixels="float",
            )
        )
        if max(plane.shape) <= TILE_PX:
            return replace(levels[0], smaller=tuple(levels[1:]))
        plane, downsample = _halved(plane), downsample * 2


def _compressed(plane: Plane) -> Iterator[bytes]:
    for y in range(0, plane.shape[0], TILE_PX):
        for x in range(0, plane.shape[1], TILE_PX):
            part = plane[y : y + TILE_PX, x : x + TILE_PX]
            tile = np.zeros((TILE_PX, TILE_PX), "<f4")
            tile[: part.shape[0], : part.shape[1]] = part
            yield zlib.compress(tile.tobytes(), 6)


def _halved(plane: Plane) -> Plane:
    """Half as large; the highest of each four, so that no hot tile is lost."""
    height, width = plane.shape
    even = np.pad(plane, ((0, height % 2), (0, width % 2)))
    halved: Plane = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).max(axis=(1, 3))
    return halved


def _xml(prediction: Prediction, frames: list[Frame]) -> str:
    """What the file holds, as OME-XML."""
    manifest, mpp = prediction.manifest, prediction.slide.mpp.value
    images = "".join(
        _image(index, f"{manifest.name} {manifest.version}, mpp {tiles.mpp:g}", frame, mpp)
        for index, (tiles, frame) in enumerate(zip(prediction.tiles, frames, strict=True))
    )
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{SCHEMA}" Creator="sagdeploy"'
        ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
        f' xsi:schemaLocation="{SCHEMA} {SCHEMA}/ome.xsd">{images}</OME>'
    )


def _image(index: int, name: str, frame: Frame, mpp: float) -> str:
    (width, height), um = frame.size_px, f"{mpp * frame.downsample:.9g}"
    channels = "".join(
        f'<Channel ID="Channel:{index}:{number}" Name="{channel}" SamplesPerPixel="1"/>'
        for number, channel in enumerate(CHANNELS)
    )
    planes = "".join(
        f'<TiffData IFD="{len(CHANNELS) * index + number}" FirstC="{number}" PlaneCount="1"/>'
        for number in range(len(CHANNELS))
    )
    return (
        f'<Image ID="Image:{index}" Name={quoteattr(name)}><Pixels ID="Pixels:{index}"'
        f' DimensionOrder="XYCZT" Type="float" BigEndian="false" SizeX="{width}"'
        f' SizeY="{height}" SizeC="{len(CHANNELS)}" SizeZ="1" SizeT="1"'
        f' PhysicalSizeX="{um}" PhysicalSizeXUnit="&#181;m" PhysicalSizeY="{um}"'
        f' PhysicalSizeYUnit="&#181;m">{channels}{planes}</Pixels></Image>'
    )


def _shrunk(size_l0: tuple[int, int], downsample: int) -> tuple[int, int]:
    return -(-size_l0[0] // downsample), -(-size_l0[1] // downsample)
