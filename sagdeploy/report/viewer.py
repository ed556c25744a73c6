"""What a report shows of the attention, as HTML: layers over the slide, legends, top tiles.

`page.js` shows one magnification and one scale at a time, by their `data-` attributes; without
it the first of each is seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sagdeploy.report.overlay import SCALE_NAMES, tick
from sagdeploy.report.pictures import Pictures
from sagdeploy.report.record import AttentionRecord, TopTile
from sagdeploy.report.scale import Scale

SHOWN_TILES = 10
"""Top tiles on the page; with several magnifications, half as many of each."""

LARGE_SHARE = 0.05
"""Tiles that take up more of the slide's width have room for their number."""

SCALES: tuple[Scale, ...] = ("percentile", "raw")
SCALE_CHOICES = {"percentile": "rank among tiles", "raw": "share of attention"}


@dataclass(frozen=True, slots=True)
class Layer:
    """One magnification on the page."""

    index: int
    name: str
    """What tells it from the others; empty where there is only one."""

    facts: AttentionRecord
    slide_size_l0: tuple[int, int]
    images: dict[Scale, str]
    tiles: tuple[tuple[TopTile, str], ...]
    """The top tiles that are shown, each with its picture."""

    def part(self, scale: Scale | None = None) -> str:
        """Attributes of an element that belongs to this layer, and to one scale."""
        hidden = "" if self.index == 0 and scale in (None, SCALES[0]) else " hidden"
        of_scale = f' data-scale="{scale}"' if scale else ""
        return f'data-magnification="{self.index}"{of_scale}{hidden}'

    def place(self, tile: int) -> str:
        """Id of the mark of a top tile on the slide."""
        return f"place-{self.index}-{tile}"


def layers_of(
    attention: Sequence[AttentionRecord], slide_size_l0: tuple[int, int], pictures: Pictures
) -> tuple[Layer, ...]:
    """The magnifications of a record with their pictures."""
    shown = SHOWN_TILES if len(attention) == 1 else SHOWN_TILES // 2
    return tuple(
        Layer(
            index=index,
            name=f"mpp {facts.mpp:g}" if len(attention) > 1 else "",
            facts=facts,
            slide_size_l0=slide_size_l0,
            images=pictures.layers[index],
            tiles=tuple(zip(facts.top_tiles, pictures.top_tiles[index], strict=True))[:shown],
        )
        for index, facts in enumerate(attention)
    )


def looks(layer: Layer) -> str:
    """How the attention of a layer is spread, in words."""
    facts = layer.facts
    return (
        f'{_heading(layer)}<div class="facts">'
        f"<strong>{100 * facts.on_tissue:.1f} %</strong>"
        f"<span>of the attention lies on tissue; spread evenly over the tiles it would be"
        f" {100 * facts.on_tissue_if_even:.1f} %</span>"
        f"<strong>{facts.tiles_with_half:,}</strong>"
        f"<span>of {facts.tiles:,} tiles hold half of the attention</span></div>"
    )


def switches(layers: Sequence[Layer]) -> str:
    """Controls that choose the scale and, where there are several, the magnification."""
    scales = "".join(f'<option value="{s}">{SCALE_CHOICES[s]}</option>' for s in SCALES)
    switches = f'<label>Colour by <select id="scale">{scales}</select></label>'
    if len(layers) == 1:
        return switches
    options = "".join(f'<option value="{layer.index}">{layer.name}</option>' for layer in layers)
    return f'<label>Tiles at <select id="magnification">{options}</select></label>{switches}'


def images(layer: Layer) -> str:
    """The coloured tiles of a layer, to lie over the slide."""
    return "\n".join(
        f'<img class="layer" {layer.part(scale)} src="{image}" draggable="false"'
        f' alt="Map of the {SCALE_NAMES[scale]}">'
        for scale, image in layer.images.items()
    )


def legends(layer: Layer, ramp: str) -> str:
    """The colour bars of a layer, one a scale."""
    largest = layer.facts.top_tiles[0].attention
    where = f"At {layer.name}: " if layer.name else ""
    return "".join(
        f'<div class="legend" {layer.part(scale)}>{where}{SCALE_NAMES[scale]}'
        f'<img class="ramp" src="{ramp}" alt=""><div class="ticks">'
        + "".join(f"<span>{tick(fifth / 4, scale, largest)}</span>" for fifth in range(5))
        + "</div></div>"
        for scale in SCALES
    )


def places(layer: Layer) -> str:
    """Marks on the slide where the shown tiles of a layer lie."""
    width, height = layer.slide_size_l0
    tile_width, tile_height = layer.facts.tile_size_l0
    kind = "place large" if tile_width > LARGE_SHARE * width else "place"
    marks = []
    for number, (tile, _) in enumerate(layer.tiles, start=1):
        x, y = tile.xy_l0
        marks.append(
            f'<span class="{kind}" id="{layer.place(number)}" {layer.part()}'
            f' style="left: {100 * x / width:.4f}%; top: {100 * y / height:.4f}%;'
            f" width: {100 * tile_width / width:.4f}%;"
            f' height: {100 * tile_height / height:.4f}%"><b>{number}</b></span>'
        )
    return "\n".join(marks)


def top_tiles(layer: Layer) -> str:
    """The shown tiles of a layer, with their attention and place."""
    figures = []
    for number, (tile, picture) in enumerate(layer.tiles, start=1):
        x, y = tile.xy_l0
        figures.append(
            f'<figure data-place="{layer.place(number)}"><div class="picture">'
            f'<img src="{picture}" alt="Tile {number}"><b>{number}</b></div>'
            f"<figcaption><strong>{100 * tile.attention:.3g} %</strong>"
            f" <span>{tile.attention * layer.facts.tiles:.3g} x even</span>"
            f"<span>x {x:,}, y {y:,}</span></figcaption></figure>"
        )
    return f'{_heading(layer)}<div class="tiles">{"".join(figures)}</div>'


def _heading(layer: Layer) -> str:
    return f'<p class="scale-name">{layer.name}</p>' if layer.name else ""
