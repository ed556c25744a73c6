"""How the bad slides of the corpus are made."""

import io
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from tests import bigtiff
from tests.bigtiff import LENGTHS, with_tag, without_tiles
from tests.corpus.kit import Kit
from tests.slides.tiled import REDUCED, Directory, jpeg, write_tiled
from tests.slides.tiled import cut as tiles_of

PAGE = 4096


def picture(kind: str) -> bytes:
    """A picture that is no slide."""
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), "plum").save(buffer, kind)
    return buffer.getvalue()


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * share)]


def zeroed(start: float, pages: int = 1) -> Callable[[bytes], bytes]:
    """Pages of the disk that were lost: the first at this share of the file."""

    def spoil(data: bytes) -> bytes:
        first = int(len(data) * start) // PAGE * PAGE
        lost = data[first : first + pages * PAGE]
        return data[:first] + bytes(len(lost)) + data[first + len(lost) :]

    return spoil


def tag(number: int, *values: int, directory: int = 0) -> Callable[[bytes], bytes]:
    return lambda data: with_tag(data, number, *values, directory=directory)


def looped(data: bytes) -> bytes:
    """The first directory leads to itself."""
    (start,) = struct.unpack_from("<Q", data, 8)
    (entries,) = struct.unpack_from("<Q", data, start)
    link = start + 8 + 20 * entries
    return data[:link] + struct.pack("<Q", start) + data[link + 8 :]


def half_missing(data: bytes) -> bytes:
    """Every second tile of level 0 was never scanned."""
    return without_tiles(data, range(0, len(data), 2))


def level_missing(kit: Kit) -> list[str]:
    """A small level shows tissue of which the large one has nothing."""
    levels = [
        Directory(pixels.shape[1::-1], 128, tiles_of(pixels, 128, jpeg()))
        for pixels in (kit.pixels, kit.pixels[::2, ::2])
    ]
    none = [b""] * len(levels[0].tiles)
    path = write_tiled(
        kit.folder / "slide.tif",
        [replace(levels[0], tiles=none), replace(levels[1], other=REDUCED)],
    )
    return kit.predict(path, "--mpp", "0.5")


def tiled(dtype: str, photometric: str, **options: object) -> Callable[[Kit], list[str]]:
    """A tiled TIFF with other pixels than eight bits of red, green and blue."""

    def make(kit: Kit) -> list[str]:
        pixels = kit.pixels if photometric == "rgb" else kit.pixels[..., 0]
        path = kit.folder / "slide.tif"
        scaled = pixels.astype(dtype) * (257 if dtype == "uint16" else 1)
        tifffile.imwrite(
            path, scaled, tile=(128, 128), photometric=photometric,
            resolution=(2e4, 2e4), resolutionunit="CENTIMETER", **options,  # type: ignore[arg-type]
        )  # fmt: skip
        return kit.predict(path)

    return make


def stripped(kit: Kit) -> list[str]:
    tifffile.imwrite(kit.folder / "slide.tif", kit.pixels, photometric="rgb")
    return kit.predict(kit.folder / "slide.tif")


def large_and_flat(kit: Kit) -> list[str]:
    """20,000 x 20,000 px without a pyramid, three columns in four of them empty."""
    tile = kit.pixels[:256, :256]
    path = bigtiff.write_flat(kit.folder / "slide.tif", tile, size_px=(20_000, 20_000), mpp=0.06)
    data = path.read_bytes()
    count = next(each.count for each in bigtiff.tags(data) if each.number == LENGTHS)
    side = 79
    place = next(each.place for each in bigtiff.tags(data) if each.number == LENGTHS)
    (length,) = struct.unpack_from("<Q", data, place)
    lengths = [length if i % side < 8 and i // side < 8 else 0 for i in range(count)]
    path.write_bytes(with_tag(data, LENGTHS, *lengths))
    return kit.predict(path)


def bomb(kit: Kit) -> list[str]:
    """A small file that declares 200,000 x 200,000 px, all the same tile."""
    tile = kit.pixels[:256, :256]
    path = bigtiff.write_flat(kit.folder / "slide.tif", tile, size_px=(300_000, 300_000))
    return kit.predict(path)


def many_levels(kit: Kit) -> list[str]:
    """A good slide, and a thousand smaller levels that are all the same."""
    path = bigtiff.write_svs(kit.folder / "slide.svs", kit.pixels, copies=1000)
    return kit.predict(path)


def stained(kit: Kit, colour: tuple[int, int, int]) -> Path:
    """The good slide in another stain."""
    grey = kit.pixels.astype(float).mean(axis=2, keepdims=True) / 255
    pixels = 255 - (255 - np.array(colour)) * (1 - grey) * 2.5
    return bigtiff.write_svs(kit.folder / "slide.svs", pixels.clip(0, 255).astype(np.uint8))


def pipe(kit: Kit) -> list[str]:
    os.mkfifo(kit.folder / "slide.svs")
    return kit.predict(kit.folder / "slide.svs")


def listening(kit: Kit) -> list[str]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(kit.folder / "slide.svs"))
    return kit.predict(kit.folder / "slide.svs")


def folder(kit: Kit) -> list[str]:
    (kit.folder / "slide.svs").mkdir()
    return kit.predict(kit.folder / "slide.svs")


def called(name: str | bytes) -> Callable[[Kit], list[str]]:
    """A good slide under a name that is trouble elsewhere."""

    def make(kit: Kit) -> list[str]:
        path = kit.folder / os.fsdecode(name)
        os.rename(kit.good(), path)
        return kit.predict(path)

    return make


def changing(kit: Kit) -> list[str]:
    """A slide that is being copied while it is read."""
    path = kit.good()

    def copy() -> None:
        for _ in range(2000):
            path.touch()
            time.sleep(0.005)

    threading.Thread(target=copy, daemon=True).start()
    return kit.predict(path)


def tiny(kit: Kit, side: int) -> Path:
    return bigtiff.write_svs(
        kit.folder / "slide.svs", kit.pixels[200 : 200 + side, 200 : 200 + side]
    )
