"""Outlines of regions of neighbouring tiles, exact along the tiles' edges."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sagdeploy.slides.tiling import Tiles

Ring = NDArray[np.int64]
"""(K, 2) corners x, y of a closed outline; the first is not repeated at the end."""

RIGHT, DOWN, LEFT, UP = range(4)
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
NEIGHBOURS = {RIGHT: (0, 1), DOWN: (1, 2), LEFT: (2, 1), UP: (1, 0)}
"""Offsets (row, column), in a padded array, of the cell beyond the edge of each direction."""

STARTS = {RIGHT: (0, 0), DOWN: (1, 0), LEFT: (1, 1), UP: (0, 1)}
"""Corner (x, y) of a cell from which it is walked, with the cell on the right hand."""

Edge = tuple[int, int, int, int]
"""Region, corner x and y, direction."""


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Tiles of one value that touch along their sides."""

    rows: NDArray[np.intp]
    """Which tiles."""

    rings_l0: tuple[Ring, ...]
    """The outer outline, then the holes, level-0 pixels."""


def single_regions(tiles: Tiles) -> Iterator[Region]:
    """Every tile as a region of its own."""
    width, height = tiles.size_l0
    square = np.array([(0, 0), (width, 0), (width, height), (0, height)])
    for row, corner in enumerate(tiles.xy_l0):
        yield Region(np.array([row]), (corner + square,))


def merged_regions(tiles: Tiles, values: NDArray[np.intp]) -> Iterator[Region]:
    """Tiles of equal value joined where they touch; single where they lie on no common lattice.

    values: (N,) from 0
    """
    origin, size = tiles.xy_l0.min(axis=0), np.array(tiles.size_l0)
    cells, offset = np.divmod(tiles.xy_l0 - origin, size)
    if offset.any() or len(np.unique(cells, axis=0)) < len(cells):
        yield from single_regions(tiles)
        return
    labels = _label(cells, values)
    labels_of_tiles = labels[cells[:, 1], cells[:, 0]]
    order = np.argsort(labels_of_tiles, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels_of_tiles[order])) + 1)
    rings = _rings(labels)
    for label, rows in enumerate(groups, start=1):
        yield Region(rows, tuple(origin + size * ring for ring in rings[label]))


def _label(cells: NDArray[np.int64], values: NDArray[np.intp]) -> NDArray[np.int64]:
    """Number of the region at each cell of the lattice, from 1; 0 where there is no tile."""
    columns, rows = cells.max(axis=0) + 1
    lattice = np.full((rows, columns), -1, np.int64)
    lattice[cells[:, 1], cells[:, 0]] = values
    labels = np.zeros_like(lattice)
    for value in np.unique(values):
        found, _ = ndimage.label(lattice == value)
        labels += np.where(found > 0, found + labels.max(), 0)
    return labels


def _rings(labels: NDArray[np.int64]) -> dict[int, list[Ring]]:
    """Outlines of each region on the lattice: the outer one first, then the holes."""
    edges = _edges(labels)
    directions = defaultdict(list)
    for region, x, y, direction in edges:
        directions[region, x, y].append(direction)
    rings: dict[int, list[Ring]] = defaultdict(list)
    unseen = dict.fromkeys(edges)
    while unseen:
        first, _ = unseen.popitem()
        corners, edge = [], first
        while (following := _next(edge, directions)) != first:
            if following[3] != edge[3]:
                corners.append(following[1:3])
            del unseen[following]
            edge = following
        if first[3] != edge[3]:
            corners.append(first[1:3])
        ring = np.array(corners)
        rings[first[0]].insert(0 if _area(ring) > 0 else len(rings[first[0]]), ring)
    return rings


def _edges(labels: NDArray[np.int64]) -> list[Edge]:
    """Every side of a cell beyond which another region lies, walked with the cell on the right."""
    padded = np.pad(labels, 1)
    height, width = labels.shape
    edges: list[Edge] = []
    for direction, (row, column) in NEIGHBOURS.items():
        beyond = padded[row : row + height, column : column + width]
        y, x = np.nonzero((labels > 0) & (labels != beyond))
        right, below = STARTS[direction]
        edges += zip(
            labels[y, x].tolist(),
            (x + right).tolist(),
            (y + below).tolist(),
            [direction] * len(x),
            strict=True,
        )
    return edges


def _next(edge: Edge, directions: dict[tuple[int, int, int], list[int]]) -> Edge:
    """The edge that follows; where a region touches itself at a corner, the one to the left.

    Turning left keeps a hole apart from what lies outside: both rings stay simple.
    """
    region, x, y, direction = edge
    x, y = x + STEPS[direction][0], y + STEPS[direction][1]
    onward = directions[region, x, y]
    return region, x, y, onward[0] if len(onward) == 1 else (direction + 3) % 4


def _area(ring: Ring) -> int:
    """Twice the area in a ring; negative for a hole."""
    x, y = ring.T
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())
