"""A publication is there whole or not at all, and fits what was there before."""

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from filelock import FileLock

from sagdeploy.errors import ConfigError, ModelError, OutputError, RepositoryError
from sagdeploy.export.repository import LOCK_NAME, publish
from sagdeploy.files import sha256_of
from sagdeploy.manifest import ExtractorCard, Manifest, ManifestDraft, ModelCard, Parity
from sagdeploy.serving.ensemble import diagnosis_config, ensemble_config, extractor_config
from sagdeploy.serving.local import LocalEngine
from sagdeploy.serving.model_config import ModelConfig, config_text, read_config
from sagdeploy.slides.tiling import TilePlan

GOLDEN = Path(__file__).parent / "golden"
KILLER = Path(__file__).parent / "killer.py"

EXTRACTOR = """<ir_version: 10, opset_import: ["" : 18]>
g (uint8[N,H,W,3] tiles) => (float[N,3] features) <int64[2] sides = {1, 2}>
{ x = Cast<to = 1>(tiles) features = ReduceMean<keepdims = 0>(x, sides) }
"""
DIAGNOSIS = """<ir_version: 10, opset_import: ["" : 18]>
g (float[N,3] features) => (float[3] probabilities, float[3] logits, float[N] attention)
<float[3] w = {0.1, -0.2, 0.3}, float[1] sign = {SIGN}, int64[1] first = {0}>
{
    scores = MatMul(features, w)
    attention = Softmax<axis = 0>(scores)
    slide = MatMul(attention, features)
    logits = Mul(slide, sign)
    probabilities = Softmax<axis = 0>(logits)
}
"""


class Export:
    """Graphs of a version, and the draft of their manifest."""

    def __init__(self, folder: Path, *, sign: int = 1, comment: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.extractor, self.diagnosis = folder / "extractor.onnx", folder / "diagnosis.onnx"
        extractor = onnx.parser.parse_model(EXTRACTOR)
        extractor.doc_string = comment
        onnx.save(extractor, self.extractor)
        onnx.save(onnx.parser.parse_model(DIAGNOSIS.replace("SIGN", str(sign))), self.diagnosis)

    def draft(self, name: str = "sag", **changes: object) -> ManifestDraft:
        """What the graphs are, but for `changes`."""
        card = ExtractorCard(
            name="mean", features=3, weights="none", sha256=sha256_of(self.extractor)
        )
        draft = ManifestDraft(
            name=name,
            classes=("normal", "tumour", "other"),
            plan=TilePlan(),
            extractor=card,
            card=ModelCard(
                model="small",
                guidance=(),
                seed=1,
                epoch=2,
                cohort_sha256="0" * 64,
                slides={},
                validation={},
            ),
            parity=Parity(tiles=(1,), extractor=(), diagnosis=(0.0,)),
            software={},
        )
        return draft.model_copy(update=changes)

    def publish(
        self, repository: Path, draft: ManifestDraft | None = None, version: int | None = None
    ) -> int:
        """Version of the publication."""
        manifest = publish(
            repository,
            draft or self.draft(),
            extractor_onnx=self.extractor,
            diagnosis_onnx=self.diagnosis,
            version=version,
        )
        return manifest.version


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """The first version."""
    return Export(tmp_path / "first")


@pytest.fixture
def newer(tmp_path: Path) -> Export:
    """One that says the opposite."""
    return Export(tmp_path / "second", sign=-1)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Where there is none yet."""
    return tmp_path / "models"


def logit(repository: Path) -> float:
    """What the served version says of white tiles: 255 times its sign."""
    tiles = np.full((2, 8, 9, 3), 255, np.uint8)
    return float(LocalEngine(repository).infer("sag", {"tiles": tiles})["logits"][0])


def tree(repository: Path) -> set[str]:
    return {str(path.relative_to(repository)) for path in repository.rglob("*")}


def test_the_folder_is_what_triton_wants(export: Export, repository: Path) -> None:
    assert export.publish(repository) == 1
    assert tree(repository) - {LOCK_NAME} == {
        "sag", "sag/config.pbtxt", "sag/1",
        "sag_extractor", "sag_extractor/config.pbtxt",
        "sag_extractor/1", "sag_extractor/1/model.onnx",
        "sag_diagnosis", "sag_diagnosis/config.pbtxt",
        "sag_diagnosis/1", "sag_diagnosis/1/model.onnx",
    }  # fmt: skip
    assert logit(repository) == 255


def test_each_publication_is_a_new_version_and_is_served(
    export: Export, newer: Export, repository: Path
) -> None:
    assert [export.publish(repository), newer.publish(repository)] == [1, 2]
    assert logit(repository) == -255
    engine = LocalEngine(repository)
    assert engine.manifest("sag", 1).diagnosis_sha256 == sha256_of(export.diagnosis)
    assert engine.manifest("sag").diagnosis_sha256 == sha256_of(newer.diagnosis)


def test_two_models_share_a_repository(export: Export, newer: Export, repository: Path) -> None:
    export.publish(repository)
    assert newer.publish(repository, newer.draft("other")) == 1
    assert LocalEngine(repository).models() == ("other", "sag")
    assert logit(repository) == 255


def test_a_version_may_be_named_once(export: Export, repository: Path) -> None:
    assert export.publish(repository, version=5) == 5
    assert export.publish(repository) == 6
    with pytest.raises(RepositoryError, match="version 5 exists"):
        export.publish(repository, version=5)
    with pytest.raises(ConfigError, match="from 1"):
        export.publish(repository, version=0)


def test_the_same_extractor_is_stored_once(
    export: Export, newer: Export, repository: Path, tmp_path: Path
) -> None:
    other = Export(tmp_path / "third", comment="another file")
    for each in (export, newer, other):
        each.publish(repository)
    inodes = [(repository / f"sag_extractor/{n}/model.onnx").stat().st_ino for n in (1, 2, 3)]
    assert inodes[0] == inodes[1] != inodes[2]


def test_a_harmed_extractor_is_not_passed_on(
    export: Export, newer: Export, repository: Path
) -> None:
    export.publish(repository)
    (repository / "sag_extractor/1/model.onnx").write_bytes(b"harmed")
    newer.publish(repository)
    assert logit(repository) == -255


def test_a_server_of_another_user_can_read_it_all(export: Export, repository: Path) -> None:
    before = os.umask(0o077)
    try:
        export.publish(repository)
    finally:
        os.umask(before)
    for path in [repository, *repository.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert path.name == LOCK_NAME or mode == (0o755 if path.is_dir() else 0o644), path


def test_what_an_operator_has_tuned_is_kept(
    export: Export, newer: Export, repository: Path
) -> None:
    export.publish(repository)
    tuned = {"sag_extractor": "model_transaction_policy {\n}\n", "sag": "response_cache {\n}\n"}
    for model, text in tuned.items():
        with (repository / model / "config.pbtxt").open("a") as file:
            file.write(text)
    newer.publish(repository)
    for model, text in tuned.items():
        assert text in (repository / model / "config.pbtxt").read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ("normal", "tumour")},
        {"extractor": {"features": 4}},
        {"extractor": {"tile_px": 224}},
        {"heads": 4},
        {"plan": TilePlan(kind="grid", mpp=(1.0, 0.5), grid=(2, 3))},
    ],
)
def test_a_version_with_other_tensors_is_refused(
    export: Export, repository: Path, changes: dict[str, object]
) -> None:
    export.publish(repository)
    before = tree(repository)
    draft = export.draft()
    if "extractor" in changes:
        changes = {"extractor": draft.extractor.model_copy(update=changes["extractor"])}  # type: ignore[arg-type]
    with pytest.raises(RepositoryError, match="does not fit") as caught:
        export.publish(repository, draft.model_copy(update=changes))
    assert "--name" in caught.value.hint
    assert tree(repository) == before


@pytest.mark.parametrize("folder", ["sag", "sag_extractor", "sag_diagnosis"])
def test_a_model_of_somebody_else_is_left_alone(
    export: Export, repository: Path, folder: str
) -> None:
    theirs = repository / folder / "config.pbtxt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text('backend: "pytorch"')
    for _ in range(2):
        with pytest.raises(RepositoryError, match="did not publish"):
            export.publish(repository)
    assert theirs.read_text() == 'backend: "pytorch"'


@pytest.mark.parametrize("name", ["../sag", "a/b", "", ".hidden", "x" * 60, "sag_extractor"])
def test_a_name_that_cannot_be_a_folder_is_refused(
    export: Export, repository: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match="model"):
        export.publish(repository, export.draft(name))
    assert not repository.exists()


def test_another_extractor_than_the_manifests_is_refused(
    export: Export, repository: Path, tmp_path: Path
) -> None:
    other = Export(tmp_path / "other", comment="another file")
    with pytest.raises(ModelError, match="not the extractor"):
        export.publish(repository, other.draft())


def test_a_full_disk_leaves_the_old_version(
    export: Export, newer: Export, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export.publish(repository)
    before = tree(repository)

    def full(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OutputError, match="No space left"):
        newer.publish(repository)
    assert tree(repository) == before
    assert logit(repository) == 255


def test_one_writer_at_a_time(
    export: Export, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sagdeploy.export.repository.LOCK_WAIT_S", 0.05)
    repository.mkdir()
    with (
        FileLock(repository / LOCK_NAME),
        pytest.raises(OutputError, match="another export"),
    ):
        export.publish(repository)


def test_writers_in_a_row_get_a_version_each(export: Export, repository: Path) -> None:
    numbers: list[int] = []
    threads = [
        threading.Thread(target=lambda: numbers.append(export.publish(repository)))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == [1, 2, 3, 4, 5]
    assert LocalEngine(repository).is_ready("sag")


def kill_everywhere(
    folder: Path, published: Path | None, export: Export, draft: ManifestDraft
) -> list[Path]:
    """Copies of a repository in which a publication was killed, each a step later."""
    job = {
        "folder": str(folder),
        "published": str(published) if published else None,
        "draft": draft.model_dump(mode="json"),
        "graphs": [str(export.extractor), str(export.diagnosis)],
    }
    folder.mkdir()
    subprocess.run([sys.executable, str(KILLER)], input=json.dumps(job), text=True, check=True)
    return sorted(folder.iterdir())


def assert_nothing_left(repository: Path) -> None:
    """Only versions with a manifest are there, and no temporary file."""
    published = read_config(repository / "sag" / "config.pbtxt").manifests()
    for folder in ("sag", "sag_extractor", "sag_diagnosis"):
        names = {path.name for path in (repository / folder).iterdir()}
        assert names == {"config.pbtxt", *map(str, published)}
    assert {path.name for path in repository.iterdir() if path.is_file()} == {LOCK_NAME}


def test_killed_at_any_step_the_old_version_or_the_new_one_is_served(
    export: Export, newer: Export, repository: Path, tmp_path: Path
) -> None:
    export.publish(repository)
    killed = kill_everywhere(tmp_path / "killed", repository, newer, newer.draft())
    answers = [logit(each) for each in killed]
    assert len(killed) > 20
    assert answers == sorted(answers, reverse=True)  # old, old, ... new: a single step between
    assert set(answers) == {255, -255}
    for each in killed:
        export.publish(each)
        assert logit(each) == 255
        assert_nothing_left(each)


def test_killed_at_the_first_publication_nothing_stands_in_the_way(
    export: Export, repository: Path, tmp_path: Path
) -> None:
    killed = kill_everywhere(tmp_path / "killed", None, export, export.draft())
    for each in killed:
        export.publish(each)
        assert logit(each) == 255
        assert_nothing_left(each)


def golden_manifest(**changes: object) -> Manifest:
    """Two magnifications, and attention by head and layer; but for `changes`."""
    manifest = Manifest(
        name="sag",
        version=3,
        classes=("benigne Läsion", "in situ", "invasive"),
        plan=TilePlan(kind="grid", mpp=(1.0, 0.5), grid=(5, 7)),
        extractor=ExtractorCard(
            name="mobilenet_v2", features=1280, weights="weights.pt", sha256="e" * 64, tile_px=224
        ),
        heads=4,
        layers=2,
        temperature=1.25,
        diagnosis_sha256="d" * 64,
        card=ModelCard(
            model="scatnet",
            guidance=("hg", "tg"),
            seed=7,
            epoch=42,
            cohort_sha256="c" * 64,
            slides={"train": 30, "val": 8},
            validation={"auc": 0.875},
        ),
        parity=Parity(tiles=(1, 7, 500), extractor=(1e-6, 1e-6, 2e-6), diagnosis=(0.0, 0.0, 0.0)),
        software={"sagdeploy": "0.1.0"},
    )
    return manifest.model_copy(update=changes)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("extractor", extractor_config(golden_manifest(plan=TilePlan()))),
        ("extractor_of_a_grid", extractor_config(golden_manifest())),
        ("diagnosis", diagnosis_config(golden_manifest())),
        ("ensemble", ensemble_config(golden_manifest())),
    ],
)
def test_configurations_are_the_reviewed_ones(name: str, config: ModelConfig) -> None:
    """To accept a change: SAGDEPLOY_UPDATE_GOLDEN=1 pytest tests/export, then read the diff."""
    path = GOLDEN / f"{name}.pbtxt"
    if os.environ.get("SAGDEPLOY_UPDATE_GOLDEN"):
        path.write_text(config_text(config), encoding="utf-8")
    assert path.read_text(encoding="utf-8") == config_text(config)
