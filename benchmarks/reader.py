"""The reader against OpenSlide with Pillow, and against the bare decoding of the same tiles.

    python benchmarks/reader.py --real CMU-1-Small-Region.svs --out reader.json

The pixels are the same, which each case checks. The large slide is Aperio's kind, 240 px tiles at
4:2:2, all of tissue: painted once and repeated in random order. Tiles of 224 px are read row by
row in batches of 16. The ways alternate inside each round; of all rounds those count in which
other programs took least of the machine. `limit` is libjpeg-turbo or OpenJPEG alone, on tiles
that lie in memory, each decoded once, into a buffer that is warm.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from figures import Figure, as_text
from machine import Usage, watched
from readers import READERS, SVS_TILE_PX, Case, Pixels, by_openslide, by_us

from sagdeploy.slides.slide import open_slide
from sagdeploy.slides.synthetic import SlideSpec, paint_slide
from tests.slides.tiled import (
    JPEG,
    JPEG_2000_RGB,
    RGB,
    YCBCR,
    Directory,
    Encode,
    cut,
    write_tiled,
)
from tests.slides.tiled import jpeg as encode_jpeg
from tests.slides.tiled import jpeg_2000 as encode_jpeg_2000

PAINTED_PX = 2400
THREADS = (1, 2)
WAYS = ("OpenSlide", "direct", "limit")


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one way was in one case."""

    case: str
    threads: int
    way: str
    tiles_per_s: float
    spread: tuple[float, float]
    """Slowest and fastest of the rounds that count."""

    ratio: float
    """To OpenSlide in the same round; the median."""

    cpu_ratio: float
    """The same of CPU seconds; less a matter of other programs."""

    of_limit: float
    """Share of the limit in the same round, by CPU seconds."""


TARGETS = {
    "JPEG": 4.0,
    "JPEG, halved": 4.0,
    "JPEG 2000": 1.4,
    "real JPEG": 4.0,
    "real JPEG, halved": 4.0,
}

Round = dict[tuple[str, int, str], Usage]
"""What each case took, by its name, the threads and the way."""


def main() -> None:
    """Measure, print the tables, and write them as JSON."""
    options = _options()
    with tempfile.TemporaryDirectory() as scratch:
        cases = list(make_cases(Path(scratch), options.side, options.real))
        for case in cases:
            check(case)
        opening = [opened(case) for case in cases if case.factor == 1]
        rounds = [measure(cases) for _ in range(options.rounds + 1)][1:]
        quiet = sorted(rounds, key=others_of)[: options.kept]
        speeds = [speed for case in cases for speed in summarise(case, quiet)]
    show(speeds, opening, quiet)
    reached = list(figures(speeds))
    print("\n" + as_text(reached))
    report = {
        "figures": [asdict(figure) for figure in reached],
        "rounds": len(rounds),
        "rounds_that_count": len(quiet),
        "others": [round(others_of(each), 3) for each in quiet],
        "speed": [asdict(each) for each in speeds],
        "opening": opening,
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n")


def make_cases(folder: Path, side: int, real: Path | None) -> Iterator[Case]:
    """The slides, painted into a folder, and what is read of them."""
    painted = _painted(folder)
    svs = repeat(folder / "painted.svs", painted, side, encode_jpeg(70, "4:2:2"), JPEG, YCBCR)
    yield Case("JPEG", svs, 1, 1200)
    yield Case("JPEG, halved", svs, 2, 300)
    j2k = repeat(folder / "j2k.svs", painted, side // 5, encode_jpeg_2000, JPEG_2000_RGB, RGB)
    yield Case("JPEG 2000", j2k, 1, 200)
    if real:
        yield Case("real JPEG", real, 1, 1200)
        yield Case("real JPEG, halved", real, 2, 300)


def repeat(
    path: Path, painted: Pixels, side: int, encode: Encode, compression: int, photometric: int
) -> Path:
    """A slide of `side` px squared: the half of the tiles that compresses least, at random."""
    tiles = sorted(cut(painted, SVS_TILE_PX, encode), key=len)
    tissue = tiles[len(tiles) // 2 :]
    count = (-(-side // SVS_TILE_PX)) ** 2
    places = np.random.default_rng(0).integers(0, len(tissue), count)
    directory = Directory(
        size=(side, side),
        tile_px=SVS_TILE_PX,
        tiles=[tissue[place] for place in places],
        compression=compression,
        photometric=photometric,
        description=f"Aperio\r\n{side}x{side}|AppMag = 20|MPP = 0.5",
    )
    return write_tiled(path, [directory], big=True)


def check(case: Case) -> None:
    """That both ways give the same pixels of the first and the last batch."""
    batches = case.batches()
    for batch in (batches[0], batches[-1]):
        with by_us(case) as ours, by_openslide(case) as theirs:
            np.testing.assert_array_equal(ours([batch], 1), theirs([batch], 1))


def opened(case: Case) -> dict[str, float | str]:
    """Milliseconds from opening a slide to its first tile, both ways; the median of nine."""
    spent: dict[str, list[float]] = {way: [] for way in WAYS[:2]}
    first = [case.batches()[0][:1]]
    for _ in range(9):
        for way, taken in spent.items():
            begun = time.perf_counter()
            with READERS[way](case) as read:
                read(first, 1)
                taken.append(1e3 * (time.perf_counter() - begun))
    return {"case": case.name, **{way: statistics.median(ms) for way, ms in spent.items()}}


def measure(cases: Sequence[Case]) -> Round:
    """Each case each way, once; the slide is open already."""
    used: Round = {}
    for case in cases:
        batches = case.batches()
        for threads in THREADS:
            for way in WAYS:
                with READERS[way](case) as read, watched() as used[case.name, threads, way]:
                    read(batches, threads)
    return used


def _painted(folder: Path) -> Pixels:
    """A painted slide, at its full scale."""
    path, size = folder / "painted.tif", (PAINTED_PX, PAINTED_PX)
    paint_slide(path, SlideSpec(seed=3, size_l0=size, grade=1.0, pen=None))
    with open_slide(path) as slide:
        pixels: Pixels = slide.read((0, 0), size, size)
    return pixels


def summarise(case: Case, rounds: Sequence[Round]) -> Iterator[Speed]:
    """Medians over rounds."""
    tiles = sum(map(len, case.batches()))
    for threads in THREADS:
        for way in WAYS:
            used, base, limit = (
                [each[case.name, threads, other] for each in rounds]
                for other in (way, "OpenSlide", "limit")
            )
            rates = sorted(tiles / usage.seconds for usage in used)
            yield Speed(
                case=case.name,
                threads=threads,
                way=way,
                tiles_per_s=statistics.median(rates),
                spread=(rates[0], rates[-1]),
                ratio=_median_ratio([b.seconds for b in base], [u.seconds for u in used]),
                cpu_ratio=_median_ratio([b.cpu_s for b in base], [u.cpu_s for u in used]),
                of_limit=_median_ratio([b.cpu_s for b in limit], [u.cpu_s for u in used]),
            )


def figures(speeds: Sequence[Speed]) -> Iterator[Figure]:
    """What has a target: of one thread."""
    for speed in speeds:
        if (speed.way, speed.threads) == ("direct", 1):
            yield Figure(f"P4 {speed.case}, direct / OpenSlide", speed.ratio, TARGETS[speed.case])


def _median_ratio(base: Sequence[float], used: Sequence[float]) -> float:
    return statistics.median(b / u for b, u in zip(base, used, strict=True))


def others_of(each: Round) -> float:
    """Share of the machine that other programs took in a round."""
    seconds = sum(usage.seconds for usage in each.values())
    return sum(usage.others * usage.seconds for usage in each.values()) / seconds


def show(
    speeds: Sequence[Speed], opening: Sequence[dict[str, float | str]], rounds: Sequence[Round]
) -> None:
    """Print the tables."""
    others = statistics.median(map(others_of, rounds))
    print(f"medians of {len(rounds)} rounds; other programs took {100 * others:.0f} %")
    print(
        f"{'case':<19}{'threads':>7}  {'way':<10}{'tiles/s':>8}  {'spread':<14}"
        f"{'ratio':>6}{'of CPU':>8}{'of limit':>10}"
    )
    for each in speeds:
        spread = f"{each.spread[0]:.0f} to {each.spread[1]:.0f}"
        print(
            f"{each.case:<19}{each.threads:>7}  {each.way:<10}{each.tiles_per_s:>8.0f}  "
            f"{spread:<14}{each.ratio:>6.2f}{each.cpu_ratio:>8.2f}{each.of_limit:>10.2f}"
        )
    print("\nms from opening to the first tile")
    for row in opening:
        print(f"{row['case']:<19}{row['OpenSlide']:>8.1f}  direct {row['direct']:.1f}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--side", type=int, default=20_000, help="of the painted slide, px")
    parser.add_argument("--real", type=Path, help="a real slide of JPEG tiles")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--kept", type=int, default=5, help="rounds that count, the quietest")
    parser.add_argument("--out", type=Path, default=Path("reader.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
