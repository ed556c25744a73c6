"""Self-attention that answers with the mean of its map over the queries: Eq. 1 of the paper.

The map of N tiles has N x N entries a head, and guidance, reports and the server only want
its mean over queries. So the map is made a block of queries at a time and forgotten; where
gradients are wanted, each block is made again on the way back. An exported graph holds one
node for all of it, which `export.attention` spells out.
"""

from dataclasses import dataclass

import torch
import torch.onnx.ops
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sagdeploy.models.dropout import dropout

CPU_BLOCK_ENTRIES = 1 << 21
"""Entries of the map that are held at once, over all bags and heads: about a CPU's cache."""

GPU_BLOCK_ENTRIES = 1 << 26
"""The same on other devices, where a small block would starve the device."""

EXPORTED = "sagdeploy::attend"
"""The node of an exported graph: query, key, value, bias, share -> seen, mean."""


@dataclass(frozen=True, slots=True)
class AttentionRule:
    """How a map is made of queries and keys."""

    scale: float
    """Factor on q.k before the softmax: 1/sqrt(D) in Eq. 1, 1 in the paper's public code."""

    dropout: float = 0.0
    """Share of the map that is dropped before it meets the values; 0 outside training."""

    count_dropped: bool = False
    """Whether the mean is taken after dropout, as in the public code; it then sums to about 1."""


def attend(
    query: Tensor, key: Tensor, value: Tensor, is_tile: Tensor, rule: AttentionRule
) -> tuple[Tensor, Tensor]:
    """Values as the queries see them (B, H, N, D), and the map's mean over queries (B, H, N).

    query, key, value: (B, H, N, D)
    is_tile:           bool (B, N); padding is neither attended to nor counted as a query
    """
    shape, heads = query.shape, query.shape[1]
    query, key, value = (part.flatten(0, 1) for part in (query, key, value))  # (B*H, N, D)
    bias, share = (part.repeat_interleave(heads, dim=0) for part in _masks(is_tile, query.dtype))
    if torch.onnx.is_in_onnx_export():
        seen, mean = _attend_node(query, share, key, value, bias, rule)
    elif (rows := _rows_per_block(query)) >= query.shape[1]:
        seen, mean = _attend_block(query, share, key, value, bias, rule)
    else:
        seen, mean = _attend_in_blocks(query, share, key, value, bias, rule, rows)
    return seen.reshape(shape), mean.reshape(shape[:3])


def attention_map(query: Tensor, key: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Each query's attention to every key: A of Eq. 1.

    query: (M, R, D)  key: (M, N, D)  bias: (M, 1, N), minus infinity where the key is padding
    returns: (M, R, N), each row sums to 1
    """
    return torch.softmax(torch.baddbmm(bias, query, key.mT, alpha=scale), dim=-1)


def _attend_block(
    query: Tensor, share: Tensor, key: Tensor, value: Tensor, bias: Tensor, rule: AttentionRule
) -> tuple[Tensor, Tensor]:
    """What a block of R queries sees (M, R, D), and its part of the mean (M, 1, N)."""
    clean = attention_map(query, key, bias, rule.scale)
    dropped = dropout(clean, rule.dropout)
    return dropped @ value, share @ (dropped if rule.count_dropped else clean)


def _attend_in_blocks(
    query: Tensor,
    share: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    rule: AttentionRule,
    rows: int,
) -> tuple[Tensor, Tensor]:
    """The same for all queries, `rows` at a time; checkpoint() draws the same dropout twice."""
    seen, mean = [], torch.zeros_like(bias)
    for some, theirs in zip(
        torch.split(query, rows, dim=1), torch.split(share, rows, dim=2), strict=True
    ):
        block = checkpoint(_attend_block, some, theirs, key, value, bias, rule, use_reentrant=False)
        seen.append(block[0])
        mean = mean + block[1]
    return torch.cat(seen, dim=1), mean


def _attend_node(
    query: Tensor, share: Tensor, key: Tensor, value: Tensor, bias: Tensor, rule: AttentionRule
) -> tuple[Tensor, Tensor]:
    """The same as a node of an exported graph; there is no dropout outside training."""
    inputs = (query * rule.scale, key, value, bias, share)
    seen, mean = torch.onnx.ops.symbolic_multi_out(
        EXPORTED, inputs, dtypes=(query.dtype, bias.dtype), shapes=(query.shape, bias.shape)
    )
    return seen, mean


def _masks(is_tile: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Bias of the keys and share of the queries in the mean, both (B, 1, N)."""
    bias = torch.zeros_like(is_tile, dtype=dtype).masked_fill(~is_tile, float("-inf"))
    share = is_tile.to(dtype) / is_tile.sum(dim=1, keepdim=True)
    return bias.unsqueeze(1), share.unsqueeze(1)


def _rows_per_block(query: Tensor) -> int:
    """Queries a block."""
    entries = CPU_BLOCK_ENTRIES if query.device.type == "cpu" else GPU_BLOCK_ENTRIES
    return max(1, entries // (query.shape[0] * query.shape[1]))


class SelfAttention(nn.Module):
    """Multi-head self-attention over the tiles of a bag."""

    def __init__(self, dim: int, heads: int, dropout: float, *, compat: bool) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.compat = compat
        self.scale = 1.0 if compat else (dim // heads) ** -0.5
        self.kqv = nn.Linear(dim, 3 * dim)  # the name is the public code's; the order is q, k, v
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, is_tile: Tensor) -> tuple[Tensor, Tensor]:
        """Attend among the rows of `x`.

        x: (B, N, dim); is_tile: bool (B, N)
        returns: (B, N, dim), and the attention's mean over queries (B, H, N)
        """
        rule = AttentionRule(self.scale, self.dropout if self.training else 0.0, self.compat)
        seen, mean = attend(*self.project(x), is_tile, rule)
        return self.out_proj(seen.transpose(1, 2).flatten(2)), mean

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of (B, N, dim), each (B, H, N, D)."""
        bags, tiles, dim = x.shape
        parts = self.kqv(x).reshape(bags, tiles, 3, self.heads, dim // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        return query, key, value
