"""What every engine must do, tested on a repository whose answers NumPy knows.

A subclass gives a fixture `engine` that serves what `publish_models` has written: `small`
in the versions 1 and 2, and `pair`, which reads a slide at two magnifications.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from sagdeploy.errors import EngineError, ModelError
from sagdeploy.export.graph import export_diagnosis, export_extractor
from sagdeploy.export.repository import publish
from sagdeploy.manifest import ManifestDraft, ModelCard, Parity
from sagdeploy.models.attention import ModelOutput
from sagdeploy.serving.engine import REQUEST_TILES, Arrays, Engine, check_diagnosis
from sagdeploy.serving.runtime import extractor_card
from sagdeploy.slides.tiling import TilePlan

Floats = NDArray[np.float32]

CLASSES = ("normal", "tumour", "other")
TILE_PX = 24
PLAN = TilePlan(tile_px=TILE_PX)
FEATURES = 5
HEADS = 2
TEMPERATURE = 2.0
REFUSED = (ModelError, EngineError)

_RNG = np.random.default_rng(3)
RAMP: Floats = np.linspace(-1, 2, TILE_PX, dtype=np.float32)[:, None]  # along x, so axes matter
MIX: Floats = _RNG.standard_normal((3, FEATURES), np.float32)
SCORE: Floats = _RNG.standard_normal((FEATURES, HEADS), np.float32)
CLASSIFY: Floats = _RNG.standard_normal((FEATURES, len(CLASSES)), np.float32)


class SmallExtractor(nn.Module):
    """uint8 (N, H, W, 3) -> (N, E): a mean of the colours, heavier to the right."""

    def __init__(self) -> None:
        super().__init__()
        self.ramp = nn.Buffer(torch.from_numpy(RAMP))
        self.mix = nn.Buffer(torch.from_numpy(MIX))

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """(N, H, W, 3) -> (N, E)."""
        return (tiles.float() / 255 * self.ramp).mean((1, 2)) @ self.mix


class SmallDiagnosis(nn.Module):
    """Two heads of attention; magnifications are summed."""

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.score = nn.Buffer(torch.from_numpy(SCORE))
        self.classify = nn.Buffer(torch.from_numpy(CLASSIFY * np.float32(sign)))

    def forward(self, features: list[torch.Tensor], is_tile: list[torch.Tensor]) -> ModelOutput:
        """As models.attention has it."""
        attention, logits = [], torch.zeros(())
        for bag, real in zip(features, is_tile, strict=True):
            scores = (bag @ self.score).mT.masked_fill(~real[:, None], float("-inf"))
            attention.append(scores.softmax(-1)[:, None])  # (B, 1, H, N)
            logits = logits + attention[-1].mean((1, 2))[:, None] @ bag @ self.classify
        return ModelOutput(logits[:, 0], tuple(attention))


def features_of(tiles: NDArray[np.uint8]) -> Floats:
    """What the extractor must answer."""
    answer: Floats = (tiles.astype(np.float32) / 255 * RAMP).mean((1, 2)) @ MIX
    return answer


def diagnosis_of(bags: list[Floats], *, sign: float = 1.0) -> dict[str, Floats]:
    """What the diagnosis must answer: `probabilities`, `logits`, and `attention_heads` by bag."""
    maps = [_softmax(bag @ SCORE).T for bag in bags]  # (H, N)
    pairs = zip(maps, bags, strict=True)
    logits = sum(each.mean(0) @ bag for each, bag in pairs) @ CLASSIFY * np.float32(sign)
    heads = {f"attention_heads_{index}": each for index, each in enumerate(maps)}
    return {"probabilities": _softmax(logits / TEMPERATURE), "logits": logits, **heads}


def publish_models(repository: Path, scratch: Path) -> None:
    """Write what the contract is tested on into `repository`."""
    pair = TilePlan(kind="grid", mpp=(1.0, 0.5), grid=(2, 3), tile_px=TILE_PX)
    for name, sign, used in (("small", 1.0, PLAN), ("small", -1.0, PLAN), ("pair", 1.0, pair)):
        export(scratch, name, sign=sign, plan=used).publish(repository)


@dataclass(frozen=True, slots=True)
class Exported:
    """Graphs, to be published as often as a test likes."""

    draft: ManifestDraft
    extractor: Path
    diagnosis: Path

    def publish(self, repository: Path) -> int:
        """The number of the version that they have become."""
        manifest = publish(
            repository,
            self.draft,
            extractor_onnx=self.extractor,
            diagnosis_onnx=self.diagnosis,
        )
        return manifest.version


def export(scratch: Path, name: str, *, sign: float = 1.0, plan: TilePlan = PLAN) -> Exported:
    """The small networks in `scratch`; with a negative sign they say the opposite."""
    extractor = export_extractor(SmallExtractor(), scratch / "extractor.onnx", tile_px=TILE_PX)
    diagnosis = export_diagnosis(
        SmallDiagnosis(sign),
        scratch / "diagnosis.onnx",
        magnifications=len(plan.mpp),
        features=FEATURES,
        temperature=TEMPERATURE,
    )
    return Exported(draft_of(name, plan, extractor), extractor, diagnosis)


def draft_of(name: str, plan: TilePlan, extractor: Path) -> ManifestDraft:
    """A manifest of the small models."""
    return ManifestDraft(
        name=name,
        classes=CLASSES,
        plan=plan,
        extractor=extractor_card(extractor, name="ramp", weights="made up"),
        heads=HEADS,
        temperature=TEMPERATURE,
        card=ModelCard(
            model="small",
            guidance=("hg",),
            seed=1,
            epoch=2,
            cohort_sha256="0" * 64,
            slides={"train": 3},
            validation={"auc": 0.75},
        ),
        parity=Parity(tiles=(1,), extractor=(0.0,), diagnosis=(0.0,)),
        software={"sagdeploy": "0"},
    )


def some_tiles(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Seeded tiles."""
    shape = (count, TILE_PX, TILE_PX, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


class EngineContract:
    """Inherit, and give a fixture `engine`."""

    def test_models_are_those_with_a_manifest(self, engine: Engine) -> None:
        assert engine.models() == ("pair", "small")

    def test_description_is_one_line(self, engine: Engine) -> None:
        assert engine.description
        assert "\n" not in engine.description

    def test_description_is_the_name_and_a_place_that_the_name_does_not_tell(
        self, engine: Engine
    ) -> None:
        assert engine.description.startswith(engine.name)
        place = engine.description.removeprefix(engine.name)
        assert len(place) > 4
        assert "/" not in engine.name
        assert ":" not in engine.name

    def test_manifest_is_the_latest_unless_a_version_is_named(self, engine: Engine) -> None:
        assert engine.manifest("small").version == 2
        assert engine.manifest("small", 1).version == 1
        assert engine.manifest("small").classes == CLASSES

    @pytest.mark.parametrize(("model", "version"), [("small", 7), ("nobody", None)])
    def test_a_manifest_that_is_not_there_is_an_error(
        self, engine: Engine, model: str, version: int | None
    ) -> None:
        with pytest.raises(ModelError, match=model):
            engine.manifest(model, version)

    def test_readiness_is_of_models_that_are_there(self, engine: Engine) -> None:
        assert engine.is_ready("small")
        assert engine.is_ready("pair")
        assert engine.is_ready("small_extractor")
        assert not engine.is_ready("nobody")

    @pytest.mark.parametrize("count", [1, 9])
    def test_extractor_turns_tiles_into_features(self, engine: Engine, count: int) -> None:
        tiles = some_tiles(count)
        outputs = engine.infer("small_extractor", {"tiles": tiles}, version=1)
        assert list(outputs) == ["features"]
        assert outputs["features"].dtype == np.float32
        np.testing.assert_allclose(outputs["features"], features_of(tiles), atol=1e-5)

    @pytest.mark.parametrize(("version", "sign"), [(1, 1.0), (2, -1.0)])
    def test_each_version_of_the_diagnosis_answers(
        self, engine: Engine, version: int, sign: float
    ) -> None:
        bag = np.random.default_rng(1).standard_normal((1000, FEATURES), np.float32)
        outputs = engine.infer("small_diagnosis", {"features": bag}, version=version)
        expected = diagnosis_of([bag], sign=sign)
        maps = expected["attention_heads_0"]
        for name in ("probabilities", "logits"):
            np.testing.assert_allclose(outputs[name], expected[name], atol=1e-5)
        np.testing.assert_allclose(outputs["attention_heads"], maps, atol=1e-6)
        np.testing.assert_allclose(outputs["attention"], maps.mean(0), atol=1e-6)
        check_diagnosis(outputs, engine.manifest("small", version), [1000])

    def test_the_ensemble_says_what_its_parts_say(self, engine: Engine) -> None:
        tiles = some_tiles(6)
        whole = engine.infer("small", {"tiles": tiles})
        features = engine.infer("small_extractor", {"tiles": tiles}, version=2)
        parts = engine.infer("small_diagnosis", dict(features), version=2)
        _assert_same(whole, parts)
        _assert_same(whole, engine.infer("small", {"tiles": tiles}, version=2))

    def test_each_magnification_reaches_its_own_input(self, engine: Engine) -> None:
        tiles = [some_tiles(4, seed=1), some_tiles(9, seed=2)]
        outputs = engine.infer("pair", {"tiles_0": tiles[0], "tiles_1": tiles[1]})
        expected = diagnosis_of([features_of(each) for each in tiles])
        for name, values in expected.items():
            np.testing.assert_allclose(outputs[name], values, atol=1e-5)
        check_diagnosis(outputs, engine.manifest("pair"), [4, 9])

    def test_features_stay_inside_the_ensemble(self, engine: Engine) -> None:
        outputs = engine.infer("small", {"tiles": some_tiles(2)})
        assert set(outputs) == {"probabilities", "logits", "attention", "attention_heads"}

    def test_an_older_version_of_the_ensemble_is_refused(self, engine: Engine) -> None:
        with pytest.raises(REFUSED):
            engine.infer("small", {"tiles": some_tiles(2)}, version=1)

    @pytest.mark.parametrize(
        "inputs",
        [
            pytest.param({"image": some_tiles(2)}, id="name"),
            pytest.param({}, id="nothing"),
            pytest.param({"tiles": some_tiles(2), "more": some_tiles(2)}, id="too many"),
            pytest.param({"tiles": some_tiles(2).astype(np.float32)}, id="dtype"),
            pytest.param({"tiles": some_tiles(2)[:, :-1]}, id="size"),
            pytest.param({"tiles": some_tiles(2)[0]}, id="rank"),
            pytest.param({"tiles": some_tiles(0)}, id="no tiles"),
        ],
    )
    @pytest.mark.parametrize("model", ["small", "small_extractor"])
    def test_inputs_that_do_not_fit_are_refused_in_a_line(
        self, engine: Engine, model: str, inputs: Arrays
    ) -> None:
        with pytest.raises(REFUSED) as caught:
            engine.infer(model, inputs)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("model", ["small", "small_extractor"])
    def test_more_tiles_than_fit_a_run_are_refused(self, engine: Engine, model: str) -> None:
        engine.infer(model, {"tiles": some_tiles(REQUEST_TILES)})
        with pytest.raises(ModelError, match="256"):
            engine.infer(model, {"tiles": some_tiles(REQUEST_TILES + 1)})

    def test_no_diagnosis_is_made_of_an_empty_bag(self, engine: Engine) -> None:
        with pytest.raises(REFUSED):
            engine.infer("small_diagnosis", {"features": np.zeros((0, FEATURES), np.float32)})

    @pytest.mark.parametrize("model", ["nobody", "../small", "small/1", "", "a\nb"])
    def test_a_model_that_is_not_there_is_refused(self, engine: Engine, model: str) -> None:
        with pytest.raises(REFUSED):
            engine.infer(model, {"tiles": some_tiles(1)})

    def test_threads_get_the_answers_to_their_own_questions(self, engine: Engine) -> None:
        bags = [some_tiles(1 + index % 3, seed=index) for index in range(24)]

        def ask(tiles: NDArray[np.uint8]) -> Arrays:
            return engine.infer("small_extractor", {"tiles": tiles}, version=1)

        with ThreadPoolExecutor(8) as pool:
            for tiles, outputs in zip(bags, pool.map(ask, bags), strict=True):
                np.testing.assert_allclose(outputs["features"], features_of(tiles), atol=1e-5)


def _assert_same(ours: Arrays, theirs: Arrays) -> None:
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_allclose(values, theirs[name], atol=1e-6)


def _softmax(scores: Floats) -> Floats:
    weights: Floats = np.exp(scores - scores.max(0))
    total: Floats = weights / weights.sum(0)
    return total
