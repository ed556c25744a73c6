"""One slide, one version of a model: chosen as the slide begins, and watched until it ends."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sagdeploy.errors import EngineError, ModelError
from sagdeploy.manifest import Manifest
from sagdeploy.serving.engine import Engine

logger = logging.getLogger(__name__)

T = TypeVar("T")
ATTEMPTS = 3
"""How often a slide is begun at most while the model under it changes."""


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Which model is to answer."""

    name: str
    version: int | None = None
    """Pinned; None for the latest as each slide begins."""

    def manifest(self, engine: Engine) -> Manifest:
        """Manifest of the version that would answer now; ModelError if there is none."""
        return engine.manifest(self.name, self.version)


def by_one_version(engine: Engine, choice: ModelChoice, work: Callable[[Manifest], T]) -> T:
    """What `work` makes of one version of a model, done again where that changes meanwhile.

    Another manifest under the same number is a change too. Raises EngineError where the model
    changes each time, ModelError where a pinned version is gone.
    """
    manifest = choice.manifest(engine)
    for _ in range(ATTEMPTS):
        try:
            result = work(manifest)
        except ModelError:  # perhaps because the version is no longer there
            if choice.manifest(engine) == manifest:
                raise
        else:
            if choice.manifest(engine) == manifest:
                return result
        logger.warning("%s has changed while a slide was read: it is done again", choice.name)
        manifest = choice.manifest(engine)
    raise EngineError(
        f"model {choice.name!r} changed {ATTEMPTS} times while one slide was read",
        hint="wait until it is no longer being published, or pin one with --model-version",
    )
