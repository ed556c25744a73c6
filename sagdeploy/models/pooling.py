"""The attention-weighted mean of a bag's tiles: Eq. 2 of the paper.

An exported graph holds one node for it, from which `export.pooling` makes a loop over blocks of
tiles, so that a client's memory does not grow with the slide.
"""

import torch
import torch.onnx.ops
from torch import Tensor

from sagdeploy.models.attention import masked_softmax

EXPORTED = "sagdeploy::attention_pool"
"""The node of an exported graph: rows, scores -> mean, attention."""


def attention_pool(rows: Tensor, scores: Tensor, is_tile: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the rows by their attention (B, W), and the attention (B, N), which sums to 1.

    rows:    (B, N, W)
    scores:  (B, N, 1), whose softmax over the tiles is the attention
    is_tile: bool (B, N); padding gets none
    """
    if torch.onnx.is_in_onnx_export():  # of one bag, without padding
        shapes = (rows[:, 0].shape, rows[..., 0].shape)
        mean, attention = torch.onnx.ops.symbolic_multi_out(
            EXPORTED, (rows, scores), dtypes=(rows.dtype, rows.dtype), shapes=shapes
        )
        return mean, attention
    looked = masked_softmax(scores.transpose(1, 2), is_tile.unsqueeze(1))  # (B, 1, N)
    return (looked @ rows).squeeze(1), looked.squeeze(1)
