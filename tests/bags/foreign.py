"""Feature files as TRIDENT, CLAM and STAMP write them, by h5py alone."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]


def write_trident(
    path: Path, features: Features, xy_l0: NDArray[np.int64], *, size_l0: tuple[int, int]
) -> None:
    """256 px tiles at 20x of a 40x slide, in chunks of one row, as its `save_h5` leaves them."""
    with h5py.File(path, "w") as file:
        stored: dict[str, NDArray[Any]] = {"features": features, "coords": xy_l0}
        for name, values in stored.items():
            chunks, most = (1, *values.shape[1:]), (None, *values.shape[1:])
            file.create_dataset(name, data=values, chunks=chunks, maxshape=most)
        file["features"].attrs.update({"name": path.stem, "savetodir": "x", "encoder": "uni_v1"})
        file["coords"].attrs.update(
            {
                "patch_size": 256,
                "patch_size_level0": 512,
                "level0_magnification": 40,
                "target_magnification": 20,
                "overlap": 0,
                "name": path.stem,
                "savetodir": "x",
                "level0_width": size_l0[0],
                "level0_height": size_l0[1],
            }
        )


def write_clam(path: Path, features: Features, xy_l0: NDArray[np.int64]) -> None:
    """Features and corners of tiles whose size is told in another file."""
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=features, chunks=(2, features.shape[1]))
        file["coords"] = xy_l0.astype(np.int32)


def write_stamp(
    path: Path, features: Features, xy_um: NDArray[np.float32], *, kind: str = "tile"
) -> None:
    """Half precision, and microns in the place of pixels."""
    with h5py.File(path, "w") as file:
        file["coords"] = xy_um
        file["feats"] = features.astype(np.float16)
        file.attrs.update(
            {
                "stamp_version": "2.3.0",
                "extractor": "mahmood-uni",
                "unit": "um",
                "tile_size_um": 256.0,
                "tile_size_px": 224,
                "code_hash": "0123abcd",
                "feat_type": kind,
            }
        )


def write_plain(path: Path, features: Features) -> None:
    """Features and nothing else."""
    with h5py.File(path, "w") as file:
        file["features"] = features
