"""What a report shows of the attention, as HTML: layers over the slide, legends, top tiles.

`page.js` shows one magnification, one group of heads and one scale at a time, by their `data-`
attributes; without it the first of each is seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from sagdeploy.report.overlay import SCALE_NAMES, tick
from sagdeploy.report.pictures import MapPicture, Pictures
from sagdeploy.report.record import AttentionRecord, TopTile
from sagdeploy.report.scale import SCALES, Scale

SHOWN_TILES = 10
"""Top tiles on the page; with several magnifications, half as many of each."""

LARGE_SHARE = 0.05
"""Tiles that take up more of the slide's width have room for their number."""

SCALE_CHOICES = {"percentile": "rank among tiles", "raw": "share of attention"}


@dataclass(frozen=True, slots=True)
class Layer:
    """One magnification on the page."""

    index: int
    name: str
    """What tells it from the others; empty where there is only one."""

    facts: AttentionRecord
    slide_size_l0: tuple[int, int]
    maps: tuple[MapPicture, ...]
    """Of all heads, then of each group of them."""

    tiles: tuple[tuple[TopTile, str], ...]
    """The top tiles that are shown, each with its picture."""

    def part(self) -> str:
        """Attributes of an element that belongs to this layer."""
        return f'data-magnification="{self.index}"{" hidden" if self.index else ""}'

    def map_part(self, group: int, scale: Scale) -> str:
        """Attributes of an element that belongs to one map of this layer, on one scale."""
        first = (self.index, group, scale) == (0, 0, SCALES[0])
        return (
            f'data-magnification="{self.index}" data-heads="{group}" data-scale="{scale}"'
            f"{'' if first else ' hidden'}"
        )

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
            maps=pictures.maps[index],
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


def heads(layers: Sequence[Layer]) -> str:
    """What of the attention of each group of heads lies on tissue; nothing where there is one."""
    groups = [own.name for own in layers[0].maps[1:]]
    if not groups:
        return ""
    names = "".join(f"<td>{layer.name}</td>" for layer in layers)
    rows = [f"<tr><th>Attention on tissue of</th>{names}</tr>"]
    for index, name in enumerate(groups, start=1):
        shares = "".join(f"<td>{100 * layer.maps[index].on_tissue:.1f} %</td>" for layer in layers)
        rows.append(f"<tr><th>{escape(name)}</th>{shares}</tr>")
    return f'<table class="groups">{"".join(rows)}</table>'


def switches(layers: Sequence[Layer]) -> str:
    """Controls that choose the scale and, where there are several, magnification and heads."""
    magnifications = {str(layer.index): layer.name for layer in layers}
    groups = {str(group): own.name for group, own in enumerate(layers[0].maps)}
    return "".join(
        (
            _choice("Tiles at", "magnification", magnifications) if len(magnifications) > 1 else "",
            _choice("Attention of", "heads", groups) if len(groups) > 1 else "",
            _choice("Colour by", "scale", {scale: SCALE_CHOICES[scale] for scale in SCALES}),
        )
    )


def _choice(label: str, name: str, options: Mapping[str, str]) -> str:
    texts = "".join(f'<option value="{v}">{escape(t)}</option>' for v, t in options.items())
    return f'<label>{label} <select id="{name}">{texts}</select></label>'


def images(layer: Layer) -> str:
    """The coloured tiles of a layer, to lie over the slide."""
    return "\n".join(
        f'<img class="layer" {layer.map_part(group, scale)} src="{image}" draggable="false"'
        f' alt="Map of the {SCALE_NAMES[scale]}">'
        for group, own in enumerate(layer.maps)
        for scale, image in own.images.items()
    )


def legends(layer: Layer, ramp: str) -> str:
    """The colour bars of a layer, one a map and scale."""
    where = f"At {layer.name}: " if layer.name else ""
    return "".join(
        f'<div class="legend" {layer.map_part(group, scale)}>{where}{SCALE_NAMES[scale]}'
        f'<img class="ramp" src="{ramp}" alt=""><div class="ticks">'
        + "".join(f"<span>{tick(fifth / 4, scale, own.largest)}</span>" for fifth in range(5))
        + "</div></div>"
        for group, own in enumerate(layer.maps)
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
