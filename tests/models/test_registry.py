from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

from sagdeploy.errors import ConfigError
from sagdeploy.models.abmil import Abmil
from sagdeploy.models.registry import build_model

SIZES: dict[str, Any] = {"features": 6, "classes": 2, "magnifications": 1}

OWN = """
from torch import nn

class Mean(nn.Module):
    def __init__(self, *, features, classes, magnifications, depth=1):
        super().__init__()
        self.classifier = nn.Linear(features, classes)
        self.depth = depth

class Deep(Mean):
    def __init__(self, *, width: "int", **sizes):
        super().__init__(**sizes)
        self.hidden = nn.Linear(width, width)

class Typed(Mean):
    def __init__(self, *, depth: int = 1, **sizes):
        super().__init__(depth=depth, **sizes)

answer = 42
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's own, in a folder that is on the path."""
    (tmp_path / "own_models_of_a_test.py").write_text(dedent(OWN))
    (tmp_path / "broken_models_of_a_test.py").write_text("def (")
    monkeypatch.syspath_prepend(tmp_path)
    return "own_models_of_a_test"


def test_our_models_have_names() -> None:
    model = build_model("abmil", **SIZES, options={"kind": "gated", "hidden": 5})
    assert isinstance(model, Abmil)
    build_model("scatnet", **SIZES, options={"dim": 8, "heads": 2, "layers": 1})


def test_a_class_of_the_users_own_is_built_with_its_options(own_module: str) -> None:
    model = build_model(f"{own_module}:Mean", **SIZES, options={"depth": 3})
    assert model.depth == 3
    assert isinstance(model.classifier, torch.nn.Linear)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet", "no model 'resnet'"),
        ("no_such_module_anywhere:Net", "cannot be imported"),
        ("broken_models_of_a_test:Net", "cannot be imported"),
        (".relative:Net", "cannot be imported"),
        ("own_models_of_a_test:Other", "no torch module 'Other'"),
        ("own_models_of_a_test:answer", "no torch module 'answer'"),
        ("torch.nn:Linear", "argument"),
    ],
)
def test_a_model_that_cannot_be_is_refused_in_one_line(
    own_module: str, name: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as refusal:
        build_model(name, **SIZES)
    assert "\n" not in str(refusal.value)
    assert refusal.value.hint or "torch module" in reason


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("abmil", {"hidden": "x"}),
        ("abmil", {"hidden": 8.0}),
        ("abmil", {"hidden": True}),
        ("abmil", {"dropout": "0.1"}),
        ("scatnet", {"tied": "no"}),
        ("scatnet", {"dim": "128"}),
        ("own_models_of_a_test:Typed", {"depth": "x"}),
        ("own_models_of_a_test:Deep", {"width": "x"}),
    ],
)
def test_an_option_of_another_type_is_refused_in_one_line(
    own_module: str, name: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=f"model {name}: ") as refusal:
        build_model(name, **SIZES, options=options)
    assert "\n" not in str(refusal.value)
    assert refusal.value.hint


def test_a_whole_number_will_do_for_any_number() -> None:
    build_model("abmil", **SIZES, options={"dropout": 0})


@pytest.mark.parametrize("size", ["features", "classes", "magnifications"])
def test_a_size_is_no_option(size: str) -> None:
    with pytest.raises(ConfigError, match=f"{size} cannot be an option"):
        build_model("abmil", **SIZES, options={size: 5})


def test_an_unknown_option_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="deapth") as refusal:
        build_model("abmil", **SIZES, options={"deapth": 3})
    assert "dropout" in refusal.value.hint
