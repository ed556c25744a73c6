import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sagdeploy.config import TrainSettings
from sagdeploy.errors import ConfigError, ModelError
from sagdeploy.files import sha256_of
from sagdeploy.manifest import ExtractorCard
from sagdeploy.models.registry import build_model
from sagdeploy.slides.tiling import TilePlan
from sagdeploy.training.checkpoint import (
    SeedResult,
    TrainingRecord,
    best_result,
    keep_extractor,
    load_model,
    read_result,
    read_results,
    read_run,
    seed_folder,
    software_versions,
    write_result,
    write_run,
)
from sagdeploy.training.tensors import load_weights, read_tensors, write_tensors

CARD = ExtractorCard(name="toy", features=6, weights="none", sha256="e" * 64)


def record() -> TrainingRecord:
    return TrainingRecord(
        arm="abmil",
        settings=TrainSettings(),
        classes=("benign", "tumour"),
        plan=TilePlan(),
        extractor=CARD,
        cohort_sha256="c" * 64,
        slides={"train": 3, "val": 2, "test": 4},
        learned_from=("s1", "s2"),
        seeds=(3, 1),
        threads=1,
        software=software_versions(),
    )


def result(seed: int, *, loss: float = 0.5, sha256: str = "0" * 64) -> SeedResult:
    return SeedResult(
        seed=seed,
        epoch=2,
        epochs=4,
        validation={"loss": loss},
        temperature=1.5,
        weights_sha256=sha256,
    )


def model(features: int = 6) -> torch.nn.Module:
    torch.manual_seed(5)
    return build_model("abmil", features=features, classes=2, magnifications=1, options={})


class Bomb:
    """What an attacker pickles: code that runs when the file is opened."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.canary),)


def write_pickle(path: Path, canary: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(canary)))


def write_torch_file(path: Path, canary: Path) -> None:
    torch.save(Bomb(canary), path)


def write_legacy_torch_file(path: Path, canary: Path) -> None:
    torch.save(Bomb(canary), path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [write_pickle, write_torch_file, write_legacy_torch_file])
@pytest.mark.parametrize("name", ["weights.pt", "weights.pkl", "weights.safetensors", "weights"])
def test_a_pickle_is_refused_and_never_run(tmp_path: Path, write: object, name: str) -> None:
    path, canary = tmp_path / name, tmp_path / "canary"
    write(path, canary)  # type: ignore[operator]
    with pytest.raises(ModelError, match="pickle") as caught:
        load_weights(model(), path)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 5
    assert not canary.exists()


def test_tensors_and_texts_come_back_bit_for_bit(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 2, generator=torch.Generator().manual_seed(1)),
        "b": torch.ones(1),
    }
    write_tensors(tmp_path / "t.safetensors", tensors, {"note": "née"})
    read, metadata = read_tensors(tmp_path / "t.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert metadata == {"note": "née"}


@pytest.mark.parametrize("length", [0, 4, 9, 200])
def test_a_truncated_file_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "weights.safetensors"
    write_tensors(path, model().state_dict())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelError, match=r"weights\.safetensors"):
        read_tensors(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        read_tensors(tmp_path / "weights.safetensors")


def test_a_zip_under_an_innocent_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"\x80\x02.")
    with pytest.raises(ModelError, match="pickle"):
        read_tensors(path)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape", "nan"])
def test_weights_of_another_model_are_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "weights.safetensors"
    tensors = {name: tensor.clone() for name, tensor in model().state_dict().items()}
    name = sorted(tensors)[0]
    match change:
        case "missing":
            del tensors[name]
        case "unknown":
            tensors["extra"] = torch.ones(1)
        case "shape":
            tensors[name] = tensors[name][..., :-1].clone()
        case "nan":
            tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, path)
    with pytest.raises(ModelError, match="extra" if change == "unknown" else name):
        load_weights(model(), path)


def test_a_trained_model_comes_back_in_evaluation_mode(tmp_path: Path) -> None:
    own = model()
    path = seed_folder(tmp_path, 3) / "weights.safetensors"
    write_tensors(path, own.state_dict())
    loaded = load_model(tmp_path, record(), result(3, sha256=sha256_of(path)))
    assert not loaded.training
    state = loaded.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in own.state_dict().items())


def test_weights_that_were_exchanged_are_refused(tmp_path: Path) -> None:
    write_tensors(seed_folder(tmp_path, 3) / "weights.safetensors", model().state_dict())
    with pytest.raises(ModelError, match=r"not the file that result\.json describes"):
        load_model(tmp_path, record(), result(3))


def test_a_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_run(tmp_path, record())
    assert read_run(tmp_path) == record()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run\.json"):
        read_run(tmp_path)


@pytest.mark.parametrize("text", ["{", '{"schema_version": 2}', "[]"])
def test_a_run_of_another_schema_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ModelError, match=r"run\.json"):
        read_run(tmp_path)


def test_results_come_by_fold_and_seed(tmp_path: Path) -> None:
    for seed, fold in [(10, 1), (2, 1), (10, 0), (2, 0)]:
        own = result(seed).model_copy(update={"fold": fold})
        write_result(seed_folder(tmp_path, seed, fold), own)
    found = [(r.fold, r.seed) for r in read_results(tmp_path)]
    assert found == [(0, 2), (0, 10), (1, 2), (1, 10)]


def test_a_run_without_results_says_so(tmp_path: Path) -> None:
    assert read_result(seed_folder(tmp_path, 3)) is None
    with pytest.raises(ModelError, match="no seed is done"):
        read_results(tmp_path)


def test_the_best_result_is_chosen_on_validation() -> None:
    assert best_result((result(1), result(2, loss=0.3), result(3))).seed == 2


def test_the_extractor_of_the_bags_is_kept(tmp_path: Path) -> None:
    bags, run = tmp_path / "bags", tmp_path / "run"
    bags.mkdir()
    assert not keep_extractor(bags, run, CARD)
    (bags / "extractor.onnx").write_bytes(b"graph")
    card = CARD.model_copy(update={"sha256": sha256_of(bags / "extractor.onnx")})
    assert keep_extractor(bags, run, card)
    assert keep_extractor(bags, run, card)
    assert (run / "extractor.onnx").read_bytes() == b"graph"


def test_an_extractor_that_did_not_make_the_bags_is_refused(tmp_path: Path) -> None:
    (tmp_path / "extractor.onnx").write_bytes(b"graph")
    with pytest.raises(ModelError, match="not the extractor"):
        keep_extractor(tmp_path, tmp_path / "run", CARD)
