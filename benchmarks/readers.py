"""Ways to read the same tiles of a slide: the package's, OpenSlide's, and bare decoding."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sagdeploy.slides import jpeg, jpeg2000
from sagdeploy.slides.library import Handle
from sagdeploy.slides.slide import open_slide
from sagdeploy.slides.tileindex import read_bytes, read_index
from tests.slides.tiled import JPEG

Pixels = NDArray[np.uint8]
Batch = NDArray[np.int64]
Read = Callable[[list[Batch], int], Pixels]
"""Reads batches of tiles by a number of threads; returns the last."""

TILE_PX, BATCH_TILES, SVS_TILE_PX = 224, 16, 240
KEPT_BYTES = 128 * 2**20
WHITE = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Case:
    """What is read of a slide."""

    name: str
    path: Path
    factor: int
    """Level-0 pixels averaged to one, a side."""

    tiles: int
    """How many are read, from the first row on."""

    def batches(self) -> list[Batch]:
        """Corners of the tiles in batches, row by row."""
        side = self.side_l0
        with open_slide(self.path) as slide:
            width, height = slide.size_l0
        xs, ys = range(0, width - side + 1, side), range(0, height - side + 1, side)
        corners = np.array([(x, y) for y in ys for x in xs])[: self.tiles]
        return np.array_split(corners, -(-len(corners) // BATCH_TILES))

    def touched(self, across: int) -> list[int]:
        """Numbers of the compressed tiles that are needed, `across` of them in a row."""

        def spanned(start: int) -> range:
            return range(start // SVS_TILE_PX, (start + self.side_l0 - 1) // SVS_TILE_PX + 1)

        corners = np.concatenate(self.batches()).tolist()
        return sorted(
            {
                row * across + column
                for x, y in corners
                for row in spanned(y)
                for column in spanned(x)
            }
        )

    @property
    def side_l0(self) -> int:
        """Of a tile."""
        return TILE_PX * self.factor


@contextmanager
def by_us(case: Case) -> Iterator[Read]:
    """The package's reader."""
    size = (case.side_l0, case.side_l0)
    with open_slide(case.path) as slide:

        def one(corners: Batch, out: Pixels) -> None:
            slide.read_tiles(corners, size_l0=size, size_px=(TILE_PX, TILE_PX), out=out)

        assert slide.reader == "direct"
        yield partial(_at_once, one)


@contextmanager
def by_openslide(case: Case) -> Iterator[Read]:
    """OpenSlide's read_region, and Pillow for the rest."""
    size = (case.side_l0, case.side_l0)
    handle = Handle(case.path)
    handle.keep(KEPT_BYTES)

    def one(corners: Batch, out: Pixels) -> None:
        for pixels, (x, y) in zip(out, corners.tolist(), strict=True):
            region = handle.region((x, y), 0, size, WHITE).rgb
            pixels[:] = np.asarray(region if case.factor == 1 else region.reduce(case.factor))

    yield partial(_at_once, one)
    handle.close()


@contextmanager
def by_decoder(case: Case) -> Iterator[Read]:
    """Nothing but the decoding of the compressed tiles that are touched."""
    with case.path.open("rb") as file:
        index = read_index(file.fileno())[0]
        tiles = [
            read_bytes(file.fileno(), int(index.offsets[place]), int(index.lengths[place]))
            for place in case.touched(index.across)
        ]
    decode = jpeg2000.decode
    if index.compression == JPEG:
        decode = partial(jpeg.decode, jpeg.shared_start(index.photometric, index.tables))

    def one(part: list[bytes]) -> Pixels:
        out = np.empty((*index.tile_size[::-1], 3), np.uint8)
        for tile in part:
            decode(tile, out)
        return out

    def read(batches: list[Batch], threads: int) -> Pixels:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, [tiles[n::threads] for n in range(threads)]))[-1]

    yield read


def _at_once(one: Callable[[Batch, Pixels], None], batches: list[Batch], threads: int) -> Pixels:
    """Each thread has a buffer for a batch, and takes the next batch when it has read one."""
    waiting = iter(batches)
    lock = threading.Lock()

    def work() -> Pixels:
        buffer = np.empty((BATCH_TILES, TILE_PX, TILE_PX, 3), np.uint8)
        out = buffer
        while True:
            with lock:
                batch = next(waiting, None)
            if batch is None:
                return out
            out = buffer[: len(batch)]
            one(batch, out)

    with ThreadPoolExecutor(threads) as pool:
        return [job.result() for job in [pool.submit(work) for _ in range(threads)]][-1]


READERS: dict[str, Callable[[Case], AbstractContextManager[Read]]] = {
    "OpenSlide": by_openslide,
    "direct": by_us,
    "limit": by_decoder,
}
