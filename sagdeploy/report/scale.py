"""How attention is shown: its rank among the tiles, as a shade and as a named band."""

from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Scale = Literal["percentile", "raw"]
"""`percentile`: by rank among the slide's tiles. `raw`: linear, from 0 to the largest."""

SCALES: tuple[Scale, ...] = ("percentile", "raw")

VIRIDIS = (
    "440154 481567 482677 453781 404788 39568c 33638d 2d708e 287d8e 238a8d "
    "1f968b 20a387 29af7f 3cbb75 55c667 73d055 95d840 b8de29 dce319 fde725"
)
"""Stops of the map; it rises evenly in lightness, also for colour-blind eyes and in grey."""

BAND_EDGES = (50.0, 75.0, 90.0, 95.0, 99.0)


class Band(NamedTuple):
    """A range of percentiles that is drawn in one colour."""

    name: str
    rgb: tuple[int, int, int]


def _colour_table() -> NDArray[np.uint8]:
    stops = np.array([list(bytes.fromhex(stop)) for stop in VIRIDIS.split()])
    at = np.linspace(0, len(stops) - 1, 256)
    channels = [np.interp(at, np.arange(len(stops)), channel) for channel in stops.T]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


COLOURS = _colour_table()
"""(256, 3) RGB by shade, from least to most."""


def percentiles(attention: NDArray[np.floating]) -> NDArray[np.float64]:
    """Percent of the other tiles that get less attention than each, ties counted as half.

    returns: (N,) from 0, the least attended tile, to 100, the most; a single tile has 100
    """
    if len(attention) < 2:
        return np.full(len(attention), 100.0)
    _, group, counts = np.unique(attention, return_inverse=True, return_counts=True)
    less = np.cumsum(counts) - counts
    beaten: NDArray[np.float64] = less + (counts - 1) / 2
    return beaten[group] * (100 / (len(attention) - 1))


def shades(attention: NDArray[np.floating], scale: Scale) -> NDArray[np.uint8]:
    """(N,) rows of COLOURS, from 1 to 255; 0 is left to mean that there is no tile."""
    if scale == "percentile":
        share = percentiles(attention) / 100
    else:
        share = attention.astype(np.float64) / float(attention.max())
    return np.round(1 + 254 * share).astype(np.uint8)


def bands(percentile: NDArray[np.float64]) -> NDArray[np.intp]:
    """(N,) place of each percentile in BANDS."""
    return np.searchsorted(BAND_EDGES, percentile, side="right")


def _bands() -> tuple[Band, ...]:
    names = ["lower half", *(f"top {100 - edge:g} %" for edge in BAND_EDGES)]
    edges = [0.0, *BAND_EDGES, 100.0]
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    return tuple(
        Band(f"Attention: {name}", _rgb(round(middle * 2.55)))
        for name, middle in zip(names, middles, strict=True)
    )


def _rgb(shade: int) -> tuple[int, int, int]:
    red, green, blue = COLOURS[shade].tolist()
    return red, green, blue


BANDS = _bands()
"""From least to most attention."""
