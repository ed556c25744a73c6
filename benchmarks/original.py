"""A training step as the public code of the SAG paper takes it, written anew to be timed.

This is a reimplementation in our own words of what that code does (batches, sums, loops, double
passes, optimiser), not its text; no model is trained with it. What makes it a fair measure:
on the same batch it gives the loss that our models and losses give with compat = "reference",
which the golden tests hold against numbers of the original, and `benchmarks/training.py` stops
where it does not. Left out in its favour are its moving average of the weights, its meters, and
the reading of each bag from float64 files in every epoch.

Names of modules are the public code's, so that weights can be handed over.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GUIDED_HEADS = 2
FACTOR = 0.1
IN_OUT = 0.01

ABMIL_ADAM: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.9), "weight_decay": 5e-3}
SCATNET_ADAM: dict[str, Any] = {"lr": 5e-4, "eps": 1e-9, "weight_decay": 4e-5}


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What a step is given; one entry a magnification."""

    features: Sequence[Tensor]
    """(B, N, E)"""

    heuristic_guidance: Sequence[Tensor]
    """(B, N)"""

    tissue_guidance: Sequence[Tensor]
    """(B, N)"""

    labels: Tensor
    """(B, C) float"""


class Abmil(nn.Module):
    """One bag at a time: ReLU attention as wide as the features."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.Linear(features, features), nn.ReLU(), nn.Linear(features, 1)
        )
        self.classifier = nn.Sequential(nn.Linear(features, classes))

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """(N, E) -> logits (1, C) and attention (1, N)."""
        attention = F.softmax(self.attention(bag).transpose(1, 0), dim=1)
        return self.classifier(torch.mm(attention, bag)), attention


class Attention(nn.Module):
    """Self-attention without a factor on q.k, whose whole map is handed out after dropout."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.kqv = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, dim) -> (B, N, dim) and the map (B*H, N, N)."""
        bags, tiles, dim = x.shape
        parts = [self._by_head(part) for part in self.kqv(x).chunk(3, dim=-1)]
        query, key, value = parts  # (B*H, N, D)
        attention = self.dropout(F.softmax(torch.bmm(query, key.transpose(1, 2)), dim=-1))
        seen = torch.bmm(attention, value).view(bags, self.heads, tiles, dim // self.heads)
        return self.out_proj(seen.transpose(1, 2).contiguous().view(bags, tiles, dim)), attention

    def _by_head(self, part: Tensor) -> Tensor:
        bags, tiles, dim = part.shape
        heads = part.contiguous().view(bags, tiles, self.heads, dim // self.heads)
        return heads.transpose(1, 2).contiguous().view(bags * self.heads, tiles, -1)


class FeedForward(nn.Module):
    """Each row by itself through four times its width."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        wide = nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Dropout(dropout)
        self.ffn = nn.Sequential(*wide, nn.Linear(4 * dim, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        out: Tensor = self.ffn(x)
        return out


class Layer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_before_attn = nn.LayerNorm(dim)
        self.mha = Attention(dim, heads, dropout)
        self.dropout = nn.Dropout(dropout)
        self.norm_before_ffn = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, dim) -> (B, N, dim) and the map (B*H, N, N)."""
        seen, attention = self.mha(self.norm_before_attn(x))
        x = x + self.dropout(seen)
        return x + self.ffn(self.norm_before_ffn(x)), attention


class Encoder(nn.Module):
    """The tiles of one magnification as one vector."""

    def __init__(self, features: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.proj_cnn_emb = nn.Linear(features, dim)
        self.dropout = nn.Dropout(dropout)
        self.attn = nn.ModuleDict({f"encoder_{i}": Layer(dim, 4, dropout) for i in range(4)})
        self.proj_attn_emb = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))
        self.register_buffer("codes", sinusoid(5000, dim), persistent=False)
        self.codes: Tensor

    def forward(self, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, N, E) -> (B, dim) and a map (B*H, N, N) a layer."""
        x = self.proj_cnn_emb(features) * math.sqrt(128)
        x = self.dropout(x + self.codes[: x.shape[1]])
        maps = []
        for layer in self.attn.values():
            x, attention = layer(x)
            maps.append(attention)
        x.pow(2).mean(dim=-1).sqrt()  # the importance of each tile, which training does not use
        return self.proj_attn_emb(x.mean(dim=1)), maps


class ScAtNet(nn.Module):
    """Encoders of one or several magnifications, and a transformer over them."""

    def __init__(self, features: int, classes: int, magnifications: int, dropout: float) -> None:
        super().__init__()
        dim = 128
        self.scale_wise_attn = nn.ModuleDict(
            {f"scale_{i}": Encoder(features, dim, dropout) for i in range(magnifications)}
        )
        if magnifications > 1:
            self.scale_dropout = nn.Dropout(0.78125 * dropout)
            self.attend_over_scales = nn.ModuleDict(
                {f"attn_over_scale_{i}": Layer(dim, 4, dropout) for i in range(2)}
            )
            wide = nn.LayerNorm(magnifications * dim), nn.Linear(magnifications * dim, dim)
            self.scale_fusion = nn.Sequential(*wide, nn.LayerNorm(dim), nn.SiLU())
        self.classifier = nn.Sequential(
            nn.Linear(dim, dim // 2), nn.SiLU(), nn.Dropout(dropout), nn.Linear(dim // 2, classes)
        )

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, list[list[Tensor]]]:
        """S of (B, N, E) -> logits (B, C), and a map (B*H, N, N) a magnification and layer."""
        encoders = zip(self.scale_wise_attn.values(), features, strict=True)
        vectors, maps = zip(*[encoder(rows) for encoder, rows in encoders], strict=True)
        if len(vectors) == 1:
            return self.classifier(vectors[0]), list(maps)
        x = torch.stack(vectors, dim=1)
        x = self.scale_dropout(x + sinusoid(x.shape[1], x.shape[2]))
        for layer in self.attend_over_scales.values():
            x, _ = layer(x)
        return self.classifier(self.scale_fusion(x.flatten(1))), list(maps)


def sinusoid(count: int, dim: int) -> Tensor:
    """Fixed position codes (count, dim)."""
    angle = torch.arange(count).unsqueeze(1) * torch.exp(
        torch.arange(0, dim, 2) * (-math.log(10000.0) / dim)
    )
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def map_distance(attention: Tensor, guidance: Tensor) -> Tensor:
    """Squared distance, summed over the tiles: the published term of HG."""
    return ((attention - guidance) ** 2).sum(-1)


def in_and_out(attention: Tensor, guidance: Tensor) -> Tensor:
    """Attention outside tissue minus that inside: the published term of TG."""
    inside = (attention * (guidance > 0)).sum(-1)
    return IN_OUT * ((attention * (guidance == 0)).sum(-1) - inside)


Term = Callable[[Tensor, Tensor], Tensor]


def guided(
    term: Term, maps: list[list[Tensor]], guidance: Sequence[Tensor], heads: Sequence[int]
) -> Tensor:
    """A term summed over magnifications, layers and heads, mean over the guided slides."""
    has = guidance[0].sum(dim=1) != 0
    total = guidance[0].new_zeros(())
    if not has.any():
        return total
    for layers, wanted in zip(maps, guidance, strict=True):
        for attention in layers:
            tiles = attention.shape[-1]
            by_head = attention.view(-1, 4, tiles, tiles).mean(dim=-2)  # (B, H, N)
            for head in heads:
                total = total + term(by_head[has, head], wanted[has]).sum()
    return FACTOR * total / has.sum()


class Step:
    """One model in training, by uncertainty weighting in the network's own optimiser."""

    def __init__(self, model: nn.Module, adam: dict[str, Any]) -> None:
        self.model = model
        self.scale = nn.Parameter(torch.full((3,), -0.5))
        self.optimizer = torch.optim.Adam([*model.parameters(), self.scale], **adam)

    def losses(self, batch: Batch) -> Tensor:
        """Classification, HG and TG."""
        guides = batch.heuristic_guidance, batch.tissue_guidance
        if isinstance(self.model, Abmil):
            logits, attention = self.model(batch.features[0][0])
            terms = [
                FACTOR
                * (term(attention, guide[0]).sum() if guide[0].sum() != 0 else guide[0].sum())
                for term, guide in zip((map_distance, in_and_out), guides, strict=True)
            ]
        else:
            logits, maps = self.model(batch.features)
            terms = [
                guided(map_distance, maps, guides[0], range(GUIDED_HEADS)),
                guided(in_and_out, maps, guides[1], range(4)),
            ]
        return torch.stack([F.binary_cross_entropy_with_logits(logits, batch.labels), *terms])

    def __call__(self, batch: Batch) -> Tensor:
        """Take the step; returns the loss before it."""
        if isinstance(self.model, Abmil):
            batch = permuted(batch)
        losses = self.losses(batch)
        total = (losses / (2 * self.scale.exp()) + self.scale / 2).sum()
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        return total.detach()


def permuted(batch: Batch) -> Batch:
    """A bag of one in another order, unless a feature is NaN, as before each step on one."""
    (features,), (heuristic,), (tissue,) = (
        batch.features,
        batch.heuristic_guidance,
        batch.tissue_guidance,
    )
    if torch.isnan(features).any():
        return batch
    order = torch.randperm(features.shape[1])
    return Batch([features[:, order]], [heuristic[:, order]], [tissue[:, order]], batch.labels)
