"""Randomness that depends on place alone, so that any region can be painted by itself.

A stream of random numbers depends on the order in which it is drawn. These numbers are
hashes of whole-number lattice points instead: whoever asks about a place, and in whichever
order, is told the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

_X, _Y, _KEY = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_WORD = 2**64


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of level-0 pixels; it may reach beyond the slide."""

    x: int
    y: int
    width: int
    height: int

    def grown(self, margin: int) -> "Box":
        """The box with `margin` pixels more on each of its sides."""
        return Box(
            self.x - margin, self.y - margin, self.width + 2 * margin, self.height + 2 * margin
        )

    def part(self, other: "Box") -> "Box | None":
        """What two boxes share, or None."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        width = min(self.x + self.width, other.x + other.width) - x
        height = min(self.y + self.height, other.y + other.height) - y
        return Box(x, y, width, height) if width > 0 and height > 0 else None

    def view(self, array: NDArray[np.float32], part: "Box") -> NDArray[np.float32]:
        """The pixels of a part in an array (..., height, width) over this box."""
        rows = slice(part.y - self.y, part.y - self.y + part.height)
        return array[..., rows, part.x - self.x : part.x - self.x + part.width]

    def holds(self, xy: Floats) -> NDArray[np.bool_]:
        """Which points (N, 2) lie in the box: its left and top edges do, the others not."""
        offset = xy - (self.x, self.y)
        return np.asarray(((offset >= 0) & (offset < (self.width, self.height))).all(axis=1))


def uniform(ix: Whole, iy: Whole, *, seed: int, channel: int) -> Floats:
    """Numbers in [0, 1), one a lattice point, independent between channels (splitmix64)."""
    key = np.uint64((seed * _KEY + channel * _X + _Y) % _WORD)
    word = ix.astype(np.uint64) * np.uint64(_X) + iy.astype(np.uint64) * np.uint64(_Y) + key
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = (word ^ (word >> np.uint64(shift))) * np.uint64(factor)
    word ^= word >> np.uint64(31)
    return (word >> np.uint64(11)).astype(np.float64) * 2.0**-53


def value_noise(x: Floats, y: Floats, *, wavelength: float, seed: int, channel: int) -> Floats:
    """Smooth noise in [-1, 1] at any points, with bumps about `wavelength` apart."""
    turn = 2.4 * channel  # no two channels, and no tiles, share the lattice's axes
    c, s = np.cos(turn) / wavelength, np.sin(turn) / wavelength
    x, y = c * x - s * y, s * x + c * y
    ix, iy = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    tx, ty = _smooth(x - ix), _smooth(y - iy)
    corner = [
        [uniform(ix + dx, iy + dy, seed=seed, channel=channel) for dx in (0, 1)] for dy in (0, 1)
    ]
    top, bottom = (left + tx * (right - left) for left, right in corner)
    return 2 * (top + ty * (bottom - top)) - 1


def scattered(
    box: Box, *, spacing: float, jitter: float, seed: int, channel: int
) -> tuple[Whole, Floats]:
    """Points about `spacing` apart, all those in the box and some around it.

    returns: (N, 2) their lattice points, from which further numbers follow, and (N, 2) x, y
    """
    columns, rows = (
        np.arange(int(np.floor(start / spacing)) - 2, int((start + length) / spacing) + 2)
        for start, length in ((box.x, box.width), (box.y, box.height))
    )
    points = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
    brick = np.column_stack([points[:, 1] % 2 / 2, np.zeros(len(points))])
    shift = [
        uniform(points[:, 0], points[:, 1], seed=seed, channel=channel + axis) for axis in (0, 1)
    ]
    return points, (points + brick + 0.5 + jitter * (2 * np.stack(shift, axis=1) - 1)) * spacing


def drawn(field: Callable[[Floats, Floats], Floats], box: Box, step: int) -> NDArray[np.float32]:
    """A slowly varying field over a box, (height, width).

    It is evaluated at every `step`th pixel of the slide, counted from the slide's corner and
    not from the box's, and is linear in between.
    """
    x0, y0 = box.x // step, box.y // step
    x1, y1 = -(-(box.x + box.width) // step), -(-(box.y + box.height) // step)
    x, y = np.meshgrid(np.arange(x0, x1 + 1.0) * step, np.arange(y0, y1 + 1.0) * step)
    rows = _between(field(x, y).astype(np.float32), step)[box.y - y0 * step :][: box.height]
    return _between(rows.T, step)[box.x - x0 * step :][: box.width].T


def _between(values: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Rows of `values` and `step` - 1 more after each, linear in between; the last is left out."""
    share = (np.arange(step, dtype=np.float32) / np.float32(step))[:, None]
    fine = np.diff(values, axis=0)[:, None] * share
    fine += values[:-1, None]
    return fine.reshape(-1, values.shape[1])


def _smooth(t: Floats) -> Floats:
    return t * t * (3 - 2 * t)
