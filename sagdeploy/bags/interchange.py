"""Feature files of other software as bags: TRIDENT's, CLAM's, STAMP's, and bare features.

Nothing that such a file does not say is made up: the header then holds None, and a bag
without places of its tiles can be trained on, but neither guided nor exported.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sagdeploy.bags.bag import Bag, BagHeader, Magnification
from sagdeploy.bags.bagfile import bag_in, header_in, opened
from sagdeploy.errors import BagError
from sagdeploy.manifest import ExtractorCard
from sagdeploy.slides.metadata import Mpp
from sagdeploy.slides.tiling import Tiles

UNKNOWN = "unknown"
"""Name of an extractor that a file does not tell."""

LARGEST_RATIO = 100
"""How many times larger than on the disk features may be in memory."""

_HINT = "write this file again with the software that made it"


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a file of other software says beside its features and coordinates."""

    writer: str
    extractor: str = UNKNOWN
    tiling: str = ""
    """How it says that it cut the slide: bags of two kinds cannot be trained on together."""

    slide_size_l0: tuple[int, int] | None = None
    tile_px: int = 0
    """Side of a tile as its extractor saw it; 0 where the file does not say."""

    tile_l0: int | None = None
    """Side of a tile in level-0 pixels, in which the coordinates then are."""

    tile_um: float = 0.0
    """Side of a tile in microns, in which the coordinates are where `tile_l0` is None."""


def load_bag(path: Path, *, mpp: Mpp | None = None) -> Bag:
    """The bag in a file of ours, or in a feature file of TRIDENT, CLAM or STAMP, checked.

    mpp: of the slide, without which other software's coordinates have no scale
    BagError names the file and what is wrong with it.
    """
    with opened(path, _hint(path)) as file:
        if _is_ours(file):
            return bag_in(file)
        origin, features = _origin(file), _features(file)
        tiles = _tiles(file, origin, mpp) if mpp and origin.tile_px else None
        if "coords" in file and len(file["coords"]) != len(features):
            raise BagError(f"{len(features)} features, but {len(file['coords'])} coords")
        header = _header(path, origin, features.shape[1], mpp)
        return Bag(header, (Magnification(tiles, features),))


def load_header(path: Path) -> BagHeader:
    """The header that `load_bag` gives the bag, without reading its features."""
    with opened(path, _hint(path)) as file:
        if _is_ours(file):
            return header_in(file)
        return _header(path, _origin(file), _dataset(file).shape[-1], None)


def _is_ours(file: Any) -> bool:
    return "schema" in file.attrs or not ("features" in file or "feats" in file)


def _hint(path: Path) -> str:
    return f"if sagdeploy wrote {path.name}, delete it and extract it again; otherwise {_HINT}"


def _header(path: Path, origin: _Origin, features: int, mpp: Mpp | None) -> BagHeader:
    said = f"{origin.writer}, {origin.tiling}" if origin.tiling else origin.writer
    weights = "not told by the files of features"
    return BagHeader(
        slide_id=path.stem,
        slide_size_l0=origin.slide_size_l0,
        mpp=mpp.value if mpp else None,
        mpp_source=mpp.source if mpp else None,
        plan=None,
        extractor=ExtractorCard(
            name=origin.extractor, features=features, weights=weights, sha256=""
        ),
        slide_sha256=None,
        origin=said,
    )


def _origin(file: Any) -> _Origin:
    if "feats" in file:
        return _stamp(file)
    if "coords" not in file:
        return _Origin(UNKNOWN, _text(file["features"].attrs, "encoder"))
    if "patch_size_level0" in file["coords"].attrs:
        return _trident(file)
    return _Origin("CLAM")


def _trident(file: Any) -> _Origin:
    said = file["coords"].attrs
    tile_px, overlap = int(said["patch_size"]), int(said.get("overlap", 0))
    size_l0 = None
    if "level0_width" in said and "level0_height" in said:
        size_l0 = (int(said["level0_width"]), int(said["level0_height"]))
    return _Origin(
        "TRIDENT",
        _text(file["features"].attrs, "encoder"),
        f"{tile_px} px at {_text(said, 'target_magnification')}x, overlap {overlap}",
        slide_size_l0=size_l0,
        tile_px=tile_px,
        tile_l0=int(said["patch_size_level0"]),
    )


def _stamp(file: Any) -> _Origin:
    said = file.attrs
    kind = _text(said, "feat_type")
    if kind not in (UNKNOWN, "tile"):
        raise BagError(f"holds STAMP's features of a {kind}, not of its tiles")
    extractor = _text(said, "extractor")
    if _text(said, "unit") != "um" or "tile_size_um" not in said or "tile_size_px" not in said:
        return _Origin("STAMP", extractor)
    tile_um, tile_px = float(said["tile_size_um"]), int(said["tile_size_px"])
    tiling = f"{tile_um:g} um in {tile_px} px"
    return _Origin("STAMP", extractor, tiling, tile_px=tile_px, tile_um=tile_um)


def _text(attributes: Any, name: str) -> str:
    value = attributes.get(name, UNKNOWN)
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _tiles(file: Any, origin: _Origin, mpp: Mpp) -> Tiles:
    """Where the tiles lie at level 0; in the file they are told in pixels or in microns."""
    coords = _read(file["coords"])
    side_l0 = origin.tile_l0
    if side_l0 is None:
        coords, side_l0 = np.round(coords / mpp.value), round(origin.tile_um / mpp.value)
    if side_l0 < 1 or coords.ndim != 2 or not np.isfinite(coords).all():
        raise BagError(f"coords are {list(coords.shape)}, of tiles {side_l0} px wide at level 0")
    scale = side_l0 / origin.tile_px
    size_px = (origin.tile_px, origin.tile_px)
    return Tiles(coords.astype(np.int64), (side_l0, side_l0), size_px, mpp.value * scale)


def _features(file: Any) -> NDArray[np.float32]:
    values = _read(_dataset(file))
    if values.ndim == 3 and len(values) == 1:  # a batch of one slide, as some writers leave it
        values = values[0]
    if values.ndim != 2:
        raise BagError(f"features are {list(values.shape)}, not (tiles, length)")
    return np.ascontiguousarray(values, np.float32)


def _dataset(file: Any) -> Any:
    dataset = file["feats" if "feats" in file else "features"]
    if not getattr(dataset, "shape", ()):
        raise BagError("features are a group, or a single value, not (tiles, length)")
    return dataset


def _read(dataset: Any) -> NDArray[Any]:
    """All of a dataset, however it is chunked or compressed; a bomb is refused unread."""
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > LARGEST_RATIO * stored:
        raise BagError(f"{stored:,} bytes of {dataset.name} would become {dataset.nbytes:,}")
    values: NDArray[Any] = dataset[:]
    return values
