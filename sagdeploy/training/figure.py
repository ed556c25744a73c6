"""A figure like the paper's Fig. 4: slides, their guidance, and where each arm looked.

One row a slide that no arm learned from, one column an arm. Slides are JPEG and maps PNG inside
one SVG file, whose letters stay letters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import shorten

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sagdeploy.bags.cohort import Cohort, CohortSlide
from sagdeploy.errors import CohortError
from sagdeploy.files import write_bytes
from sagdeploy.report.overlay import data_uri, encode_jpeg, encode_layer, encode_png, shade_layer
from sagdeploy.report.scale import COLOURS, shades
from sagdeploy.slides.isolation import open_isolated
from sagdeploy.slides.tiling import Tiles
from sagdeploy.training.calibration import calibrated
from sagdeploy.training.checkpoint import load_model, read_results, read_run
from sagdeploy.training.comparison import told_apart
from sagdeploy.training.dataset import LabelledBag, open_bags
from sagdeploy.training.inference import predict_bags
from sagdeploy.training.judgement import attention_on
from sagdeploy.training.svg import INK, SOFT, document, text_at

SLIDES = 3
PANEL_PX, GAP, EDGE, HEAD, CAPTION, FOOT = 340, 16, 24, 70, 46, 62
OPACITY, QUALITY = 0.6, 88
LETTERS = 42
"""Of a heading, in a column's width."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class _Shown:
    """A slide of the figure."""

    bag: LabelledBag
    size_l0: tuple[int, int]
    thumbnail: Pixels
    tiles: Tiles
    finest: int
    """Which of the magnifications is the finest, whose tiles these are."""

    @property
    def size_px(self) -> tuple[int, int]:
        return self.thumbnail.shape[1], self.thumbnail.shape[0]


def draw_figure(
    cohort: Cohort, bags: Path, runs: Sequence[Path], path: Path, *, slides: int = SLIDES
) -> None:
    """Write the figure of some held-out slides that have an annotation into `path`.

    The arms are shown by their first seed. CohortError where no such slide is held out.
    """
    records = [read_run(run) for run in runs]
    shown = [_shown(slide, cohort, bags) for slide in _held_out(cohort, runs[0])[-slides:]]
    columns = ["Slide", "Heuristic guidance", *headings([record.arm for record in records])]
    heights = [one.size_px[1] + CAPTION for one in shown]
    width = 2 * EDGE + len(columns) * (PANEL_PX + GAP) - GAP
    body = [
        text_at(EDGE, 30, "Where each arm looked", size=18, weight=650),
        *(text_at(_left(i), 60, name, size=14, weight=600) for i, name in enumerate(columns)),
    ]
    top = HEAD
    for index, (one, height) in enumerate(zip(shown, heights, strict=True)):
        body += _row(index, one, top, cohort.classes, runs)
        top += height
    body += _legend(top)
    write_bytes(path, document((width, top + FOOT), "Where each arm looked", body).encode())


def headings(arms: Sequence[str]) -> list[str]:
    """What tells the arms apart, as short as a column is wide."""
    return [shorten(name, LETTERS, placeholder=" …") for name in told_apart(arms)[1]]


def _held_out(cohort: Cohort, run: Path) -> list[CohortSlide]:
    """Slides with an annotation that no seed of the run learned from."""
    ids = {slide.slide_id for slide in cohort.of_split("test")}
    ids |= set(read_results(run)[0].held_out)
    known = [s for s in cohort.slides if s.slide_id in ids and s.annotation_path is not None]
    if not known:
        raise CohortError(
            "no held-out slide has an annotation to draw",
            hint="leave out --bags, or add the column annotation_path",
        )
    return known


def _shown(slide: CohortSlide, cohort: Cohort, bags: Path) -> _Shown:
    bag = open_bags([slide], bags, classes=cohort.classes)[0]
    with open_isolated(slide.located()) as opened:
        picture = Image.fromarray(opened.thumbnail(2 * PANEL_PX))
        size_l0 = opened.size_l0
    height = max(1, round(picture.height * PANEL_PX / picture.width))
    picture = picture.resize((PANEL_PX, height), Image.Resampling.LANCZOS)
    placed = [(index, tiles) for index, tiles in enumerate(bag.tiles) if tiles is not None]
    if not placed:
        raise CohortError(f"{slide.slide_id}: its features do not say where the tiles lie")
    finest, tiles = min(placed, key=lambda known: known[1].mpp)
    return _Shown(bag, size_l0, np.asarray(picture), tiles, finest)


def _row(
    index: int, one: _Shown, top: int, classes: Sequence[str], runs: Sequence[Path]
) -> Iterator[str]:
    """The slide alone, its guidance, and the map of each run, with what is said of them."""
    picture = f'<image id="slide-{index}" width="{PANEL_PX}" height="{one.size_px[1]}"'
    slide = data_uri("jpeg", encode_jpeg(one.thumbnail, quality=QUALITY))
    yield f'<defs>{picture} href="{slide}"/></defs>'
    guidance = one.bag.heuristic_guidance[one.finest].numpy()
    below = [f"{one.bag.slide_id}: {classes[one.bag.label]}", ""]
    yield from _panel(index, 0, top, one, None, below)
    yield from _panel(index, 1, top, one, guidance if guidance.any() else None, ["", ""])
    for column, run in enumerate(runs, start=2):
        record, result = read_run(run), read_results(run)[0]
        (said,) = predict_bags(load_model(run, record, result), [one.bag])
        probabilities = calibrated(said.logits[None], result.temperature)[0]
        share = attention_on(one.bag, said.attention).attention_on_heuristic
        answer = f"{classes[int(probabilities.argmax())]} {probabilities.max():.2f}"
        looked = "" if share is None else f"{100 * share:.0f} % of the attention in the region"
        yield from _panel(index, column, top, one, said.attention[one.finest], [answer, looked])


def _panel(
    index: int,
    column: int,
    top: int,
    one: _Shown,
    weights: NDArray[np.floating] | None,
    below: Sequence[str],
) -> Iterator[str]:
    """A slide, coloured by the weights of those of its tiles that have any."""
    height = one.size_px[1]
    yield f'<g transform="translate({_left(column)} {top})"><use href="#slide-{index}"/>'
    if weights is not None:
        layer = data_uri("png", encode_layer(_shades(one, weights)))
        yield (
            f'<image width="{PANEL_PX}" height="{height}" opacity="{OPACITY}"'
            f' style="image-rendering: pixelated" href="{layer}"/>'
        )
    yield f'<rect width="{PANEL_PX}" height="{height}" fill="none" stroke="{SOFT}" opacity=".4"/>'
    for number, line in enumerate(filter(None, below)):
        yield text_at(0, height + 16 + 15 * number, line, colour=SOFT if number else INK)
    yield "</g>"


def _shades(one: _Shown, weights: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(h, w): attention by rank among the tiles; guidance, which few tiles have, by its size."""
    has = np.flatnonzero(weights)
    is_attention = len(has) == len(weights)
    own = Tiles(one.tiles.xy_l0[has], one.tiles.size_l0, one.tiles.size_px, one.tiles.mpp)
    shade = shades(weights[has], "percentile" if is_attention else "raw")
    return shade_layer(one.size_px, slide_size_l0=one.size_l0, tiles=own, shade=shade)


def _legend(top: int) -> Iterator[str]:
    """The colours, from least to most."""
    ramp = data_uri("png", encode_png(COLOURS[None, 1:]))
    yield text_at(EDGE, top + 14, "Attention: rank among the slide's tiles. Guidance: its share.")
    yield (
        f'<image x="{EDGE}" y="{top + 22}" width="{PANEL_PX}" height="12"'
        f' preserveAspectRatio="none" href="{escape(ramp)}"/>'
    )
    yield text_at(EDGE, top + 50, "least", colour=SOFT)
    yield text_at(EDGE + PANEL_PX, top + 50, "most", colour=SOFT, anchor="end")


def _left(column: int) -> int:
    return EDGE + column * (PANEL_PX + GAP)
