"""The manifest says how the extractor ran fastest, and the engine in process heeds it."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sagdeploy.export.graph import export_extractor
from sagdeploy.export.pace import BATCHES, core_pace
from sagdeploy.manifest import CorePace
from sagdeploy.serving.engine import ON_CORES, Pace
from sagdeploy.serving.local import LocalEngine
from tests.serving.engine_contract import export, some_tiles


class FixedCost(nn.Module):
    """Twice the tiles take the same time: nearly all of it is spent on what all share."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Buffer(torch.eye(900) / 900)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """(N, H, W, 3) -> (N, 3)."""
        colours = tiles.float().mean((1, 2))  # (N, 3)
        shared = self.mix + colours.sum() * 1e-9  # so that it is not folded away
        for _ in range(6):
            shared = shared @ self.mix
        return colours + shared.sum()


def test_a_run_whose_cost_is_not_its_tiles_gets_more_of_them(tmp_path: Path) -> None:
    path = export_extractor(FixedCost(), tmp_path / "extractor.onnx", tile_px=8)
    assert core_pace(path, 8).batch_tiles == BATCHES[-1]


def test_the_pace_of_a_manifest_is_that_of_the_engine(tmp_path: Path) -> None:
    engine = _published(tmp_path, CorePace(batch_tiles=3, threads=1))
    assert engine.pace("small", 1) == engine.pace("small_extractor", 1) == Pace(3, in_flight=0)


def test_all_cores_for_a_run_are_asked_one_run_at_a_time(tmp_path: Path) -> None:
    engine = _published(tmp_path, CorePace(batch_tiles=16, threads=0))
    assert engine.pace("small") == Pace(16, in_flight=1)


def test_where_nothing_was_measured_it_is_the_usual_one(tmp_path: Path) -> None:
    assert _published(tmp_path, None).pace("small") == ON_CORES


@pytest.mark.parametrize("threads", [0, 1])
def test_features_do_not_depend_on_it(tmp_path: Path, threads: int) -> None:
    tiles = {"tiles": some_tiles(5)}
    plain, paced = (
        _published(tmp_path / str(number), pace).infer("small_extractor", tiles)["features"]
        for number, pace in enumerate((None, CorePace(batch_tiles=2, threads=threads)))
    )
    np.testing.assert_array_equal(plain, paced)


def _published(folder: Path, pace: CorePace | None) -> LocalEngine:
    """An engine whose model `small` has that pace."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    exported = export(folder, "small")
    draft = exported.draft.model_copy(update={"pace": pace})
    replace(exported, draft=draft).publish(folder / "models")
    return LocalEngine(folder / "models")
