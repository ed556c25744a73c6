"""Bags as HDF5 files.

The layout is TRIDENT's, so that its users read ours with `file["features"][:]`; what is
ours lies beside it. Several magnifications lie in groups `magnification_0`, ... of that
same layout.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from sagdeploy.bags.bag import Bag, BagHeader, Magnification
from sagdeploy.config import problems
from sagdeploy.errors import BagError, ConfigError
from sagdeploy.files import canonical_json, write_bytes
from sagdeploy.slides.tiling import Tiles

SCHEMA = "sagdeploy-bag/1"
UM_AT_1X = 10.0
"""Microns per pixel that the field calls 1x; only for TRIDENT's attributes."""


def read_bag(path: Path) -> Bag:
    """The bag in a file, checked; BagError names the file and what is wrong with it."""
    with opened(path) as file:
        return bag_in(file)


def read_header(path: Path) -> BagHeader:
    """The header of the bag in a file, without reading its features."""
    with opened(path) as file:
        return header_in(file)


def mapped(path: Path, bag: Bag) -> Bag | None:
    """The bag, read from `path`, with features that the kernel reads from there as they are used.

    Processes that map the same file share its pages. None where the file is not as ours are.
    """
    if bag.header.origin:
        return None
    with opened(path) as file:
        places = [group["features"].id.get_offset() for group in _groups(file, bag.header)]
    magnifications = tuple(
        # "c" writes nowhere but to memory; PyTorch wants arrays that it may write to
        replace(each, features=np.memmap(path, np.float32, "c", place, each.features.shape))
        for each, place in zip(bag.magnifications, places, strict=True)
    )
    return replace(bag, magnifications=magnifications)


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
    """Write a bag, whole or not at all; the same bag gives the same bytes.

    It is made in memory: where a disk is full, HDF5 prints tracebacks, and crashes later.
    """
    image = BytesIO()
    with h5py.File(image, "w") as file:
        # Of fixed length, because HDF5 can hang on a damaged string of variable length.
        file.attrs["schema"] = np.bytes_(SCHEMA)
        header = canonical_json(bag.header.model_dump(mode="json"))
        file.attrs["header"] = np.bytes_(header.encode())
        groups = _groups(file, bag.header, create=True)
        for group, magnification in zip(groups, bag.magnifications, strict=True):
            _write_magnification(group, magnification, bag.header)
        file.attrs["complete"] = True
    write_bytes(path, image.getbuffer())


def _write_magnification(group: Any, magnification: Magnification, header: BagHeader) -> None:
    group["features"] = magnification.features
    made_by = {"name": header.slide_id, "savetodir": "", "encoder": header.extractor.name}
    group["features"].attrs.update(made_by)
    if magnification.tiles is not None:
        _write_tiles(group, magnification.tiles, header)
    for kind, coverage, guidance in [
        ("tissue", magnification.tissue_coverage, magnification.tissue_guidance),
        ("heuristic", magnification.heuristic_coverage, magnification.heuristic_guidance),
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


def _groups(file: Any, header: BagHeader, *, create: bool = False) -> list[Any]:
    count = header.magnifications
    if count == 1:
        return [file]
    names = [f"magnification_{index}" for index in range(count)]
    return [file.create_group(name) if create else file[name] for name in names]


_AGAIN = "delete the file and run sagdeploy extract again"


@contextmanager
def opened(path: Path, hint: str = _AGAIN) -> Iterator[Any]:
    """The h5py.File, with what goes wrong in the block told as a BagError about it."""
    place = str(path)
    if not path.is_file():
        raise BagError("no such bag", hint="run sagdeploy extract", place=place)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except BagError as error:
        raise BagError(str(error), hint=hint, place=place) from error
    except ValidationError as error:
        message = f"its header is not ours: {problems(error)}"
        raise BagError(message, hint=hint, place=place) from error
    except (*_DAMAGE, ConfigError) as error:
        message = f"not a bag, or a damaged one: {error}"
        raise BagError(message, hint=hint, place=place) from error


_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)
"""What h5py raises, depending on which byte of a file is wrong or which part is missing."""
