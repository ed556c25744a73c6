import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagdeploy.bags.bag import Bag, BagHeader, Magnification, with_guidance
from sagdeploy.bags.bagfile import read_bag, read_header, write_bag
from sagdeploy.errors import BagError, OutputError
from sagdeploy.manifest import ExtractorCard
from sagdeploy.slides.tiling import TilePlan, Tiles

DENSE = TilePlan(mpp=(0.5,), tile_px=224)
GRID = TilePlan(kind="grid", mpp=(1.0, 0.8), grid=(3, 2))


def make_header(plan: TilePlan = DENSE, features: int = 6) -> BagHeader:
    return BagHeader(
        slide_id="tumor_001",
        slide_size_l0=(9000, 5000),
        mpp=0.243,
        mpp_source="metadata",
        plan=plan,
        extractor=ExtractorCard(
            name="stain_texture", features=features, weights="none", sha256="a" * 64
        ),
        slide_sha256="b" * 64,
    )


def make_magnification(
    seed: int, tiles: int = 5, features: int = 6, mpp: float = 0.5
) -> Magnification:
    rng = np.random.default_rng(seed)
    return Magnification(
        tiles=Tiles(
            xy_l0=rng.integers(0, 4000, (tiles, 2)), size_l0=(461, 307), size_px=(224, 149), mpp=mpp
        ),
        features=rng.standard_normal((tiles, features), dtype=np.float32),
        tissue_coverage=rng.random(tiles),
        heuristic_coverage=np.eye(1, tiles)[0],
    )


def make_bag(plan: TilePlan = DENSE) -> Bag:
    magnifications = tuple(
        make_magnification(index, tiles=5 + index, mpp=mpp) for index, mpp in enumerate(plan.mpp)
    )
    return Bag(make_header(plan), magnifications)


def assert_same(left: Bag, right: Bag) -> None:
    assert left.header == right.header
    for one, other in zip(left.magnifications, right.magnifications, strict=True):
        assert one.tiles is not None
        assert other.tiles is not None
        assert (one.tiles.size_l0, one.tiles.size_px) == (other.tiles.size_l0, other.tiles.size_px)
        assert one.tiles.mpp == other.tiles.mpp
        np.testing.assert_array_equal(one.tiles.xy_l0, other.tiles.xy_l0)
        np.testing.assert_array_equal(one.features, other.features)
        for name in ("tissue_coverage", "heuristic_coverage"):
            np.testing.assert_equal(getattr(one, name), getattr(other, name))


@given(
    seed=st.integers(0, 2**32 - 1),
    tiles=st.integers(1, 30),
    features=st.integers(1, 20),
    looked=st.tuples(st.booleans(), st.booleans()),
)
def test_a_bag_survives_writing(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    tiles: int,
    features: int,
    looked: tuple[bool, bool],
) -> None:
    magnification = make_magnification(seed, tiles, features)
    magnification = replace(
        magnification,
        tissue_coverage=magnification.tissue_coverage if looked[0] else None,
        heuristic_coverage=magnification.heuristic_coverage if looked[1] else None,
    )
    bag = Bag(make_header(features=features), (magnification,))
    path = tmp_path_factory.mktemp("bag") / "a.h5"
    write_bag(path, bag)
    assert_same(read_bag(path), bag)


def test_several_magnifications_survive_writing(tmp_path: Path) -> None:
    bag = make_bag(GRID)
    write_bag(tmp_path / "a.h5", bag)
    assert_same(read_bag(tmp_path / "a.h5"), bag)
    assert read_header(tmp_path / "a.h5") == bag.header


@pytest.mark.parametrize("plan", [DENSE, GRID])
def test_the_same_bag_gives_the_same_bytes(tmp_path: Path, plan: TilePlan) -> None:
    write_bag(tmp_path / "a.h5", make_bag(plan))
    write_bag(tmp_path / "b.h5", make_bag(plan))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_trident_users_read_ours_with_h5py_alone(tmp_path: Path) -> None:
    bag = make_bag()
    tiles = bag.magnifications[0].tiles
    assert tiles is not None
    write_bag(tmp_path / "a.h5", bag)
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["features"][:], bag.magnifications[0].features)
        np.testing.assert_array_equal(file["coords"][:], tiles.xy_l0)
        assert file["coords"].dtype == np.int64
        assert file["features"].chunks is None
        assert dict(file["features"].attrs) == {
            "name": "tumor_001",
            "savetodir": "",
            "encoder": "stain_texture",
        }
        attributes = dict(file["coords"].attrs)
        np.testing.assert_allclose(
            file["guidance/tissue"][:], bag.magnifications[0].tissue_guidance
        )
    for name in ("tile_size_l0", "tile_size_px", "tile_mpp"):
        del attributes[name]
    assert attributes == {
        "patch_size": 224,
        "patch_size_level0": 461,
        "level0_magnification": 41,
        "target_magnification": 20,
        "overlap": 0,
        "name": "tumor_001",
        "savetodir": "",
        "level0_width": 9000,
        "level0_height": 5000,
    }


def test_guidance_sums_to_one_and_is_zero_where_nobody_looked() -> None:
    magnification = make_magnification(0)
    assert magnification.tissue_guidance.sum() == pytest.approx(1)
    assert magnification.heuristic_guidance.tolist() == [1, 0, 0, 0, 0]
    assert replace(magnification, heuristic_coverage=None).heuristic_guidance.tolist() == [0] * 5


def test_new_guidance_leaves_the_rest_alone() -> None:
    bag = make_bag()
    guided = with_guidance(bag, heuristic=[np.full(5, 0.5)])
    magnification, before = guided.magnifications[0], bag.magnifications[0]
    assert magnification.heuristic_guidance.tolist() == pytest.approx([0.2] * 5)
    assert magnification.tissue_coverage is before.tissue_coverage
    assert magnification.features is before.features


def test_guidance_of_other_tiles_is_refused() -> None:
    with pytest.raises(BagError, match="tissue coverage is float64"):
        with_guidance(make_bag(), tissue=[np.ones(4)])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"features": np.zeros((5, 7), np.float32)}, r"\[5, 7\], not float32 \[5, 6\]"),
        ({"features": np.zeros((4, 6), np.float32)}, r"\[4, 6\]"),
        ({"features": np.zeros((5, 6))}, "float64"),
        ({"features": np.full((5, 6), np.nan, np.float32)}, "tile 0 are not finite"),
        ({"tissue_coverage": np.full(5, np.nan)}, "leaves"),
        ({"heuristic_coverage": np.full(5, 1.5)}, "leaves"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BagError, match=reason):
        Bag(make_header(), (replace(make_magnification(0), **change),))


def test_a_plan_of_two_magnifications_needs_two() -> None:
    with pytest.raises(BagError, match="1 magnifications, its plan has 2"):
        Bag(make_header(GRID), (make_magnification(0),))


def spoil(path: Path, how: str) -> None:
    with h5py.File(path, "r+") as file:
        if how == "no features":
            del file["features"]
        elif how == "group":
            del file["features"]
            file.create_group("features")
        elif how == "incomplete":
            del file.attrs["complete"]
        elif how == "schema":
            file.attrs["schema"] = np.bytes_("sagdeploy-bag/9")
        elif how == "header":
            file.attrs["header"] = np.bytes_('{"schema_version": 1}')
        elif how == "json":
            file.attrs["header"] = np.bytes_("{")
        elif how == "tile size":
            del file["coords"].attrs["tile_size_l0"]
        elif how == "not finite":
            file["features"][3, 2] = np.inf
        elif how == "coords":
            del file["coords"]
            file["coords"] = np.zeros((4, 2), np.int64)
        elif how == "bomb":
            del file["features"]
            file.create_dataset("features", (10**9, 6), np.float32, chunks=(1000, 6))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("no features", "features"),
        ("group", "not a bag, or a damaged one"),
        ("incomplete", "not a complete"),
        ("schema", "sagdeploy-bag/9"),
        ("header", "slide_id"),
        ("json", "JSON"),
        ("tile size", "tile_size_l0"),
        ("not finite", "tile 3 are not finite"),
        ("coords", "tile_size_l0"),
        ("bomb", "24,000,000,000 bytes, but 0"),
    ],
)
def test_a_spoilt_bag_is_refused_by_name(tmp_path: Path, how: str, reason: str) -> None:
    path = tmp_path / "a.h5"
    write_bag(path, make_bag())
    spoil(path, how)
    with pytest.raises(BagError, match=reason) as caught:
        read_bag(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "sagdeploy extract" in caught.value.hint


def test_what_is_no_bag_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("hello")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["features"] = np.zeros((3, 6), np.float32)
    for name in ("text.h5", "other.h5", "missing.h5", "."):
        with pytest.raises(BagError) as caught:
            read_bag(tmp_path / name)
        assert caught.value.hint


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "a.h5"
    write_bag(path, make_bag())
    return path


@given(share=st.floats(0, 0.99))
def test_a_cut_bag_is_refused(whole: Path, share: float) -> None:
    path = whole.with_name("cut.h5")
    shutil.copyfile(whole, path)
    with path.open("r+b") as file:
        file.truncate(int(whole.stat().st_size * share))
    with pytest.raises(BagError):
        read_bag(path)


def test_a_bag_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_bag(tmp_path / "file" / "a.h5", make_bag())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
