"""How long a map of many tiles takes to write, and how much memory.

    python benchmarks/report.py [--tiles 100000]

Each file of a slide's results is written in a process of its own; memory is what that process
needed at its peak beyond what it had before. The slide is one grey tile, repeated.
"""

import argparse
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

from sagdeploy.manifest import ExtractorCard, Manifest, ModelCard, Parity
from sagdeploy.pipeline.predict import Prediction, PredictOptions, SlideFacts, TissueFacts
from sagdeploy.report.folder import LAYERS, MAP, PAGE, RECORD, REGIONS, TILES, write_results
from sagdeploy.report.geojson import write_geojson
from sagdeploy.report.ome import write_ome_tiff
from sagdeploy.report.overlay import MAX_PX, encode_png, render_overlay
from sagdeploy.report.tables import write_tiles
from sagdeploy.serving.engine import Diagnosis
from sagdeploy.slides import tiff
from sagdeploy.slides.metadata import Mpp
from sagdeploy.slides.slide import open_slide
from sagdeploy.slides.tiling import TilePlan, Tiles
from sagdeploy.view.matching import SlideFinder
from sagdeploy.view.results import exhibits, read_results
from sagdeploy.view.site import Site
from tests.peak import peak_mib, restart_peak

SIDE_L0, MPP = 224, 0.5


@dataclass(frozen=True)
class Cost:
    """What one piece of work took."""

    seconds: float
    peak_mib: float
    """Beyond what the process had before."""


def cost_of(work: Callable[[], object]) -> Cost:
    """Time and memory of `work` in a process of its own."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=_measure, args=(work, there))
    process.start()
    seconds, peak_mib = here.recv()
    process.join()
    return Cost(seconds, peak_mib)


def _measure(work: Callable[[], object], pipe: Connection) -> None:
    before, started = restart_peak(), time.perf_counter()
    work()
    pipe.send((time.perf_counter() - started, peak_mib() - before))


def write_slide(path: Path, size_l0: tuple[int, int]) -> None:
    """A pyramid of one JPEG tile, repeated."""
    data = BytesIO()
    pixels = np.random.default_rng(0).normal(190, 12, (tiff.TILE_PX, tiff.TILE_PX, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(data, "JPEG", subsampling=2)
    with path.open("wb") as file:
        tiff.start(file)
        directories = []
        for scale in (1, 4, 16, 64):
            size = (-(-size_l0[0] // scale), -(-size_l0[1] // scale))
            count = math.prod(-(-side // tiff.TILE_PX) for side in size)
            directories.append(
                tiff.write_tiles(
                    file,
                    (data.getvalue() for _ in range(count)),
                    size_px=size,
                    mpp=MPP * scale,
                    is_reduced=scale > 1,
                )
            )
        tiff.finish(file, directories)


def make_prediction(count: int, size_l0: tuple[int, int], columns: int) -> Prediction:
    """Attention of hills and valleys, with noise, on a dense grid."""
    cells = np.arange(count)
    xy = np.stack([cells % columns, cells // columns], axis=1)
    tiles = Tiles(xy * SIDE_L0, (SIDE_L0, SIDE_L0), (224, 224), MPP)
    rng = np.random.default_rng(0)
    centres = rng.random((12, 2)) * xy.max(axis=0)
    distances = ((xy[:, None] - centres) ** 2).sum(axis=2)
    odds = np.exp(-distances / (columns / 12) ** 2).sum(axis=1) + 0.05 * rng.random(count)
    return Prediction(
        slide_id="large",
        manifest=_manifest(),
        diagnosis=Diagnosis(
            np.array([0.3, 0.7], np.float32),
            np.array([0, 0.85], np.float32),
            ((odds / odds.sum()).astype(np.float32),),
        ),
        tiles=(tiles,),
        tissue_coverage=(np.ones(count),),
        slide=SlideFacts(
            sha256="0" * 64,
            size_bytes=1_938_955,
            size_l0=size_l0,
            bounds_l0=(0, 0, *size_l0),
            mpp=Mpp(MPP, "metadata", MPP),
            vendor="generic-tiff",
            objective_power=None,
            levels=(size_l0,),
            missing_share=0.0,
        ),
        tissue=TissueFacts(0.25, 0.06),
        options=PredictOptions(),
        engine="none",
        counts={"tiles": count},
        warnings=(),
    )


def _manifest() -> Manifest:
    return Manifest(
        name="sag",
        version=1,
        classes=("benign", "malignant"),
        plan=TilePlan(),
        extractor=ExtractorCard(name="none", features=1, weights="none", sha256="0" * 64),
        diagnosis_sha256="0" * 64,
        card=ModelCard(
            model="abmil", guidance=(), seed=0, epoch=0, cohort_sha256="", slides={}, validation={}
        ),
        parity=Parity(tiles=(), extractor=(), diagnosis=()),
        software={},
    )


def main() -> None:
    """Print a table: what, seconds, MiB at the peak, MiB on disk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=100_000)
    count = parser.parse_args().tiles
    columns = math.ceil(math.sqrt(count * 1.4))
    size_l0 = (columns * SIDE_L0 + 100, -(-count // columns) * SIDE_L0 + 50)
    prediction = make_prediction(count, size_l0, columns)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_slide(folder / "slide.tif", size_l0)

        def draw() -> None:
            with open_slide(folder / "slide.tif") as slide:
                thumbnail = slide.thumbnail(MAX_PX)
            picture = render_overlay(
                thumbnail,
                slide_size_l0=size_l0,
                tiles=prediction.tiles[0],
                attention=prediction.diagnosis.attention[0],
            )
            (folder / MAP).write_bytes(encode_png(picture))

        def everything() -> None:
            with open_slide(folder / "slide.tif") as slide:
                write_results(prediction, slide, folder / "out" / "large")

        def view() -> None:
            site = Site(exhibits([read_results(folder / "out")]), SlideFinder([]))
            site.answer("0/0/attention.json")

        print(f"{count:,} tiles on a slide of {size_l0[0]:,} x {size_l0[1]:,} px")
        print(f"{'':24} {'seconds':>8} {'MiB peak':>9} {'MiB on disk':>12}")
        works: list[tuple[str, Callable[[], object], Path | None]] = [
            (MAP, draw, folder / MAP),
            (LAYERS, lambda: write_ome_tiff(folder / LAYERS, prediction), folder / LAYERS),
            (REGIONS, lambda: write_geojson(folder / REGIONS, prediction), folder / REGIONS),
            (TILES, lambda: write_tiles(folder / TILES, prediction), folder / TILES),
            (f"all, with {PAGE}", everything, folder / "out" / "large" / PAGE),
            (f"viewer, beside {RECORD}", view, None),
        ]
        for name, work, file in works:
            cost = cost_of(work)
            size = f"{file.stat().st_size / 2**20:12.1f}" if file else ""
            print(f"{name:24} {cost.seconds:8.2f} {cost.peak_mib:9.0f} {size}")


if __name__ == "__main__":
    main()
