"""Diagnosis models by name, ours and the user's own."""

import importlib
import inspect
from collections.abc import Callable, Mapping

from torch import nn

from sagdeploy.errors import ConfigError
from sagdeploy.models.abmil import Abmil
from sagdeploy.models.scatnet import ScAtNet

Option = str | int | float | bool
TYPES = (str, int, float, bool)
MODELS: dict[str, Callable[..., nn.Module]] = {"abmil": Abmil, "scatnet": ScAtNet}


def build_model(
    name: str,
    *,
    features: int,
    classes: int,
    magnifications: int = 1,
    options: Mapping[str, Option] | None = None,
) -> nn.Module:
    """A diagnosis model with fresh weights, by name or as `package.module:Class`.

    options: keyword arguments of its constructor beside the three sizes

    ConfigError where there is no such model, or it does not take these arguments.
    """
    build = MODELS.get(name) or _imported(name)
    sizes = {"features": features, "classes": classes, "magnifications": magnifications}
    if given := sizes.keys() & (options or {}):
        raise ConfigError(
            f"model {name}: {', '.join(sorted(given))} cannot be an option",
            hint="the bags and their labels say how many there are",
        )
    arguments = {**sizes, **(options or {})}
    parameters = inspect.signature(build).parameters
    try:
        inspect.signature(build).bind(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"model {name}: {error}", hint=f"it takes {', '.join(parameters)}"
        ) from error
    _check_types(name, options or {}, parameters)
    try:
        return build(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:  # of PyTorch, or the user's own
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"model {name}: cannot be built: {reason}",
            hint="look at its options; --debug tells more",
        ) from error


def _check_types(
    name: str, options: Mapping[str, Option], parameters: Mapping[str, inspect.Parameter]
) -> None:
    """ConfigError for an option of another type than its parameter says, where it says one."""
    for option, value in options.items():
        wanted = parameters[option].annotation if option in parameters else None
        is_right = type(value) is wanted or (wanted is float and type(value) is int)
        if wanted in TYPES and not is_right:
            raise ConfigError(
                f"model {name}: {option} is {value!r}, not of type {wanted.__name__}",
                hint="mend it in the table model.options",
            )


def _imported(name: str) -> Callable[..., nn.Module]:
    """The user's own class."""
    module_name, _, class_name = name.partition(":")
    if not class_name:
        raise ConfigError(
            f"no model {name!r}", hint=f"choose of {', '.join(MODELS)}, or package.module:Class"
        )
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError, TypeError, ValueError) as error:
        raise ConfigError(
            f"model {name}: {module_name} cannot be imported: {error}",
            hint="install it, or name its folder: PYTHONPATH=. sagdeploy train ...",
        ) from error
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ConfigError(f"model {name}: {module_name} has no torch module {class_name!r}")
    return found
