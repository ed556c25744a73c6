"""Ways to do the same tiles of a slide, one after the other, round by round.

Seconds are a tile's. Every way has tiles that it had not before, so that none lies decoded in a
cache. The letters of the figures are those that the project has set itself as targets.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from eager import Eager
from figures import Figure
from machine import watched
from stand_ins import Held, device, nothing

from sagdeploy.pipeline.stream import Infer, TileReader, stream_features
from sagdeploy.serving.engine import ON_CORES, Pace
from sagdeploy.slides.slide import Slide
from sagdeploy.slides.tiling import Tiles

MODEL, MODEL_INT8 = "sag", "sag_int8"

EAGER = {"mobilenet_v2": 7.0, "resnet18_instancenorm": 1.7}
"""P1: how many times as fast as the plain loop, which stands in for peers."""

EAGER_INT8 = {"mobilenet_v2": 12.6, "resnet18_instancenorm": 4.7}
"""P2: 9 and 5 times as fast as the fastest peer, as P1's 7 and 1.7 are 5 and 1.8 times."""

PLAIN_TILES = 64
"""The same of the plain loop."""

DEVICE = Pace(batch_tiles=16, in_flight=1)
PACES = (0.5, 1.0, 4.0)
"""Of the simulated device, as a multiple of the reader's."""

READ_TILES = 2048
"""Where nothing is inferred, and of what is inferred elsewhere."""

Round = dict[str, float]
"""Seconds a tile, by way."""


def measure(
    slides: dict[str, Slide],
    plan: Tiles,
    count: int,
    infers: dict[str, Infer],
    eager: Eager,
    rounds: int,
) -> list[tuple[Round, float]]:
    """Rounds of `count` tiles, each with the share of the machine that other programs took."""
    near, far, infer = slides["near"], slides["isolated"], infers[MODEL]
    some, many, few = (windows(plan, size) for size in (count, READ_TILES, PLAIN_TILES))

    def plain() -> float:
        window = next(few)
        return timed(lambda: eager.run(window)) / len(window)

    def stream(
        slide: TileReader, extractor: Infer, tiles: Iterator[Tiles] = some, pace: Pace = ON_CORES
    ) -> float:
        window = next(tiles)
        return timed(lambda: stream_features(slide, window, extractor, pace=pace)) / len(window)

    ways: dict[str, Callable[[], float]] = {
        "read": lambda: stream(far, nothing, many),
        "infer": lambda: stream(Held(), infer),
        "isolated": lambda: stream(far, infer),
        "int8": lambda: stream(far, infers[MODEL_INT8]),
        "in process": lambda: stream(near, infer),
        "plain loop": plain,
    }
    measured = []
    for number in range(rounds + 1):
        with watched(eager.pid) as usage:
            took = {name: way() for name, way in ways.items()}
            for pace in PACES:
                simulated = device(pace / took["read"])
                took[f"device {pace:g}"] = stream(far, simulated, many, DEVICE)
        if number:  # the first one warms up
            measured.append((took, usage.others))
    return measured


def windows(plan: Tiles, count: int) -> Iterator[Tiles]:
    """Other tiles each time, so that none lies decoded in a cache; round and round."""
    starts = range(0, max(1, len(plan) - count + 1), count)
    for start in itertools.cycle(starts):
        yield replace(plan, xy_l0=plan.xy_l0[start : start + count])


def figures(extractor: str, rounds: Sequence[Round]) -> Iterator[Figure]:
    """What the rounds come to."""

    def ratio(what: str, of: Callable[[Round], float], target: float) -> Figure:
        values = sorted(map(of, rounds))
        return Figure(what, statistics.median(values), target, spread=(values[0], values[-1]))

    yield ratio(
        "P1 plain loop / pipeline", lambda r: r["plain loop"] / r["isolated"], EAGER[extractor]
    )
    yield ratio(
        "P2 plain loop / pipeline in int8",
        lambda r: r["plain loop"] / r["int8"],
        EAGER_INT8[extractor],
    )
    yield ratio("P3 of the CPU bound", lambda r: (r["read"] + r["infer"]) / r["isolated"], 0.95)
    for pace in PACES:
        yield ratio(
            f"P3 of max(read, device), device {pace:g} x",
            lambda r, p=pace: max(r["read"], r["read"] / p) / r[f"device {p:g}"],  # type: ignore[misc]
            0.90,
        )
    yield ratio("P10 isolated against in process", lambda r: r["in process"] / r["isolated"], 0.95)


def timed(work: Callable[[], object]) -> float:
    """How long something takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
