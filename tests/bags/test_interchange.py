"""Feature files of other software are bags, in which nothing is made up."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from sagdeploy.bags.bag import Bag, BagHeader, Magnification
from sagdeploy.bags.bagfile import read_bag, write_bag
from sagdeploy.bags.interchange import load_bag, load_header
from sagdeploy.errors import BagError
from sagdeploy.manifest import ExtractorCard
from sagdeploy.slides.metadata import Mpp
from sagdeploy.slides.tiling import TilePlan, Tiles
from tests.bags.foreign import write_clam, write_plain, write_stamp, write_trident

FEATURES = np.random.default_rng(0).standard_normal((5, 6), dtype=np.float32)
XY_L0 = np.array([[512, 0], [1024, 0], [0, 512], [512, 512], [4096, 1024]])
SIZE_L0 = (9000, 5000)
MPP = Mpp(0.25, "cohort", None)


def trident(path: Path) -> None:
    write_trident(path, FEATURES, XY_L0, size_l0=SIZE_L0)


def clam(path: Path) -> None:
    write_clam(path, FEATURES, XY_L0)


def stamp(path: Path) -> None:
    write_stamp(path, FEATURES, (XY_L0 / 2).astype(np.float32))


def plain(path: Path) -> None:
    write_plain(path, FEATURES)


DIALECTS = {
    "TRIDENT, 256 px at 20x, overlap 0": (trident, "uni_v1"),
    "CLAM": (clam, "unknown"),
    "STAMP, 256 um in 224 px": (stamp, "mahmood-uni"),
    "unknown": (plain, "unknown"),
}


@pytest.mark.parametrize("origin", DIALECTS)
def test_features_are_read_and_the_rest_stays_unknown(tmp_path: Path, origin: str) -> None:
    write, extractor = DIALECTS[origin]
    path = tmp_path / "tumor_001.h5"
    write(path)
    bag = load_bag(path)
    (magnification,) = bag.magnifications
    assert magnification.features.dtype == np.float32
    np.testing.assert_allclose(magnification.features, FEATURES, atol=2e-3)
    assert magnification.tiles is None
    assert not magnification.tissue_guidance.any()
    header = bag.header
    assert load_header(path) == header
    assert (header.slide_id, header.origin) == ("tumor_001", origin)
    assert (header.extractor.name, header.extractor.features) == (extractor, 6)
    assert (header.mpp, header.mpp_source, header.plan, header.slide_sha256) == (None,) * 4
    assert header.slide_size_l0 == (SIZE_L0 if write is trident else None)


def test_trident_s_tiles_have_places_once_the_slide_s_scale_is_known(tmp_path: Path) -> None:
    trident(tmp_path / "a.h5")
    tiles = load_bag(tmp_path / "a.h5", mpp=MPP).magnifications[0].tiles
    assert tiles is not None
    assert tiles.xy_l0.tolist() == XY_L0.tolist()
    assert (tiles.size_l0, tiles.size_px, tiles.mpp) == ((512, 512), (256, 256), 0.5)


def test_stamp_s_microns_become_pixels_of_the_slide(tmp_path: Path) -> None:
    stamp(tmp_path / "a.h5")
    bag = load_bag(tmp_path / "a.h5", mpp=MPP)
    tiles = bag.magnifications[0].tiles
    assert tiles is not None
    assert tiles.xy_l0.tolist() == (XY_L0 * 2).tolist()
    assert (tiles.size_l0, tiles.size_px) == ((1024, 1024), (224, 224))
    assert tiles.mpp == pytest.approx(256 / 224)
    assert (bag.header.mpp, bag.header.mpp_source) == (0.25, "cohort")


def test_clam_s_tiles_have_no_size_whatever_the_scale(tmp_path: Path) -> None:
    clam(tmp_path / "a.h5")
    assert load_bag(tmp_path / "a.h5", mpp=MPP).magnifications[0].tiles is None


def test_a_batch_of_one_slide_is_a_slide(tmp_path: Path) -> None:
    write_plain(tmp_path / "a.h5", FEATURES[None])
    np.testing.assert_array_equal(load_bag(tmp_path / "a.h5").magnifications[0].features, FEATURES)
    assert load_header(tmp_path / "a.h5").extractor.features == 6


def test_a_placed_bag_of_others_survives_writing_as_ours(tmp_path: Path) -> None:
    trident(tmp_path / "a.h5")
    bag = load_bag(tmp_path / "a.h5", mpp=MPP)
    write_bag(tmp_path / "b.h5", bag)
    again = load_bag(tmp_path / "b.h5")
    assert again.header == bag.header
    assert again.magnifications[0].tiles is not None
    assert again.magnifications[0].tiles.xy_l0.tolist() == XY_L0.tolist()


def our_bag() -> Bag:
    card = ExtractorCard(name="stain_texture", features=6, weights="none", sha256="a" * 64)
    header = BagHeader(
        slide_id="a",
        slide_size_l0=SIZE_L0,
        mpp=0.25,
        mpp_source="metadata",
        plan=TilePlan(mpp=(0.5,), tile_px=256),
        extractor=card,
        slide_sha256="b" * 64,
    )
    return Bag(header, (Magnification(Tiles(XY_L0, (512, 512), (256, 256), 0.5), FEATURES),))


def test_ours_are_read_as_ever(tmp_path: Path) -> None:
    write_bag(tmp_path / "a.h5", our_bag())
    assert load_bag(tmp_path / "a.h5").header == read_bag(tmp_path / "a.h5").header
    assert load_header(tmp_path / "a.h5") == our_bag().header


def test_ours_are_read_as_trident_and_torchmil_read_features(tmp_path: Path) -> None:
    """What `trident.IO.read_coords` and torchmil's TridentWSIDataset do with a file."""
    write_bag(tmp_path / "a.h5", our_bag())
    with h5py.File(tmp_path / "a.h5", "r") as file:
        attributes, coords = dict(file["coords"].attrs), file["coords"][:]
        features = file["features"][:]
        assert file["features"].chunks is None
    np.testing.assert_array_equal(features, FEATURES)
    grid: NDArray[np.int64] = ((coords / attributes["patch_size"]).astype(int)) // 2
    assert grid.tolist() == (XY_L0 // 512).tolist()
    side = attributes["patch_size"] * attributes["level0_magnification"]
    assert side // attributes["target_magnification"] == attributes["patch_size_level0"] == 512


def slide_features(path: Path) -> None:
    write_stamp(path, FEATURES[:1], np.zeros((1, 2), np.float32), kind="slide")


def atlas_patch(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["features/uni_v1"] = FEATURES


def fewer_coords(path: Path) -> None:
    write_clam(path, FEATURES, XY_L0[:4])


def not_finite(path: Path) -> None:
    write_plain(path, np.where(np.arange(5)[:, None] == 3, np.float32(np.nan), FEATURES))


def vector(path: Path) -> None:
    write_plain(path, FEATURES[0])


def nothing(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["coords"] = XY_L0


def bomb(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("features", (10**8, 6), np.float32, chunks=(1000, 6))


def no_number(path: Path) -> None:
    trident(path)
    with h5py.File(path, "r+") as file:
        file["coords"].attrs["patch_size"] = "None"


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (slide_features, "features of a slide, not of its tiles"),
        (atlas_patch, "features are a group"),
        (fewer_coords, "5 features, but 4 coords"),
        (not_finite, "tile 3 are not finite"),
        (vector, r"features are \[6\]"),
        (nothing, "no schema"),
        (bomb, "0 bytes of /features would become 2,400,000,000"),
        (no_number, "None"),
    ],
)
def test_what_cannot_be_a_bag_is_refused_by_name(
    tmp_path: Path, write: Callable[[Path], None], reason: str
) -> None:
    path = tmp_path / "a.h5"
    write(path)
    with pytest.raises(BagError, match=reason) as caught:
        load_bag(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "write this file again" in caught.value.hint
