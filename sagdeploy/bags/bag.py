"""A slide's tiles as features, with their places and guidance, in one HDF5 file.

The layout is TRIDENT's, so that its users read ours with `file["features"][:]`; what is
ours lies beside it. Several magnifications lie in groups `magnification_0`, ... of that
same layout. Places are stored with the features, in one order that cannot get lost.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from sagdeploy.config import Strict, problems
from sagdeploy.errors import BagError, ConfigError
from sagdeploy.files import canonical_json, write_whole
from sagdeploy.guidance.weights import guidance_weights
from sagdeploy.manifest import ExtractorCard
from sagdeploy.slides.metadata import MppSource
from sagdeploy.slides.tiling import TilePlan, Tiles

SCHEMA = "sagdeploy-bag/1"
UM_AT_1X = 10.0
"""Microns per pixel that the field calls 1x; only for TRIDENT's attributes."""

Coverage = NDArray[np.float64]


class BagHeader(Strict):
    """Where a bag comes from: the same header means the same bag.

    None stands for what a file of other software does not say; `extract` leaves nothing open.
    """

    schema_version: Literal[1] = 1
    slide_id: str
    slide_size_l0: tuple[int, int] | None
    mpp: float | None
    """Microns per pixel of the slide at level 0."""

    mpp_source: MppSource | None
    plan: TilePlan | None
    extractor: ExtractorCard
    slide_sha256: str | None
    origin: str = ""
    """Which other software made the features, and what it says of its tiles."""


@dataclass(frozen=True, slots=True, eq=False)
class Magnification:
    """The tiles of a slide at one magnification, as features."""

    tiles: Tiles | None
    """None where a file of other software does not say where its tiles lie."""

    features: NDArray[np.float32]
    """(N, E) in the order of the tiles."""

    tissue_coverage: Coverage | None = None
    """(N,) share of each tile that is tissue; None where nobody looked."""

    heuristic_coverage: Coverage | None = None
    """(N,) share of each tile that is annotated or full of cells; None where nobody looked."""

    def __len__(self) -> int:
        return len(self.features)

    @property
    def tissue_guidance(self) -> NDArray[np.float32]:
        """TG of Eq. 3, (N,); all 0 where absent."""
        return self._guidance(self.tissue_coverage)

    @property
    def heuristic_guidance(self) -> NDArray[np.float32]:
        """HG of Eq. 3, (N,); all 0 where absent."""
        return self._guidance(self.heuristic_coverage)

    def _guidance(self, coverage: Coverage | None) -> NDArray[np.float32]:
        if coverage is None:
            return np.zeros(len(self), np.float32)
        return guidance_weights(coverage)


@dataclass(frozen=True, slots=True, eq=False)
class Bag:
    """One slide's tiles as features; BagError where its parts do not fit together."""

    header: BagHeader
    magnifications: tuple[Magnification, ...]

    def __post_init__(self) -> None:
        expected = _count(self.header)
        if len(self.magnifications) != expected:
            raise BagError(
                f"{self.header.slide_id}: {len(self.magnifications)} magnifications, "
                f"its plan has {expected}"
            )
        for index, magnification in enumerate(self.magnifications):
            problem = _problem(magnification, self.header.extractor.features)
            if self.header.plan and magnification.tiles is None:
                problem = "has a plan, but no coords"
            if problem:
                raise BagError(f"{self.header.slide_id}, magnification {index}: {problem}")


def with_guidance(
    bag: Bag,
    *,
    tissue: Sequence[Coverage] | None = None,
    heuristic: Sequence[Coverage] | None = None,
) -> Bag:
    """The bag with new coverage, one (N,) a magnification; what is not given stays."""
    levels = bag.magnifications
    if tissue is not None:
        pairs = zip(levels, tissue, strict=True)
        levels = tuple(replace(level, tissue_coverage=share) for level, share in pairs)
    if heuristic is not None:
        pairs = zip(levels, heuristic, strict=True)
        levels = tuple(replace(level, heuristic_coverage=share) for level, share in pairs)
    return replace(bag, magnifications=levels)


def read_bag(path: Path) -> Bag:
    """The bag in a file, checked; BagError names the file and what is wrong with it."""
    with opened(path) as file:
        return bag_in(file)


def read_header(path: Path) -> BagHeader:
    """The header of the bag in a file, without reading its features."""
    with opened(path) as file:
        return header_in(file)


def bag_in(file: Any) -> Bag:
    """The bag in an open file; raises what `opened` tells as a BagError."""
    header = header_in(file)
    groups = _groups(file, header)
    return Bag(header, tuple(_read_magnification(group) for group in groups))


def header_in(file: Any) -> BagHeader:
    """The header of the bag in an open file; raises what `opened` tells as a BagError."""
    schema = bytes(file.attrs.get("schema", b"")).decode(errors="replace")
    if schema != SCHEMA or not file.attrs.get("complete", False):
        raise BagError(f"holds {schema or 'no schema'!r}, not a complete {SCHEMA!r}")
    return BagHeader.model_validate_json(bytes(file.attrs["header"]))


def write_bag(path: Path, bag: Bag) -> None:
    """Write a bag, whole or not at all; the same bag gives the same bytes."""
    with write_whole(path) as partial, h5py.File(partial, "w") as file:
        # Of fixed length, because HDF5 can hang on a damaged string of variable length.
        file.attrs["schema"] = np.bytes_(SCHEMA)
        header = canonical_json(bag.header.model_dump(mode="json"))
        file.attrs["header"] = np.bytes_(header.encode())
        groups = _groups(file, bag.header, create=True)
        for group, magnification in zip(groups, bag.magnifications, strict=True):
            _write_magnification(group, magnification, bag.header)
        file.attrs["complete"] = True


def _write_magnification(group: Any, level: Magnification, header: BagHeader) -> None:
    group["features"] = level.features
    made_by = {"name": header.slide_id, "savetodir": "", "encoder": header.extractor.name}
    group["features"].attrs.update(made_by)
    if level.tiles is not None:
        _write_tiles(group, level.tiles, header)
    for kind, coverage, guidance in [
        ("tissue", level.tissue_coverage, level.tissue_guidance),
        ("heuristic", level.heuristic_coverage, level.heuristic_guidance),
    ]:
        if coverage is not None:
            group[f"coverage/{kind}"] = coverage
            group[f"guidance/{kind}"] = guidance


def _write_tiles(group: Any, tiles: Tiles, header: BagHeader) -> None:
    group["coords"] = tiles.xy_l0
    attributes = group["coords"].attrs
    attributes.update(_trident_attributes(tiles, header))
    attributes["tile_size_l0"] = tiles.size_l0
    attributes["tile_size_px"] = tiles.size_px
    attributes["tile_mpp"] = tiles.mpp


def _trident_attributes(tiles: Tiles, header: BagHeader) -> dict[str, int | str]:
    """What TRIDENT's tools ask of `coords`; its tiles are square, so widths stand for both."""
    said: dict[str, int | str] = {
        "patch_size": tiles.size_px[0],
        "patch_size_level0": tiles.size_l0[0],
        "target_magnification": round(UM_AT_1X / tiles.mpp),
        "overlap": 0,
        "name": header.slide_id,
        "savetodir": "",
    }
    if header.mpp is not None:
        said["level0_magnification"] = round(UM_AT_1X / header.mpp)
    if header.slide_size_l0 is not None:
        said["level0_width"], said["level0_height"] = header.slide_size_l0
    return said


def _read_magnification(group: Any) -> Magnification:
    names = ("coverage/tissue", "coverage/heuristic")
    tissue, heuristic = (_read(group, name) if name in group else None for name in names)
    tiles = _read_tiles(group) if "coords" in group else None
    return Magnification(tiles, _read(group, "features"), tissue, heuristic)


def _read_tiles(group: Any) -> Tiles:
    attributes = group["coords"].attrs
    return Tiles(
        xy_l0=_read(group, "coords"),
        size_l0=_pair(attributes["tile_size_l0"]),
        size_px=_pair(attributes["tile_size_px"]),
        mpp=float(attributes["tile_mpp"]),
    )


def _read(group: Any, name: str) -> NDArray[Any]:
    dataset = group[name]
    stored = dataset.id.get_storage_size()
    if dataset.nbytes != stored:  # cut off, or a small file that would fill the memory
        raise BagError(f"{name} should be {dataset.nbytes:,} bytes, but {stored:,} are there")
    values: NDArray[Any] = dataset[:]
    return values


def _pair(values: Any) -> tuple[int, int]:
    width, height = (int(value) for value in values)
    return width, height


def _count(header: BagHeader) -> int:
    """How many magnifications a bag has; other software has one."""
    return len(header.plan.mpp) if header.plan else 1


def _groups(file: Any, header: BagHeader, *, create: bool = False) -> list[Any]:
    count = _count(header)
    if count == 1:
        return [file]
    names = [f"magnification_{index}" for index in range(count)]
    return [file.create_group(name) if create else file[name] for name in names]


_AGAIN = "delete the file and run sagdeploy extract again"


@contextmanager
def opened(path: Path, hint: str = _AGAIN) -> Iterator[Any]:
    """The h5py.File, with what goes wrong in the block told as a BagError about it."""
    if not path.is_file():
        raise BagError(f"{path}: no such bag", hint="run sagdeploy extract")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except BagError as error:
        raise BagError(f"{path}: {error}", hint=hint) from error
    except ValidationError as error:
        raise BagError(f"{path}: its header is not ours: {problems(error)}", hint=hint) from error
    except (*_DAMAGE, ConfigError) as error:
        raise BagError(f"{path}: not a bag, or a damaged one: {error}", hint=hint) from error


_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)
"""What h5py raises, depending on which byte of a file is wrong or which part is missing."""


def _problem(level: Magnification, features: int) -> str:
    """What is wrong with a magnification, or nothing."""
    tiles = len(level) if level.tiles is None else len(level.tiles)
    if level.features.dtype != np.float32 or level.features.shape != (tiles, features):
        return (
            f"features are {level.features.dtype} {list(level.features.shape)}, "
            f"not float32 {[tiles, features]}"
        )
    xy_l0 = None if level.tiles is None else level.tiles.xy_l0
    if xy_l0 is not None and (xy_l0.dtype != np.int64 or xy_l0.shape != (tiles, 2)):
        return f"coords are {xy_l0.dtype} {list(xy_l0.shape)}"
    bad_rows = ~np.isfinite(level.features).all(axis=1)
    if bad_rows.any():
        return f"features of tile {bad_rows.argmax()} are not finite"
    shares = {"tissue": level.tissue_coverage, "heuristic": level.heuristic_coverage}
    for name, coverage in shares.items():
        if coverage is None:
            continue
        if coverage.dtype != np.float64 or coverage.shape != (tiles,):
            return f"{name} coverage is {coverage.dtype} {list(coverage.shape)}, not [{tiles}]"
        if not ((coverage >= 0) & (coverage <= 1)).all():  # NaN fails too
            return f"{name} coverage leaves [0, 1]"
    return ""
