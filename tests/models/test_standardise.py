"""Features are centred and scaled as the training tiles are, and the scaling stays in the model."""

from pathlib import Path

import pytest
import torch

from sagdeploy.export.graph import export_diagnosis
from sagdeploy.models.abmil import Abmil
from sagdeploy.models.attention import ModelOutput
from sagdeploy.models.standardise import Standardised
from sagdeploy.serving.runtime import load_graph

BAGS = [(torch.randn(n, 4, generator=torch.Generator().manual_seed(n)),) for n in (3, 9, 6)]
SCALES = torch.tensor([100.0, 0.01, 1.0, 8.0])
SHIFTS = torch.tensor([-50.0, 3.0, 0.0, 7.5])


def large_bags() -> list[tuple[torch.Tensor, ...]]:
    """The same bags with features of very different sizes."""
    return [tuple(each * SCALES + SHIFTS for each in bag) for bag in BAGS]


def fitted(model: torch.nn.Module) -> Standardised:
    scaled = Standardised(model, features=4)
    scaled.fit(large_bags)
    return scaled.eval()


def logits_of(model: torch.nn.Module, features: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        output = model([features[None]], [torch.ones(1, len(features), dtype=torch.bool)])
    assert isinstance(output, ModelOutput)
    return output.logits


class Echo(torch.nn.Module):
    """Hands its features on as logits."""

    def forward(self, features: list[torch.Tensor], is_tile: list[torch.Tensor]) -> ModelOutput:
        return ModelOutput(features[0][0], ())


def test_the_model_sees_mean_0_and_deviation_1() -> None:
    model = fitted(Echo())
    seen = torch.cat([logits_of(model, features) for (features,) in large_bags()])
    assert torch.allclose(seen.mean(dim=0), torch.zeros(4), atol=1e-5)
    assert torch.allclose(seen.std(dim=0, correction=0), torch.ones(4), atol=1e-5)


def test_a_feature_that_never_varies_is_0_and_no_noise() -> None:
    model = Standardised(Echo(), features=2)
    model.fit(lambda: [(torch.full((7, 2), 0.1),), (torch.full((2, 2), 0.1),)])
    assert logits_of(model, torch.full((3, 2), 0.1)).abs().max() < 1e-6
    assert model.deviation.tolist() == [1, 1]


def test_the_scale_of_the_features_changes_no_diagnosis() -> None:
    torch.manual_seed(0)
    inner = Abmil(features=4, classes=2)
    plain, large = Standardised(inner, features=4), fitted(inner)
    plain.fit(lambda: BAGS)
    for (small,), (big,) in zip(BAGS, large_bags(), strict=True):
        assert torch.allclose(logits_of(plain, small), logits_of(large, big), atol=1e-5)


def test_mean_and_deviation_are_saved_with_the_weights() -> None:
    state = fitted(Echo()).state_dict()
    assert set(state) == {"mean", "deviation"}
    fresh = Standardised(Echo(), features=4)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.deviation, state["deviation"])


def test_the_exported_graph_takes_features_as_they_are(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = fitted(Abmil(features=4, classes=2, kind="tanh"))
    path = export_diagnosis(model, tmp_path / "a.onnx", magnifications=1, features=4)
    (features,) = large_bags()[1]
    served = load_graph(path).run({"features": features.numpy()})["logits"]
    assert served == pytest.approx(logits_of(model, features)[0].numpy(), abs=1e-5)
