"""Features wait in memory, or in a file that has no name and cannot fail later."""

from pathlib import Path

import numpy as np
import pytest

from sagdeploy.pipeline.shelf import LARGE_BYTES, FeatureShelf
from tests.peak import growth_mib

FEATURES = 64
LARGE = LARGE_BYTES // (4 * FEATURES)
"""Tiles from which on features lie in a file."""


@pytest.mark.parametrize("tiles", [1, LARGE - 1, LARGE, 3 * LARGE + 5])
def test_features_come_out_as_they_were_put_in_any_order(tiles: int) -> None:
    drawn = np.random.default_rng(tiles)
    expected = drawn.standard_normal((tiles, FEATURES), np.float32)
    runs = np.array_split(np.arange(tiles), -(-tiles // 7))  # of neighbours, some of which meet
    order = np.concatenate([runs[number] for number in drawn.permutation(len(runs))])
    with FeatureShelf(tiles, FEATURES) as shelf:
        for numbers in np.array_split(order, -(-tiles // 1000)):
            shelf.put(numbers, expected[numbers])
        features = shelf.all()
    np.testing.assert_array_equal(features, expected)


def test_the_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with FeatureShelf(LARGE, FEATURES) as shelf:
        features = shelf.all()
        assert not list(tmp_path.iterdir())
    assert any(str(tmp_path) in name for name in _mapped())
    del features
    assert not any(str(tmp_path) in name for name in _mapped())


def _mapped() -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if "deleted" in line]


def test_a_process_does_not_grow_while_it_puts_features_there() -> None:
    tiles = 8 * LARGE  # 128 MiB
    setup = f"""
import numpy as np
from sagdeploy.pipeline.shelf import FeatureShelf
shelf, some = FeatureShelf({tiles}, {FEATURES}), np.ones((1000, {FEATURES}), np.float32)
"""
    work = f"""
for start in range(0, {tiles} - 1000, 1000):
    shelf.put(np.arange(start, start + 1000), some)
"""
    assert growth_mib(setup, work) < 1


def test_where_there_is_no_room_for_a_file_features_stay_in_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/proc")  # nobody makes files there
    caplog.set_level("INFO")
    with FeatureShelf(LARGE, FEATURES) as shelf:
        shelf.put(np.arange(LARGE), np.ones((LARGE, FEATURES), np.float32))
        assert shelf.all().sum() == LARGE * FEATURES
    assert "stay in memory" in caplog.text
