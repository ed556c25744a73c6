"""Where the tissue of a slide is, by Otsu's threshold at low magnification.

Stained tissue is coloured, and glass, dust, shadows and black ink are grey: the threshold is
one of colour, not of brightness. Coloured ink is told apart by what it absorbs. Hematoxylin,
eosin and DAB all absorb more green than red; green and blue ink absorb most in the red, and red
ink almost nothing there. Made for H&E and immunohistochemistry: a trichrome's green collagen
would be taken for ink.
"""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sagdeploy.errors import NotAnalysableError
from sagdeploy.slides.slide import Slide
from sagdeploy.slides.tiling import Tiles, bounding_box_l0, coverage

log = logging.getLogger(__name__)

Mask = NDArray[np.bool_]

UM_PX = 8
"""Microns a mask pixel: the size of a nucleus, so that single cells do not show."""

LEAST_PX, MOST_PX = 256, 2048
"""Bounds of the mask's longer side: a small biopsy still shows its outline, and a scan of 50 mm
has mask pixels of 24 microns, a fifth of the usual tile."""

ASSUMED_MPP = 0.5
"""Of slides whose scale nobody knows, for the size of the mask alone."""

PALEST_THRESHOLD, DEEPEST_THRESHOLD = 0.04, 0.09
"""Otsu's threshold is held between these: it would halve an image of glass or tissue alone."""

DEEP = 0.25
"""Colour from which on tissue is just tissue, or deeply stained nuclei would pull the
threshold over pale stroma."""

GREY_FLOOR = 0.12
"""Added light under which a ratio of colours is the camera's noise."""

PALE = (0.6, 0.93)
"""Mean light of tissue too pale to be coloured, as a share of the glass's: darker than glass,
brighter than ink and dirt. It counts up to REACH from coloured tissue."""

REACH = 8
"""Pixels; 64 microns, the way from a stained cell to the next in sparse stroma."""

GAP = 2
"""Pixels; cracks of up to twice this are bridged."""

MIN_OBJECT = 64
"""Pixels; 64 x 64 microns, a third of a usual tile. Smaller is dust."""

MAX_HOLE = 256
"""Pixels; 128 x 128 microns. Smaller holes are lumens and fat, which belong to the tissue."""

INK_EDGE = 2
"""Pixels over which an ink's edge runs out."""

MIN_SHARE = 2e-4
"""Of the slide: a biopsy of 2 x 2 mm on a whole glass is ten times as large."""


@dataclass(frozen=True, slots=True, eq=False)
class TissueMask:
    """Where a slide has tissue."""

    mask: Mask
    """(h, w) over the whole slide."""

    size_l0: tuple[int, int]
    """(width, height) of the slide."""

    threshold: float
    """Colour from which on a pixel was tissue."""

    @property
    def share(self) -> float:
        """Share of the slide that is tissue."""
        return float(self.mask.mean())

    def bounding_box_l0(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) that holds all tissue."""
        return bounding_box_l0(self.mask, self.size_l0, "mask")

    def coverage(self, tiles: Tiles) -> NDArray[np.float64]:
        """Share of each of the slide's tiles on tissue, (N,)."""
        return coverage(self.mask, tiles.xy_l0, tiles.size_l0, self.size_l0)


def find_tissue(slide: Slide, mpp: float | None) -> TissueMask:
    """Tissue of a slide; NotAnalysableError where there is none to speak of.

    mpp: microns per level-0 pixel, as resolved for the slide; None where nobody knows
    """
    mask, threshold = _segment(slide.thumbnail(_mask_px(slide.size_l0, mpp or ASSUMED_MPP)))
    tissue = TissueMask(mask, slide.size_l0, threshold)
    if tissue.share < MIN_SHARE:
        raise NotAnalysableError(
            f"{slide.name}: no tissue: {tissue.share:.2%} of the slide",
            hint="look at the slide: it may be blank, very pale, or covered with ink",
        )
    log.debug("%s: tissue on %.1f %% of the slide", slide.name, 100 * tissue.share)
    return tissue


def tissue_mask(rgb: NDArray[np.uint8]) -> Mask:
    """Tissue in a picture of a slide at low magnification: uint8 (h, w, 3) -> bool (h, w)."""
    return _segment(rgb)[0]


def otsu_threshold(values: NDArray[np.float32]) -> float:
    """The value that parts others best in two: Otsu's, of 256 bins; of equal ones, theirs.

    scikit-image has it too, but is slow to import for a program that needs no more of it.
    """
    if values.min() == values.max():
        return float(values.flat[0])
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below, above = counts.cumsum(), counts[::-1].cumsum()[::-1]  # with the bin, and from it on
    sums = counts * centres
    mean_below = sums.cumsum() / np.maximum(below, 1)
    mean_above = sums[::-1].cumsum()[::-1] / np.maximum(above, 1)
    between = below[:-1] * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    return float(centres[between.argmax()])


def _segment(rgb: NDArray[np.uint8]) -> tuple[Mask, float]:
    """The mask, and the threshold it was made with."""
    light = _light(rgb)
    colour = _colour(light)
    otsu = otsu_threshold(np.minimum(colour, DEEP))
    threshold = float(np.clip(otsu, PALEST_THRESHOLD, DEEPEST_THRESHOLD))
    clear = ~_ink(light, colour)
    coloured = (colour > threshold) & clear
    mean = light.mean(axis=2)
    pale = (PALE[0] < mean) & (mean < PALE[1]) & clear
    tissue = ndimage.binary_dilation(coloured, iterations=REACH, mask=pale | coloured)
    tissue = ~_without_small(~_closed(tissue), MAX_HOLE) & clear
    return _without_small(tissue, MIN_OBJECT), threshold


def _light(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Share of the glass's light that comes through, a little blurred: (h, w, 3) in [0, 1].

    The glass is the brightest hundredth; where the image is all tissue, it is not that dark.
    """
    glass = np.percentile(rgb.reshape(-1, 3)[::7], 99, axis=0).clip(220, 255).astype(np.float32)
    light = np.minimum(rgb / glass, np.float32(1))
    blurred: NDArray[np.float32] = ndimage.gaussian_filter(light, (1, 1, 0))
    return blurred


def _colour(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """How coloured each pixel is: HSV's saturation, but 0 towards black."""
    brightest = light.max(axis=2)
    colour: NDArray[np.float32] = (brightest - light.min(axis=2)) / (brightest + GREY_FLOOR)
    return colour


def _ink(light: NDArray[np.float32], colour: NDArray[np.float32]) -> Mask:
    """Pen marks and their edges: from what no stain looks like, into what touches it.

    The numbers are optical densities and their ratios. Measured: hematoxylin, eosin and DAB have
    red/green 0.3 to 0.9; green ink 1.8 to 3, blue 1.2 to 1.7, and over tissue 0.8, but there red
    is 0.5 to 1.7 over blue; red ink 0.1 to 0.25 with blue/green over 0.75, where eosin has 0.67.
    """
    red, green, blue = np.moveaxis(-np.log(np.maximum(light, 1 / 256)), 2, 0)
    cool = _spread(
        (red > 1.2 * green) & (red > 0.6),
        (red > 1.05 * green) & (red > 0.1),
    )
    over_tissue = _spread(
        (red > 0.8 * green) & (red > 0.9 + blue),
        (red > 0.78 * green) & (red > 0.35 + blue),
    )
    warm = _spread(
        (red < 0.25 * green) & (blue > 0.75 * green) & (green > 1.5),
        (red < 0.3 * green) & (blue > 0.68 * green) & (green > 0.2),
    )
    # black ink is grey on glass and reddish over tissue; dense hematoxylin is as dark, but blue
    brightest = light.max(axis=2)
    unstained = (colour < 0.2) | (light[..., 2] < light[..., 0] - 0.02)
    black = _spread((brightest < 0.2) & unstained, (brightest < 0.36) & unstained)
    ink: Mask = ndimage.binary_dilation(cool | over_tissue | warm | black, iterations=INK_EDGE)
    return ink


def _spread(sure: Mask, possible: Mask) -> Mask:
    """What is sure, and what is possible and connected with it."""
    labels, count = ndimage.label(possible | sure)
    kept = np.zeros(count + 1, np.bool_)
    kept[labels[sure]] = True
    spread: Mask = kept[labels]
    return spread


def _closed(mask: Mask) -> Mask:
    """The mask with gaps of up to twice GAP bridged, also at the image's edges."""
    closed: Mask = ndimage.binary_closing(np.pad(mask, GAP, mode="edge"), iterations=GAP)
    return closed[GAP:-GAP, GAP:-GAP]


def _without_small(mask: Mask, least: int) -> Mask:
    """The mask without connected parts of fewer than `least` pixels."""
    labels, _ = ndimage.label(mask)
    kept = np.bincount(labels.ravel()) >= least
    kept[0] = False
    large: Mask = kept[labels]
    return large


def _mask_px(size_l0: tuple[int, int], mpp: float) -> int:
    """Longer side of the mask."""
    return int(np.clip(max(size_l0) * mpp / UM_PX, LEAST_PX, MOST_PX))
