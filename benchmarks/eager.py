"""The plain way to the same features: OpenSlide, Pillow, and PyTorch as it comes.

In a process of its own, whose threads and memory are not those of what it is compared with.
"""

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

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
        self._pipe.send((tiles.xy_l0, tiles.size_l0, tiles.size_px))
        self._pipe.recv()


def _serve(pipe: Connection, extractor: str, slide: Path, threads: int) -> None:
    import openslide
    import torch

    from sagdeploy.models.extractors import build_extractor

    torch.set_num_threads(threads)
    network = build_extractor(extractor, seed=0).eval()
    pipe.send("ready")
    while (request := pipe.recv()) is not None:
        corners, size_l0, size_px = request
        with openslide.OpenSlide(slide) as handle, torch.inference_mode():  # nothing decoded yet
            for start in range(0, len(corners), BATCH):
                regions = (
                    handle.read_region((x, y), 0, size_l0).convert("RGB")
                    for x, y in corners[start : start + BATCH].tolist()
                )
                batch = [np.asarray(_resized(region, size_px)) for region in regions]
                network(torch.from_numpy(np.stack(batch)))
        pipe.send("done")


def _resized(region: Image.Image, size: tuple[int, int]) -> Image.Image:
    return region if region.size == size else region.resize(size, Image.Resampling.BILINEAR)
