"""Triton on this machine against ONNX Runtime in process: speed, and memory over a large slide.

    python benchmarks/serving.py --extractor mobilenet_v2 --out serving.json

What is measured is `predict`'s way from tiles to a diagnosis. The tiles are synthetic and cost
next to nothing to read, and the weights are random, so that only the serving differs. The ways
alternate inside each round; of all rounds those count in which other programs took least of the
machine.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figure, as_text
from machine import Usage, group, resident, watched
from numpy.typing import NDArray

from sagdeploy.manifest import Manifest
from sagdeploy.pipeline.diagnose import diagnose_tiles
from sagdeploy.pipeline.stream import TileReader
from sagdeploy.serving.engine import Engine
from sagdeploy.serving.local import LocalEngine
from sagdeploy.serving.server import TritonServer
from sagdeploy.serving.triton import TritonEngine
from sagdeploy.slides.tiling import Tiles

MODEL = "sag"
TILE_PX = 224
SLIDE_TILES = 5000
"""Of the slide that slides per hour are told for."""
CLIENTS = (1, 4)
WAYS = ("in process", "HTTP", "shared memory")
TARGETS = {"HTTP": 0.85, "shared memory": 0.95}
SAMPLE_S = 0.1


class Texture(TileReader):
    """A reader whose tiles lie in memory."""

    def __init__(self) -> None:
        self._pixels = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)

    def read(
        self, xy_l0: tuple[int, int], size_l0: tuple[int, int], size_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """A view."""
        (x, y), (width, height) = xy_l0, size_px
        return self._pixels[y : y + height, x : x + width]


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one way was, with a number of clients at once."""

    way: str
    clients: int
    ms_per_tile: float
    spread: tuple[float, float]
    """Fastest and slowest of the rounds that count."""

    slides_per_hour: float
    """Of SLIDE_TILES tiles each, by all clients together."""

    ratio: float
    """To in process in the same round: 1 is as fast; the median."""

    cpu_ratio: float
    """The same of CPU seconds, client and server together; less a matter of other programs."""


@dataclass(frozen=True, slots=True)
class Memory:
    """MiB of client and server while one slide is streamed."""

    way: str
    tiles: int
    client_early: float
    """After a tenth of the slide."""

    client_peak: float
    server_early: float
    server_peak: float


Round = dict[tuple[str, int], Usage]
"""What each way took with each number of clients, one after the other."""


def main() -> None:
    """Measure, print the tables, and write them as JSON."""
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch) / "model_repository"
        _in_child(publish_model, repository, options.extractor)
        with TritonServer(repository, cache=options.cache) as server:
            rounds = measure_rounds(repository, server, options.tiles, options.rounds)
            memory = measure_memory(server, options.slide)
    quiet = sorted(rounds, key=others_of)[: options.kept]
    speeds = tuple(summarise(quiet, options.tiles))
    show(speeds, memory, quiet)
    reached = list(figures(speeds))
    print("\n" + as_text(reached))
    report = {
        "figures": [asdict(figure) for figure in reached],
        "extractor": options.extractor,
        "cores": len(os.sched_getaffinity(0)),
        "tiles": options.tiles,
        "rounds": len(rounds),
        "rounds_that_count": len(quiet),
        "others": [round(others_of(each), 3) for each in quiet],
        "speed": [asdict(each) for each in speeds],
        "memory": [asdict(each) for each in memory],
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n")


def publish_model(repository: Path, extractor: str) -> None:
    """Write the model that is served."""
    from random_model import publish_random

    publish_random(repository, MODEL, extractor=extractor, tile_px=TILE_PX)


def measure_rounds(repository: Path, server: TritonServer, tiles: int, rounds: int) -> list[Round]:
    """Each way with each number of clients, `rounds` times after one that does not count."""
    manifest = LocalEngine(repository).manifest(MODEL)
    measured = []
    for _ in range(rounds + 1):
        used: Round = {}
        for clients in CLIENTS:
            for way in WAYS:
                with engines(way, repository, server, clients) as asked:
                    diagnose(asked, manifest, 64)
                    with watched() as used[way, clients]:
                        diagnose(asked, manifest, tiles // clients)
        measured.append(used)
    return measured[1:]


@contextmanager
def engines(
    way: str, repository: Path, server: TritonServer, clients: int
) -> Iterator[list[Engine]]:
    """An engine for each client."""

    def make() -> Engine:
        if way == WAYS[0]:
            return LocalEngine(repository)
        return TritonEngine(server.url, shares_memory=way == WAYS[2])

    made = [make() for _ in range(clients)]
    yield made
    for engine in made:
        engine.close()


def diagnose(asked: Sequence[Engine], manifest: Manifest, tiles: int) -> None:
    """Each client has a slide of its own diagnosed, all at once."""

    def one(engine: Engine) -> None:
        diagnose_tiles(Texture(), (bag(tiles),), engine, manifest)

    with ThreadPoolExecutor(len(asked)) as clients:
        list(clients.map(one, asked))


def bag(count: int) -> Tiles:
    """Places of tiles in the texture."""
    corners = np.random.default_rng(1).integers(0, 1024 - TILE_PX, (count, 2))
    size = (TILE_PX, TILE_PX)
    return Tiles(corners.astype(np.int64), size, size, 0.5)


def summarise(rounds: Sequence[Round], tiles: int) -> Iterator[Speed]:
    """Medians over rounds."""
    for clients in CLIENTS:
        done = tiles // clients * clients
        for way in WAYS:
            used = [each[way, clients] for each in rounds]
            base = [each[WAYS[0], clients] for each in rounds]
            pairs = list(zip(base, used, strict=True))
            ms = sorted(1e3 * usage.seconds / done for usage in used)
            yield Speed(
                way=way,
                clients=clients,
                ms_per_tile=statistics.median(ms),
                spread=(ms[0], ms[-1]),
                slides_per_hour=3.6e6 / statistics.median(ms) / SLIDE_TILES,
                ratio=statistics.median(b.seconds / u.seconds for b, u in pairs),
                cpu_ratio=statistics.median(b.cpu_s / u.cpu_s for b, u in pairs),
            )


def figures(speeds: Sequence[Speed]) -> Iterator[Figure]:
    """What has a target."""
    for speed in speeds:
        if speed.way in TARGETS:
            name = f"P8 {speed.way} / in process, clients: {speed.clients}"
            yield Figure(name, speed.ratio, TARGETS[speed.way])


def others_of(each: Round) -> float:
    """Largest share of the machine that other programs took in a round."""
    return max(usage.others for usage in each.values())


def measure_memory(server: TritonServer, tiles: int) -> tuple[Memory, ...]:
    """Client and server over one large slide, each client a process of its own."""
    return tuple(_in_child(stream_slide, server.url, server.pid, way, tiles) for way in WAYS[1:])


def stream_slide(url: str, server: int, way: str, tiles: int) -> Memory:
    """Memory of this process and of the server's while a slide is diagnosed."""
    samples: list[tuple[float, float]] = []
    done, is_over = 0, threading.Event()
    early = tiles // 10
    at_early: list[tuple[float, float]] = []

    def sample() -> None:
        while not is_over.wait(SAMPLE_S):
            samples.append((resident(os.getpid()), sum(map(resident, group(server)))))

    def progress(count: int) -> None:
        nonlocal done
        done += count
        if done >= early and not at_early and samples:
            at_early.append(samples[-1])

    engine = TritonEngine(url, shares_memory=way == WAYS[2])
    sampler = threading.Thread(target=sample)
    sampler.start()
    manifest = engine.manifest(MODEL)
    diagnose_tiles(Texture(), (bag(tiles),), engine, manifest, progress=progress)
    is_over.set()
    sampler.join()
    engine.close()
    ((client, server_mib),) = at_early
    clients, servers = zip(*samples, strict=True)
    return Memory(way, tiles, client, max(clients), server_mib, max(servers))


def show(speeds: Sequence[Speed], memory: Sequence[Memory], rounds: Sequence[Round]) -> None:
    """Print the tables."""
    others = statistics.median(map(others_of, rounds))
    print(f"medians of {len(rounds)} rounds; other programs took {100 * others:.0f} %")
    print(
        f"{'clients':>7}  {'way':<14}{'ms/tile':>8}  {'spread':<15}{'slides/h':>9}"
        f"{'ratio':>7}{'of CPU':>8}"
    )
    for each in speeds:
        spread = f"{each.spread[0]:.2f} to {each.spread[1]:.2f}"
        print(
            f"{each.clients:>7}  {each.way:<14}{each.ms_per_tile:>8.2f}  {spread:<15}"
            f"{each.slides_per_hour:>9.0f}{each.ratio:>7.2f}{each.cpu_ratio:>8.2f}"
        )
    print(f"\n{'tiles':>7}  {'way':<14}{'client MiB':>18}{'server MiB':>18}")
    for held in memory:
        client = f"{held.client_early:.0f}, peak {held.client_peak:.0f}"
        server = f"{held.server_early:.0f}, peak {held.server_peak:.0f}"
        print(f"{held.tiles:>7}  {held.way:<14}{client:>18}{server:>18}")


def _in_child(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` returns in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--extractor", default="mobilenet_v2", help="one of the trained names")
    parser.add_argument("--tiles", type=int, default=1024, help="of a measurement")
    parser.add_argument("--slide", type=int, default=20_000, help="tiles of the memory's slide")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--kept", type=int, default=5, help="rounds that count, the quietest")
    parser.add_argument("--cache", type=Path, help="folder of the server's environment")
    parser.add_argument("--out", type=Path, default=Path("serving.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
