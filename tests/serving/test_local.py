"""ONNX Runtime in process serves what Triton serves, and refuses what was tampered with."""

import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sagdeploy.errors import ModelError, RepositoryError
from sagdeploy.serving.local import LARGE_BAG_BYTES, FileEngine, LocalEngine
from tests.serving.engine_contract import EngineContract, features_of, some_tiles


@pytest.fixture(scope="module")
def engine(repository: Path) -> Iterator[LocalEngine]:
    """An engine for the contract."""
    engine = LocalEngine(repository)
    yield engine
    engine.close()


class TestLocalEngine(EngineContract):
    """The contract."""


@pytest.fixture
def copied(repository: Path, tmp_path: Path) -> Path:
    """A repository to spoil."""
    return shutil.copytree(repository, tmp_path / "models")


def ask(repository: Path) -> None:
    LocalEngine(repository).infer("small", {"tiles": some_tiles(2)})


def edit(path: Path, old: str, new: str, count: int = -1) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


@pytest.mark.parametrize("model", ["small_extractor", "small_diagnosis"])
def test_one_changed_byte_of_a_graph_is_refused(copied: Path, model: str) -> None:
    path = copied / model / "2" / "model.onnx"
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match=rf"{model}/2/model\.onnx.*SHA-256"):
        ask(copied)
    assert not LocalEngine(copied).is_ready("small")
    assert LocalEngine(copied).is_ready("pair")


def test_a_missing_graph_is_named(copied: Path) -> None:
    (copied / "small_diagnosis/2/model.onnx").unlink()
    with pytest.raises(ModelError, match=r"small_diagnosis/2/model\.onnx"):
        ask(copied)


@pytest.mark.parametrize(
    ("model", "old", "new"),
    [
        ("small_extractor", "dims: 5", "dims: 6"),
        ("small_extractor", '"tiles"', '"images"'),
        ("small_extractor", "TYPE_UINT8", "TYPE_FP32"),
        ("small_diagnosis", '"logits"', '"scores"'),
        ("small_diagnosis", "dims: 3", "dims: 4"),
        ("small", '\\"features\\":5', '\\"features\\":7'),
        ("small", '\\"classes\\":[\\"normal\\",', '\\"classes\\":['),
    ],
)
def test_configuration_manifest_and_graph_must_fit(
    copied: Path, model: str, old: str, new: str
) -> None:
    edit(copied / model / "config.pbtxt", old, new)
    with pytest.raises(ModelError, match="small_") as caught:
        ask(copied)
    assert caught.value.exit_code == 5


def test_a_graph_that_the_manifest_calls_right_must_still_fit_the_configuration(
    copied: Path,
) -> None:
    shutil.copy(copied / "small_extractor/2/model.onnx", copied / "small_diagnosis/2/model.onnx")
    engine = LocalEngine(copied)
    digests = engine.manifest("small")
    edit(copied / "small/config.pbtxt", digests.diagnosis_sha256, digests.extractor.sha256)
    with pytest.raises(ModelError, match="inputs"):
        ask(copied)


def test_steps_are_run_as_the_configuration_has_them(copied: Path) -> None:
    edit(copied / "small/config.pbtxt", "model_version: 2", "model_version: 1")
    tiles = some_tiles(3)
    rolled_back = LocalEngine(copied)
    expected = rolled_back.infer("small_diagnosis", {"features": features_of(tiles)}, version=1)[
        "logits"
    ]
    logits = rolled_back.infer("small", {"tiles": tiles})["logits"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_steps_that_wait_for_what_nobody_gives_are_refused(copied: Path) -> None:
    edit(copied / "small/config.pbtxt", 'value: "features"', 'value: "elsewhere"', count=1)
    with pytest.raises(ModelError, match="no step gives"):
        ask(copied)


def test_a_version_that_was_never_committed_is_not_served(copied: Path) -> None:
    for model in ("small_extractor", "small_diagnosis", "small"):
        shutil.copytree(copied / model / "2", copied / model / "3")
    engine = LocalEngine(copied)
    with pytest.raises(RepositoryError, match="no version 3"):
        engine.infer("small_extractor", {"tiles": some_tiles(1)}, version=3)
    assert engine.manifest("small").version == 2


def test_graphs_are_loaded_once(copied: Path) -> None:
    engine = LocalEngine(copied)
    first = engine.infer("small", {"tiles": some_tiles(2)})
    shutil.rmtree(copied)
    again = engine.infer("small", {"tiles": some_tiles(2)})
    np.testing.assert_array_equal(first["logits"], again["logits"])


@pytest.mark.parametrize(("tiles", "is_kept"), [(1000, True), (LARGE_BAG_BYTES // 20 + 1, False)])
def test_a_large_bag_gets_the_memory_that_the_extractor_held(
    copied: Path, tiles: int, is_kept: bool
) -> None:
    engine, few = LocalEngine(copied), {"tiles": some_tiles(2)}
    before = engine.infer("small_extractor", few)["features"]
    bag = np.resize(before, (tiles, before.shape[1]))
    engine.infer("small_diagnosis", {"features": bag})
    (copied / "small_extractor/2/model.onnx").rename(copied / "away.onnx")
    if not is_kept:
        with pytest.raises(ModelError, match="cannot be read"):
            engine.infer("small_extractor", few)
        (copied / "away.onnx").rename(copied / "small_extractor/2/model.onnx")
    np.testing.assert_array_equal(engine.infer("small_extractor", few)["features"], before)


def test_a_folder_that_is_not_there_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError) as caught:
        LocalEngine(tmp_path / "nowhere")
    assert "--repository" in caught.value.hint


def test_an_empty_repository_has_no_models(tmp_path: Path) -> None:
    assert LocalEngine(tmp_path).models() == ()


def test_a_single_file_is_an_engine_too(repository: Path) -> None:
    engine = FileEngine(repository / "small_extractor/1/model.onnx")
    tiles = some_tiles(3)
    outputs = engine.infer("any name", {"tiles": tiles})
    np.testing.assert_allclose(outputs["features"], features_of(tiles), atol=1e-5)
    with pytest.raises(ModelError, match="tiles"):
        engine.infer("any name", {"tiles": tiles[:, :5]})
    with pytest.raises(ModelError):
        engine.manifest("any name")


def test_a_file_that_has_changed_arrives_anew_and_never_as_the_old_one(
    repository: Path, tmp_path: Path
) -> None:
    path, tiles = tmp_path / "extractor.onnx", some_tiles(3)
    shutil.copy(repository / "small_extractor/1/model.onnx", path)
    sent = pickle.dumps(FileEngine(path))
    arrived = pickle.loads(sent)
    assert pickle.loads(sent) is arrived
    path.write_bytes(half_features(path))
    other = pickle.loads(pickle.dumps(FileEngine(path)))
    np.testing.assert_allclose(features(other, tiles), features(arrived, tiles) / 2, rtol=1e-6)
    with pytest.raises(ModelError, match="SHA-256"):
        pickle.loads(sent)


def test_a_version_that_is_published_meanwhile_arrives(copied: Path, tmp_path: Path) -> None:
    config = copied / "small/config.pbtxt"
    latest = config.read_text()
    edit(config, "versions: 2", "versions: 1")
    edit(config, "model_version: 2", "model_version: 1")
    sent = pickle.dumps(LocalEngine(copied))
    arrived = pickle.loads(sent)
    assert arrived.manifest("small").version == 1
    assert pickle.loads(sent) is arrived
    config.write_text(latest)
    assert pickle.loads(pickle.dumps(LocalEngine(copied))).manifest("small").version == 2


def features(engine: FileEngine, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = engine.infer("any", {"tiles": tiles})["features"]
    return found


def half_features(path: Path) -> bytes:
    """The same extractor with features half as large."""
    model = onnx.load(path)
    (last,) = [node for node in model.graph.node if "features" in node.output]
    last.output[:] = ["whole"]
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "half"))
    model.graph.node.append(helper.make_node("Mul", ["whole", "half"], ["features"]))
    return bytes(model.SerializeToString())


def test_a_client_predicts_without_torch_onnx_or_grpc(repository: Path) -> None:
    code = f"""
import sys
from pathlib import Path
import numpy as np
from sagdeploy.serving.local import LocalEngine
engine = LocalEngine(Path({str(repository)!r}))
outputs = engine.infer("small", {{"tiles": np.zeros((2, 24, 24, 3), np.uint8)}})
assert outputs["attention"].shape == (2,)
loaded = {{"torch", "onnx", "grpc", "tritonclient.grpc", "scipy"}} & set(sys.modules)
assert not loaded, loaded
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
