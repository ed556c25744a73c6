"""Self-attention as ONNX operators that never hold a whole map.

The exporter leaves `models.self_attention.attend` as one node, for PyTorch's own translation
of it would hold N x N entries a head: 3.6 GB for 15,000 tiles and four heads. Here the node
becomes a Scan over blocks of queries, of operators that every ONNX Runtime has.
"""

import onnx
import onnx.inliner
import onnx.parser
from onnx import defs

from sagdeploy.models.self_attention import EXPORTED

DOMAIN, _, OPERATOR = EXPORTED.partition("::")

BLOCK_QUERIES = 64
"""With four heads and 15,000 tiles a block takes 15 MB; more are no faster."""

ATTEND = f"""
<domain: "{DOMAIN}", opset_import: ["": 18]>
{OPERATOR} (query, key, value, bias, share) => (seen, mean)
{{
  zero = Constant <value_ints = [0]> ()
  one = Constant <value_ints = [1]> ()
  open = Constant <value_ints = [-1]> ()
  size = Constant <value_ints = [{BLOCK_QUERIES}]> ()
  maps = Shape <start = 0, end = 1> (query)
  rows = Shape <start = 1, end = 2> (query)
  width = Shape <start = 2> (query)
  above = Mod (rows, size)
  below = Sub (size, above)
  lacking = Mod (below, size)

  query_pads = Concat <axis = 0> (zero, zero, zero, zero, lacking, zero)
  query_shape = Concat <axis = 0> (maps, open, size, width)
  padded_query = Pad (query, query_pads)
  queries = Reshape (padded_query, query_shape)

  share_pads = Concat <axis = 0> (zero, zero, zero, zero, zero, lacking)
  share_shape = Concat <axis = 0> (maps, one, open, size)
  padded_share = Pad (share, share_pads)
  shares = Reshape (padded_share, share_shape)

  keys = Transpose <perm = [0, 2, 1]> (key)
  nothing = Sub (share, share)
  mean, blocks = Scan <
    num_scan_inputs = 2, scan_input_axes = [1, 2], scan_output_axes = [1],
    body = block (float[m, 1, n] before, float[m, r, d] some, float[m, 1, r] theirs)
      => (float[m, 1, n] after, float[m, r, e] sees)
    {{
      scores = MatMul (some, keys)
      biased = Add (scores, bias)
      attention = Softmax <axis = -1> (biased)
      sees = MatMul (attention, value)
      part = MatMul (theirs, attention)
      after = Add (before, part)
    }}
  > (nothing, queries, shares)
  seen_shape = Concat <axis = 0> (maps, open, width)
  flat = Reshape (blocks, seen_shape)
  seen = Slice (flat, zero, rows, one)
}}
"""
"""What `attend` does; the queries that fill the last block up have no share in the mean."""


def with_attention(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with each node of `attend` spelled out; itself where it has none."""
    if all(node.domain != DOMAIN for node in model.graph.node):
        return model
    model.functions.append(onnx.parser.parse_function(ATTEND))
    spelled = onnx.inliner.inline_local_functions(model)
    own = [opset for opset in spelled.opset_import if opset.domain == defs.ONNX_DOMAIN]
    del spelled.opset_import[:]
    spelled.opset_import.extend(own)
    return spelled
