"""The attention map: a slide's thumbnail with its tiles coloured by attention, exact to a pixel.

A slide of size (W, H) shown at (w, h) has its level-0 pixel (x, y) at column `x * w // W`
and row `y * h // H`, in whole numbers: neighbouring tiles neither gap nor overlap.
"""

from base64 import b64encode
from io import BytesIO
from zlib import Z_RLE

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sagdeploy.report.scale import COLOURS, Scale, shades
from sagdeploy.slides.tiling import Tiles

MAX_PX = 2048
"""Longest side of the thumbnail under the map."""

LEGEND_PX = 84
MIN_WIDTH_PX = 560
"""Narrower pictures get white at their right, so that the legend fits."""

OPACITY = 144
"""Of the tiles over the slide, of 255."""

PAPER, INK = (255, 255, 255), (32, 36, 42)


def render_overlay(
    thumbnail: NDArray[np.uint8],
    *,
    slide_size_l0: tuple[int, int],
    tiles: Tiles,
    attention: NDArray[np.float32],
    scale: Scale = "percentile",
    title: str = "",
) -> NDArray[np.uint8]:
    """The attention map of one magnification over its legend.

    thumbnail: (h, w, 3) of the whole slide
    attention: (N,) in the order of the tiles
    returns:   (h + LEGEND_PX, w or MIN_WIDTH_PX, 3); the map is its top left (h, w)
    """
    height, width, _ = thumbnail.shape
    layer = shade_layer(
        (width, height), slide_size_l0=slide_size_l0, tiles=tiles, shade=shades(attention, scale)
    )
    coloured = blend(thumbnail, layer)
    page = np.full((height + LEGEND_PX, max(width, MIN_WIDTH_PX), 3), PAPER, np.uint8)
    page[:height, :width] = coloured
    page[height:] = _legend(page.shape[1], scale, float(attention.max()), title)
    return page


def shade_layer(
    size_px: tuple[int, int],
    *,
    slide_size_l0: tuple[int, int],
    tiles: Tiles,
    shade: NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """Shade of the tile at each pixel, 0 where there is none.

    Where tiles are smaller than a pixel, or overlap, the highest shade is seen.
    size_px: (width, height) at which the whole slide is shown
    shade:   (N,) from 1
    returns: (height, width)
    """
    size, slide_size = np.array(size_px), np.array(slide_size_l0)
    start = tiles.xy_l0 * size // slide_size
    stop = np.maximum((tiles.xy_l0 + tiles.size_l0) * size // slide_size, start + 1)
    edges = np.hstack([start.clip(0, size), stop.clip(0, size)])
    order = np.argsort(shade, kind="stable")
    layer = np.zeros(size_px[::-1], np.uint8)
    for (x0, y0, x1, y1), value in zip(edges[order].tolist(), shade[order].tolist(), strict=True):
        layer[y0:y1, x0:x1] = value
    return layer


def blend(thumbnail: NDArray[np.uint8], layer: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The thumbnail, coloured where the layer has a tile and untouched elsewhere."""
    picture = Image.fromarray(thumbnail)
    opacity = Image.fromarray(layer).point([0, *[OPACITY] * 255])
    picture.paste(_in_colour(layer).convert("RGB"), mask=opacity)
    return np.asarray(picture)


def encode_png(rgb: NDArray[np.uint8]) -> bytes:
    """PNG of an (h, w, 3) picture; the same bytes for the same pixels."""
    return _png(Image.fromarray(rgb), compress_type=Z_RLE)  # of tissue as small, in half the time


def encode_layer(layer: NDArray[np.uint8]) -> bytes:
    """PNG of a layer of shades, in colour, transparent where there is no tile."""
    return _png(_in_colour(layer), transparency=0)


def encode_jpeg(rgb: NDArray[np.uint8], *, quality: int) -> bytes:
    """JPEG of an (h, w, 3) picture, its colours as fine as its brightness."""
    data = BytesIO()
    Image.fromarray(rgb).save(data, "JPEG", quality=quality, subsampling=0)
    return data.getvalue()


def data_uri(kind: str, data: bytes) -> str:
    """A picture of a kind, `png` or `jpeg`, as it stands inside a page."""
    return f"data:image/{kind};base64,{b64encode(data).decode()}"


def fitted(size_px: tuple[int, int], longest_px: int) -> tuple[int, int]:
    """A size whose longer side is at most `longest_px`, of the same shape."""
    shrink = max(1.0, max(size_px) / longest_px)
    width, height = (max(1, round(side / shrink)) for side in size_px)
    return width, height


def _in_colour(layer: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(layer, "P")
    image.putpalette(COLOURS.tobytes())
    return image


def _png(image: Image.Image, **options: int) -> bytes:
    data = BytesIO()
    image.save(data, "PNG", compress_level=6, **options)
    return data.getvalue()


def _legend(width: int, scale: Scale, largest: float, title: str) -> NDArray[np.uint8]:
    """(LEGEND_PX, width, 3): the scale's name, its colours, and five numbers along them."""
    strip = Image.new("RGB", (width, LEGEND_PX), PAPER)
    draw = ImageDraw.Draw(strip)
    font = ImageFont.load_default(size=14)
    left, top, length, height = 16, 34, min(width - 48, 520), 14
    draw.text((left, 9), " · ".join(filter(None, [title, SCALE_NAMES[scale]])), INK, font)
    bar = COLOURS[np.linspace(1, 255, length).round().astype(np.intp)]
    strip.paste(Image.fromarray(np.broadcast_to(bar, (height, length, 3)).copy()), (left, top))
    for fifth in range(5):
        x = left + fifth * (length - 1) // 4
        draw.line([(x, top + height), (x, top + height + 4)], INK)
        draw.text((x, top + height + 6), tick(fifth / 4, scale, largest), INK, font, anchor="ma")
    return np.asarray(strip)


def tick(share: float, scale: Scale, largest: float) -> str:
    """What stands at a `share` of the colour bar's length."""
    return f"{100 * share:g}" if scale == "percentile" else f"{100 * share * largest:.3g} %"


SCALE_NAMES = {
    "percentile": "attention, percentile among the slide's tiles",
    "raw": "attention, share of the slide's whole",
}
