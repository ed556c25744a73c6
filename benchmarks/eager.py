"""The plain way to the same features: OpenSlide, Pillow, and PyTorch as it comes.

In a process of its own, whose threads and memory are not those of what it is compared with.
"""

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

import numpy as np

from sagdeploy.slides.tiling import Tiles

BATCH = 32


class Eager:
    """A process that waits to be told which tiles to do; in a `with` block."""

    def __init__(self, extractor: str, slide: Path, *, threads: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, extractor, slide, threads))
        self._process.start()
        self._pipe.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        self._process.join()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def run(self, tiles: Tiles) -> None:
        """Features of the tiles, which stay over there."""
        self._pipe.send((tiles.xy_l0, tiles.size_px[0]))
        self._pipe.recv()


def _serve(pipe: Connection, extractor: str, slide: Path, threads: int) -> None:
    import openslide
    import torch

    from sagdeploy.models.extractors import build_extractor

    torch.set_num_threads(threads)
    network = build_extractor(extractor, seed=0).eval()
    handle = openslide.OpenSlide(slide)
    pipe.send("ready")
    while (request := pipe.recv()) is not None:
        corners, side = request
        with torch.inference_mode():
            for start in range(0, len(corners), BATCH):
                batch = [
                    np.asarray(handle.read_region((int(x), int(y)), 0, (side, side)).convert("RGB"))
                    for x, y in corners[start : start + BATCH]
                ]
                network(torch.from_numpy(np.stack(batch)))
        pipe.send("done")
