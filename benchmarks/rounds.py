"""Ways to do the same tiles of a slide, one after the other, round by round.

Seconds are a tile's. Each way opens the slide anew, so that no tile lies decoded in a cache; the
ways of a round that have equally many tiles have the same. The letters of the figures are those
that the project has set itself as targets.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from eager import Eager
from figures import Figure
from machine import watched
from stand_ins import Held, device, nothing

from sagdeploy.pipeline.stream import Infer, TileReader, stream_features
from sagdeploy.serving.engine import ON_CORES, Pace
from sagdeploy.slides.isolation import open_isolated
from sagdeploy.slides.slide import Slide, open_slide
from sagdeploy.slides.tiling import Tiles

MODEL, MODEL_INT8 = "sag", "sag_int8"

EAGER = {"mobilenet_v2": 7.0, "resnet18_instancenorm": 1.7}
"""P1: how many times as fast as the plain loop, which stands in for peers."""

EAGER_INT8 = {"mobilenet_v2": 12.6, "resnet18_instancenorm": 4.7}
"""P2: 9 and 5 times as fast as the fastest peer, as P1's 7 and 1.7 are 5 and 1.8 times."""

READ_TILES = 2048
"""Where nothing is inferred here: so many that seconds pass."""

PLAIN_TILES = 64
"""Of the plain loop."""

DEVICE = Pace(batch_tiles=16, in_flight=2)
"""Like a GPU's: one request is computed, and the next one is there."""

PACES = (0.5, 1.0, 4.0)
"""Of the simulated device, as a multiple of the reader's."""

DEVICE_TILES = 32 * DEVICE.batch_tiles
"""With fewer, the reading of the first batch, in which a device idles, is what is measured."""

Round = dict[str, float]
"""Seconds a tile, by way."""


def measure(
    path: Path, plan: Tiles, count: int, infers: dict[str, Infer], eager: Eager, rounds: int
) -> list[tuple[Round, float]]:
    """Rounds of `count` tiles, each with the share of the machine that other programs took."""
    windows = [_windows(plan, size) for size in (count, READ_TILES, PLAIN_TILES)]
    measured = []
    for number in range(rounds + 1):
        with watched() as usage:
            took = _round(path, infers, eager, *map(next, windows))
        if number:  # the first one warms up
            measured.append((took, usage.others))
    return measured


def _round(
    path: Path, infers: dict[str, Infer], eager: Eager, some: Tiles, many: Tiles, few: Tiles
) -> Round:
    """Every way once."""
    infer, int8 = infers[MODEL], infers[MODEL_INT8]
    took = {
        "read": _stream(_fresh(open_isolated, path), many, nothing),
        "infer": _stream(nullcontext(Held()), some, infer),
        "isolated": _stream(_fresh(open_isolated, path), some, infer),
        "int8": _stream(_fresh(open_isolated, path), some, int8),
        "in process": _stream(_fresh(open_slide, path), some, infer),
        "plain loop": timed(lambda: eager.run(few)) / len(few),
    }
    if len(many) >= DEVICE_TILES:
        for pace in PACES:
            simulated = device(pace / took["read"])
            took[f"device {pace:g}"] = _stream(
                _fresh(open_isolated, path), many, simulated, pace=DEVICE
            )
    return took


def _stream(
    opening: AbstractContextManager[TileReader], tiles: Tiles, infer: Infer, pace: Pace = ON_CORES
) -> float:
    """Seconds a tile, without those of opening."""
    with opening as slide:
        return timed(lambda: stream_features(slide, tiles, infer, pace=pace)) / len(tiles)


@contextmanager
def _fresh(opener: Callable[[Path], Slide], path: Path) -> Iterator[Slide]:
    """The slide as it is after its first read, which compares some tiles with OpenSlide's."""
    with opener(path) as slide:
        slide.read((0, 0), (1, 1), (1, 1))
        yield slide


def _windows(plan: Tiles, count: int) -> Iterator[Tiles]:
    """Tiles from here and there on the slide, round and round."""
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
    for pace in (pace for pace in PACES if f"device {pace:g}" in rounds[0]):
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
