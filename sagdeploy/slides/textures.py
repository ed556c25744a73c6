"""Seamless textures, drawn once and laid over any region."""

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sagdeploy.slides.lattice import Box

Texture = NDArray[np.float32]

PERIOD: Final = 1024
"""Side of a texture, in pixels: it repeats without a seam."""


def laid_over(box: Box, texture: Texture) -> Texture:
    """The texture over a box, (height, width)."""
    return texture[_span(box.y, box.height)][:, _span(box.x, box.width)]


def looked_up(x: Texture, y: Texture, textures: tuple[Texture, ...]) -> tuple[Texture, ...]:
    """The values of textures at whatever pixels, in the shape of `x` and `y`."""
    place = np.floor(y).astype(np.int32) % PERIOD
    place *= PERIOD
    place += np.floor(x).astype(np.int32) % PERIOD
    return tuple(texture.ravel().take(place) for texture in textures)


@lru_cache(maxsize=4)
def fibres(mpp: float) -> tuple[Texture, Texture]:
    """Collagen bundles, and the clefts between them; all run along x."""
    rng = np.random.default_rng(3)
    fine = smoothed(rng.standard_normal((PERIOD, PERIOD)), along_px=16 / mpp, across_px=0.7 / mpp)
    broad = smoothed(rng.standard_normal((PERIOD, PERIOD)), along_px=26 / mpp, across_px=3.2 / mpp)
    clefts = smoothed(rng.standard_normal((PERIOD, PERIOD)), along_px=11 / mpp, across_px=1.4 / mpp)
    return _single(0.75 * fine + 0.75 * broad), _single(clefts)


@lru_cache(maxsize=4)
def cytoplasm(mpp: float) -> Texture:
    """Grain without direction, of unit variance."""
    rng = np.random.default_rng(4)
    fine, broad = (
        smoothed(rng.standard_normal((PERIOD, PERIOD)), along_px=um / mpp, across_px=um / mpp)
        for um in (0.45, 4.0)
    )
    return _single(0.8 * fine + 0.6 * broad)


@lru_cache(maxsize=1)
def camera_noise() -> Texture:
    """Noise of unit variance, independent from pixel to pixel."""
    return np.random.default_rng(5).standard_normal((PERIOD, PERIOD), np.float32)


def smoothed(
    noise: NDArray[np.float64], *, along_px: float, across_px: float
) -> NDArray[np.float64]:
    """Noise (..., h, w) smoothed over these distances in x and in y, then of unit variance."""
    fy, fx = (np.fft.fftfreq(length) for length in noise.shape[-2:])
    exponent = (along_px * fx) ** 2 + (across_px * fy[:, None]) ** 2
    smooth = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-2 * np.pi**2 * exponent)).real
    return np.asarray(smooth / smooth.std())


def _single(texture: NDArray[np.float64]) -> Texture:
    return texture.astype(np.float32)


def _span(start: int, length: int) -> slice | NDArray[np.int64]:
    """Which rows or columns of a texture; a slice, which copies nothing, wherever it can be."""
    first = start % PERIOD
    if first + length <= PERIOD:
        return slice(first, first + length)
    return np.arange(first, first + length) % PERIOD
