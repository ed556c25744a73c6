"""A real server answers in every precision as ONNX Runtime in this process does."""

from pathlib import Path

import numpy as np
import pytest

from sagdeploy.export.precision import to_fp16, to_int8
from sagdeploy.export.repository import publish
from sagdeploy.manifest import extractor_name
from sagdeploy.serving.local import LocalEngine
from sagdeploy.serving.model_config import FILE_NAME
from sagdeploy.serving.server import TritonServer
from sagdeploy.serving.triton import TritonEngine
from sagdeploy.slides.tiling import TilePlan
from tests.export.reducible import TILE_PX, smooth_tiles, write_extractor
from tests.serving.engine_contract import FEATURES, draft_of, export

MODEL = "small"
ACCELERATED = """
optimization { execution_accelerators { gpu_execution_accelerator : [ {
  name : "tensorrt"
  parameters { key: "precision_mode" value: "FP16" }
} ] } }
"""


@pytest.fixture(scope="module")
def reduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one model in float32, int8 and float16: versions 1, 2 and 3."""
    scratch = tmp_path_factory.mktemp("precisions")
    diagnosis = export(scratch, MODEL).diagnosis
    whole = write_extractor(scratch / "fp32.onnx", features=FEATURES)
    int8 = to_int8(whole, scratch / "int8.onnx", [smooth_tiles(8, seed=1)])
    fp16 = to_fp16(whole, scratch / "fp16.onnx")
    for extractor in (whole, int8, fp16):
        draft = draft_of(MODEL, TilePlan(tile_px=TILE_PX), extractor)
        publish(scratch / "models", draft, extractor_onnx=extractor, diagnosis_onnx=diagnosis)
    config = scratch / "models" / extractor_name(MODEL) / FILE_NAME
    config.write_text(config.read_text() + ACCELERATED)  # which a CPU must not mind
    return scratch / "models"


def test_both_engines_agree_in_every_precision(reduced: Path, server_cache: Path | None) -> None:
    local, tiles = LocalEngine(reduced), smooth_tiles(21, seed=5)
    with TritonServer(reduced, cache=server_cache) as server:
        served = TritonEngine(server.url)
        for version in (1, 2, 3):
            ours, theirs = (
                engine.infer(extractor_name(MODEL), {"tiles": tiles}, version=version)["features"]
                for engine in (local, served)
            )
            assert theirs.dtype == np.float32
            np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)
        whole, again = (engine.infer(MODEL, {"tiles": tiles}) for engine in (local, served))
        for name, values in whole.items():
            np.testing.assert_allclose(again[name], values, atol=1e-5)
        served.close()
