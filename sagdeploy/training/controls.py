"""Arms of control: what guidance does that says nothing, or is there for few slides only.

If attention or diagnosis gain as much from another slide's guidance, or from guidance that is
the same everywhere, then it was not its meaning that helped. Only HG is put under control:
tissue guidance costs no annotation and has no other slide's meaning.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sagdeploy.config import GuidanceSettings
from sagdeploy.errors import ConfigError
from sagdeploy.training.dataset import Bags

Guidance = tuple[Tensor, ...]
"""(N,) a magnification, W of Eq. 3."""


def controlled(bags: Bags, settings: GuidanceSettings, *, seed: int) -> Bags:
    """Training bags with the HG that an arm is taught by; the bags themselves without control.

    Which slides keep their HG, and whose they get, follows from `seed` and the slides' ids.
    """
    if "hg" not in settings.terms or (settings.control == "none" and settings.share == 1):
        return bags
    own = [bag.heuristic_guidance for bag in bags]
    guided = [index for index, guidance in enumerate(own) if any(each.any() for each in guidance)]
    rng = np.random.default_rng([seed, len(bags)])
    # in a fixed order of chance, so that a smaller share is part of a larger one
    kept = rng.permutation(guided)[: round(settings.share * len(guided))].tolist()
    taught: list[Guidance] = [
        tuple(torch.zeros_like(each) for each in guidance) for guidance in own
    ]
    for index, giver in zip(kept, _givers(kept, settings), strict=True):
        taught[index] = (
            tuple(_uniform(each) for each in own[index])
            if settings.control == "uniform"
            else _laid_on(own[giver], own[index])
        )
    pairs = zip(bags.sources, taught, strict=True)
    return replace(bags, sources=tuple(replace(s, heuristic_guidance=g) for s, g in pairs))


def in_words(settings: GuidanceSettings) -> str:
    """What teaches the attention: `HG + TG x 2, uniform HG, HG on 25% of its slides`."""
    terms = " + ".join(term.upper() for term in settings.terms) or "no guidance"
    weight = "" if settings.weight == 1 or not settings.terms else f" x {settings.weight:g}"
    control = "" if settings.control == "none" else f", {settings.control} HG"
    share = "" if settings.share == 1 else f", HG on {settings.share:.0%} of its slides"
    return f"{terms}{weight}{control}{share}"


def _givers(kept: list[int], settings: GuidanceSettings) -> list[int]:
    """Whose HG each slide gets: its own, or the next one's, so that none keeps its own."""
    if settings.control != "shuffled":
        return kept
    if len(kept) < 2:
        raise ConfigError(
            f"shuffled guidance needs two training slides with HG, there are {len(kept)}",
            hint="run sagdeploy guide --heuristic annotations, or raise guidance.share",
        )
    return kept[1:] + kept[:1]


def _uniform(guidance: Tensor) -> Tensor:
    """Guidance that is the same on every tile."""
    return torch.full_like(guidance, 1 / len(guidance))


def _laid_on(given: Guidance, own: Guidance) -> Guidance:
    """Another slide's guidance on this slide's tiles, the first on the first and last on last.

    Slides differ in their number of tiles; the weights of those that fall on one are summed.
    """
    laid = []
    for source, target in zip(given, own, strict=True):
        place = torch.arange(len(source)) * len(target) // len(source)
        laid.append(torch.zeros_like(target).index_add_(0, place, source))
    return tuple(laid)
