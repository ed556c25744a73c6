"""Diagnosis models by name: ours, and any that a user brings."""

from collections.abc import Mapping
from importlib import import_module
from typing import Final

from torch import nn

from sagdeploy.errors import ConfigError
from sagdeploy.models.abmil import Abmil
from sagdeploy.models.scatnet import ScAtNet

OURS: Final[dict[str, type[nn.Module]]] = {"abmil": Abmil, "scatnet": ScAtNet}
HINT: Final = f"take {' or '.join(OURS)}, or package.module:Class of an installed package"


def build_model(
    name: str,
    *,
    features: int,
    classes: int,
    magnifications: int,
    options: Mapping[str, str | int | float | bool],
) -> nn.Module:
    """A new, untrained diagnosis model; see `models.attention.DiagnosisModel`.

    name:    one of ours, or `package.module:Class`
    options: keyword arguments of its constructor beside its sizes
    Raises ConfigError where there is no such model or it does not take these arguments.
    """
    kind = OURS[name] if name in OURS else _imported(name)
    try:
        return kind(features=features, classes=classes, magnifications=magnifications, **options)
    except TypeError as error:
        raise ConfigError(f"model {name}: {error}", hint="see the model's constructor") from error


def _imported(name: str) -> type[nn.Module]:
    module_name, colon, class_name = name.partition(":")
    if not (module_name and colon and class_name):
        raise ConfigError(f"no model is called {name!r}", hint=HINT)
    try:
        found = getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"model {name}: {error}", hint=HINT) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ConfigError(f"model {name}: is not a torch.nn.Module class", hint=HINT)
    return found
