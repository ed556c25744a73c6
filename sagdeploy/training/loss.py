"""The loss that teaches a diagnosis and where to look for it: Eq. 6 over Eq. 4 and Eq. 5.

Eq. 4 and Eq. 5 have a factor 1/p, so on a bag of 15,000 tiles they are below 1e-6 and 1e-4
beside a classification loss of 0.7. What makes them count is Eq. 6: uncertainty weighting
divides each term by its own size. `UncertaintyWeights` says how that is kept bounded.

A transformer has many attention maps. Eq. 4 and 5 are averaged over the maps that they
teach, and the term then counts once for each: to Kendall's likelihood, from which Eq. 6
comes, every map is an observation. Otherwise a head among many would be taught so little
beside a classification that it does not move at all (tried); ABMIL has one map either way.

Letters: B bags, N tiles, C classes, T terms.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sagdeploy.config import GuidanceSettings, Guide
from sagdeploy.models.attention import ModelOutput
from sagdeploy.training.terms import (
    ClassLoss,
    GuidanceTerm,
    class_loss,
    guidance_loss,
    reference_loss,
)

REACH = 1.5
"""How far a log-variance may move from its start: a weight changes at most 4.5-fold. Wider,
a classification that is learned by heart drowns the guidance, and a tissue guidance that is
almost satisfied the rest."""

SMALLEST_LOSS = 1e-12
"""Floor of a loss under the logarithm."""

REFERENCE_START = -0.5
"""Where the public code's log-variances start."""


@dataclass(frozen=True, slots=True)
class LossParts:
    """What a batch's loss is made of; all but `total` without gradient."""

    total: Tensor
    """What is minimised."""

    classification: Tensor

    hg: Tensor | None
    """Eq. 4, mean over the bags that have heuristic guidance; None where none has."""

    tg: Tensor | None
    """Eq. 5, mean over the bags that have tissue guidance, negative where most attention is
    on tissue; None where none has."""

    weights: Tensor
    """(T,) factor of the classification and of each guidance term, 0 where it is absent."""


class UncertaintyWeights(nn.Module):
    """Joins terms by learned log-variances s (Eq. 6): the sum of L / (2 e^s) + s / 2.

    The optimum is e^s = L, where every term pulls by its relative change, whatever its size:
    this is what carries the 1/p of Eq. 4 and 5. Three things keep it from running away, as it
    does in the public code when a term is negative or absent:

    * terms come measured from their least value, so they are never negative; the gradient is
      that of the term itself;
    * an absent term leaves the sum together with its s / 2;
    * s starts at the logarithm of the term's first value and stays within REACH of it. Bounds
      that were the same for all terms would have to reach from 1e-9 to 1, and bind none.

    Give `log_variance` its own learning rate and no weight decay. With `bounded=False` it is
    the public code's: s starts at -0.5, is not bounded, and belongs with the network's
    parameters, weight decay included.
    """

    start: Tensor

    def __init__(self, terms: int, *, bounded: bool = True) -> None:
        super().__init__()
        self.bounded = bounded
        self.log_variance = nn.Parameter(torch.full((terms,), REFERENCE_START))
        self.register_buffer("start", torch.full((terms,), float("nan")))

    def forward(self, losses: Tensor, present: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted terms (T,), zero where absent, and their weights (T,).

        losses:  (T,), not negative if bounded
        present: bool (T,)
        first:   (T,) the e^s at which a term starts when it is seen for the first time
        """
        if self.bounded and self.training:
            self._settle(first, present)
        weights = 0.5 * torch.exp(-self.log_variance)
        return present * (weights * losses + 0.5 * self.log_variance), weights.detach()

    @torch.no_grad()
    def _settle(self, first: Tensor, present: Tensor) -> None:
        """Start the terms that are new; bring the others back into their range."""
        new = present & self.start.isnan()
        self.start.copy_(torch.where(new, first.clamp(min=SMALLEST_LOSS).log(), self.start))
        bounded = self.log_variance.clamp(self.start - REACH, self.start + REACH)
        settled = torch.where(self.start.isnan(), self.log_variance, bounded)
        self.log_variance.copy_(torch.where(new, self.start, settled))


class GuidedLoss(nn.Module):
    """The loss of a batch of bags, for any model that returns attention.

    Without terms, or with weight 0, it is the classification loss bit for bit and has no
    parameters. Otherwise `parameters()` are the log-variances of Eq. 6.
    """

    def __init__(self, settings: GuidanceSettings, kind: ClassLoss = "cross_entropy") -> None:
        super().__init__()
        self.settings = settings
        self.kind = kind
        self.weighting: UncertaintyWeights | None = None
        if settings.terms and settings.weight and settings.weighting == "uncertainty":
            bounded = settings.compat == "paper"
            self.weighting = UncertaintyWeights(1 + len(settings.terms), bounded=bounded)

    def forward(
        self,
        output: ModelOutput,
        targets: Tensor,
        is_tile: Sequence[Tensor],
        *,
        heuristic_guidance: Sequence[Tensor],
        tissue_guidance: Sequence[Tensor],
    ) -> LossParts:
        """What a model's answer costs.

        targets: class of each bag, int64 (B,), or soft labels (B, C)
        is_tile: one bool (B, N) a magnification
        heuristic_guidance, tissue_guidance: one (B, N) a magnification, W of Eq. 3; rows of
            zeros where a bag has none
        """
        settings = self.settings
        classification = class_loss(output.logits, targets, self.kind)
        given = {"hg": heuristic_guidance, "tg": tissue_guidance}
        with torch.set_grad_enabled(torch.is_grad_enabled() and settings.weight > 0):
            terms = [
                self._term(guide, output.attention, given[guide], is_tile)
                for guide in settings.terms
            ]
        total, weights = classification, classification.new_ones(1)
        if terms and settings.weight:
            total, weights = self._join(classification, terms, self._chance(output.logits))
        values = dict(zip(settings.terms, map(_value, terms), strict=True))
        return LossParts(
            total, classification.detach(), values.get("hg"), values.get("tg"), weights
        )

    def _term(
        self,
        guide: Guide,
        attention: Sequence[Tensor],
        guidance: Sequence[Tensor],
        is_tile: Sequence[Tensor],
    ) -> GuidanceTerm | None:
        share = self.settings.hg_heads if guide == "hg" else self.settings.tg_heads
        if self.settings.compat == "paper":
            return guidance_loss(guide, attention, guidance, is_tile, share)
        value = reference_loss(guide, attention, guidance, share)
        return GuidanceTerm(value, torch.zeros_like(value))

    def _chance(self, logits: Tensor) -> float:
        """Classification loss of guessing, at which its log-variance starts."""
        return math.log(logits.shape[1] if self.kind == "cross_entropy" else 2)

    def _join(
        self, classification: Tensor, terms: Sequence[GuidanceTerm | None], chance: float
    ) -> tuple[Tensor, Tensor]:
        """The total, and the factor of each term (T,)."""
        zero = torch.zeros_like(classification)
        none = GuidanceTerm(zero, zero, maps=0)
        known = [none if term is None else term for term in terms]
        present = torch.tensor([True, *(term is not None for term in terms)])
        present = present.to(classification.device)
        if self.weighting is None:
            losses = torch.stack([classification, *(term.value for term in known)])
            factors = losses.new_tensor([1.0] + [self.settings.weight] * len(known)) * present
            return (factors * losses).sum(), factors
        losses = torch.stack([classification, *(term.value - term.least for term in known)])
        factors = losses.new_tensor([1.0, *(self.settings.weight * term.maps for term in known)])
        first = losses.detach().clone()
        first[0] = chance
        weighted, weights = self.weighting(losses, present, first)
        return (factors * weighted).sum(), factors * weights


def _value(term: GuidanceTerm | None) -> Tensor | None:
    return None if term is None else term.value.detach()
