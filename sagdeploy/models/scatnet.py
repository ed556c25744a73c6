"""ScAtNet: transformers over the tiles of each magnification, and one over magnifications.

Wu et al., "Scale-aware transformers for diagnosing melanocytic lesions", IEEE Access 2021.
Module names are those of the public code, so that its checkpoints load. Eq. 1 of the SAG
paper divides q.k by sqrt(D) and guides clean attention; the public code does neither, and
`compat="reference"` follows it.

Letters: B bags, N tiles, E features, H heads, C classes, S magnifications, L layers.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sagdeploy.errors import ConfigError
from sagdeploy.models.attention import ModelOutput
from sagdeploy.models.dropout import Dropout
from sagdeploy.models.self_attention import SelfAttention

SCALE_DROPOUT = 0.78125
"""Dropout between magnifications, as a share of the rest: 0.15625 where that is 0.2."""


def sinusoid(count: int, dim: int, like: Tensor) -> Tensor:
    """Fixed position codes (count, dim): sines on even channels, cosines on odd ones."""
    step = torch.arange(0, dim, 2, device=like.device, dtype=like.dtype)
    angle = torch.arange(count, device=like.device, dtype=like.dtype).unsqueeze(1)
    angle = angle * torch.exp(step * (-math.log(10000.0) / dim))  # (count, dim/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # (count, dim)


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """What all transformer layers of a network share."""

    dim: int
    heads: int
    dropout: float
    compat: bool
    """Whether attention is the public code's, not Eq. 1."""


class FeedForward(nn.Module):
    """Each row by itself through four times its width."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.ffn = nn.Sequential(
            nn.Linear(dim, 4 * dim),
            nn.SiLU(),
            Dropout(dropout),
            nn.Linear(4 * dim, dim),
            Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        out: Tensor = self.ffn(x)
        return out


class EncoderLayer(nn.Module):
    """A pre-norm transformer layer that also says where it looked."""

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__()
        dim, dropout = sizes.dim, sizes.dropout
        self.norm_before_attn = nn.LayerNorm(dim)
        self.mha = SelfAttention(dim, sizes.heads, dropout, compat=sizes.compat)
        self.dropout = Dropout(dropout)
        self.norm_before_ffn = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, dropout)

    def forward(self, x: Tensor, is_tile: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, dim) -> (B, N, dim) and the attention's mean over queries (B, H, N)."""
        seen, attention = self.mha(self.norm_before_attn(x), is_tile)
        x = x + self.dropout(seen)
        return x + self.ffn(self.norm_before_ffn(x)), attention


class MagnificationEncoder(nn.Module):
    """The tiles of one magnification as one vector."""

    def __init__(self, features: int, layers: int, sizes: LayerSizes) -> None:
        super().__init__()
        dim = sizes.dim
        self.proj_cnn_emb = nn.Linear(features, dim)
        self.dropout = Dropout(sizes.dropout)
        self.attn = _stack("encoder", layers, sizes)
        self.proj_attn_emb = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))

    def forward(self, features: Tensor, is_tile: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, N, E) -> (B, dim), and attention (B, L, H, N)."""
        x = self.proj_cnn_emb(features)  # (B, N, dim)
        dim = x.shape[2]
        x = self.dropout(x * math.sqrt(dim) + sinusoid(x.shape[1], dim, x))
        attention = []
        for layer in self.attn.values():
            x, looked = layer(x, is_tile)
            attention.append(looked)
        share = is_tile.to(x.dtype) / is_tile.sum(dim=1, keepdim=True)
        pooled = (share.unsqueeze(1) @ x).squeeze(1)  # (B, dim): the mean over real tiles
        return self.proj_attn_emb(pooled), torch.stack(attention, dim=1)


class ScAtNet(nn.Module):
    """Scale-aware attention network for one or several magnifications."""

    def __init__(
        self,
        *,
        features: int,
        classes: int,
        magnifications: int = 1,
        dim: int = 128,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.2,
        scale_layers: int = 2,
        tied: bool = False,
        scale_embedding: Literal["sinusoid", "learned"] = "sinusoid",
        compat: Literal["paper", "reference"] = "paper",
    ) -> None:
        """Raises ConfigError for options that do not fit together.

        scale_layers:    layers of the transformer over magnifications
        tied:            whether all magnifications share one encoder
        scale_embedding: code of each magnification, fixed or learned
        compat:          `reference` leaves out 1/sqrt(D) and guides attention after dropout
        """
        super().__init__()
        _check_sizes(dim, layers, heads, dropout)
        _check_choice("scale_embedding", scale_embedding, "sinusoid", "learned")
        _check_choice("compat", compat, "paper", "reference")
        sizes = LayerSizes(dim, heads, dropout, compat == "reference")
        self.magnifications = magnifications
        self.tied = tied
        encoders = 1 if tied else magnifications
        self.scale_wise_attn = nn.ModuleDict(
            {f"scale_{i}": MagnificationEncoder(features, layers, sizes) for i in range(encoders)}
        )
        self.scale_pos_emb: nn.Embedding | None = None
        if magnifications > 1:
            if scale_embedding == "learned":
                self.scale_pos_emb = nn.Embedding(magnifications, dim)
            self.scale_dropout = Dropout(SCALE_DROPOUT * dropout)
            self.attend_over_scales = _stack("attn_over_scale", scale_layers, sizes)
            self.scale_fusion = nn.Sequential(
                nn.LayerNorm(magnifications * dim),
                nn.Linear(magnifications * dim, dim),
                nn.LayerNorm(dim),
                nn.SiLU(),
            )
        self.classifier = nn.Sequential(
            nn.Linear(dim, dim // 2), nn.SiLU(), Dropout(dropout), nn.Linear(dim // 2, classes)
        )
        self.apply(_initialise)

    def forward(self, features: Sequence[Tensor], is_tile: Sequence[Tensor]) -> ModelOutput:
        """Diagnose a batch of bags.

        features: one (B, N, E) a magnification
        is_tile:  one bool (B, N) a magnification
        """
        vectors, attention = [], []
        for index, (rows, real) in enumerate(zip(features, is_tile, strict=True)):
            encoder = self.scale_wise_attn[f"scale_{0 if self.tied else index}"]
            vector, looked = encoder(rows, real)
            vectors.append(vector)
            attention.append(looked)
        fused = vectors[0] if self.magnifications == 1 else self.fuse(torch.stack(vectors, dim=1))
        return ModelOutput(self.classifier(fused), tuple(attention))

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load our own weights or a public checkpoint's, which also keep what we derive."""
        own = {
            name: value for name, value in state_dict.items() if not _is_derived(name, self.tied)
        }
        return super().load_state_dict(own, strict, assign)

    def fuse(self, vectors: Tensor) -> Tensor:
        """One vector of each magnification's: (B, S, dim) -> (B, dim)."""
        count, dim = vectors.shape[1:]
        if self.scale_pos_emb is None:
            code = sinusoid(count, dim, vectors)
        else:
            code = self.scale_pos_emb.weight * math.sqrt(dim)  # (S, dim)
        x = self.scale_dropout(vectors + code)
        everywhere = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        for layer in self.attend_over_scales.values():
            x, _ = layer(x, everywhere)
        fused: Tensor = self.scale_fusion(x.flatten(1))
        return fused


def _is_derived(name: str, tied: bool) -> bool:
    """Whether a public checkpoint's entry is what we compute (`pe`) or share (tied copies)."""
    is_copy = tied and re.match(r"scale_wise_attn\.scale_[1-9]", name) is not None
    return is_copy or name.endswith("pos_emb.pe")


def _initialise(module: nn.Module) -> None:
    """Xavier-uniform weights without bias, as the public code has them."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


def _stack(name: str, layers: int, sizes: LayerSizes) -> nn.ModuleDict:
    return nn.ModuleDict({f"{name}_{index}": EncoderLayer(sizes) for index in range(layers)})


def _check_sizes(dim: int, layers: int, heads: int, dropout: float) -> None:
    if min(dim, layers, heads) < 1 or dim % (2 * heads):
        raise ConfigError(
            f"scatnet: dim {dim} cannot be shared by {heads} heads in {layers} layers",
            hint="let dim be a multiple of twice the heads, and layers at least 1",
        )
    if not 0 <= dropout < 1:
        raise ConfigError(f"scatnet: dropout must lie in [0, 1), got {dropout}")


def _check_choice(option: str, value: str, *choices: str) -> None:
    if value not in choices:
        raise ConfigError(f"scatnet: no {option} {value!r}", hint=f"choose {' or '.join(choices)}")
