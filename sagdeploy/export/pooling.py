"""Attention pooling as ONNX operators that hold one block of tiles.

The exporter leaves `models.pooling.attention_pool` as one node. Here it becomes a Loop over
blocks of tiles, and what makes a tile's row and score of its features goes into that loop: so
neither those nor a copy of the features are ever there for the whole bag. The softmax is
corrected as larger scores come up.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx.parser
from onnx import GraphProto, ModelProto, NodeProto

from sagdeploy.models.pooling import EXPORTED

DOMAIN, _, OPERATOR = EXPORTED.partition("::")

BLOCK_TILES = 1024
"""Of 1,280 features and as many hidden units 5 MB each; more are no faster."""

ROW_BY_ROW = ("Unsqueeze", "Sub", "Div", "Mul", "Add", "MatMul", "Relu", "Tanh", "Sigmoid")
"""Operators that make a row of one row, where all else that they take is constant."""

POOL = f"""
pool (float[n, e] features) => (float[1, w] mean, float[1, n] attention)
{{
  zero = Constant <value_ints = [0]> ()
  size = Constant <value_ints = [{BLOCK_TILES}]> ()
  last = Constant <value_ints = [{BLOCK_TILES - 1}]> ()
  flat = Constant <value_ints = [-1]> ()
  always = Constant <value = bool {{1}}> ()
  least = Constant <value = float[1] {{-3.4028234e38}}> ()
  nothing = Constant <value = float[1] {{0}}> ()
  none = Expand (nothing, zero)
  tiles = Shape <start = 0, end = 1> (features)
  filled = Add (tiles, last)
  blocks = Div (filled, size)
  count = Squeeze (blocks)
  peak, mass, total, scores = Loop <
    body = block (int64 i, bool on, float[1] peak_in, float[1] mass_in, float[v] total_in,
                  float[k] scores_in)
      => (bool on_out, float[1] peak_out, float[1] mass_out, float[w] total_out,
          float[m] scores_out)
    {{
      on_out = Identity (on)
      start = Mul (i, size)
      end = Add (start, size)
      some = Slice (features, start, end, zero)
      theirs = Reshape (SCORES, flat)
      rows = Squeeze (ROWS, zero)
      most = ReduceMax <keepdims = 1> (theirs)
      peak_out = Max (peak_in, most)
      below = Sub (peak_in, peak_out)
      fading = Exp (below)
      under = Sub (theirs, peak_out)
      weights = Exp (under)
      weight = ReduceSum <keepdims = 1> (weights)
      mass_left = Mul (mass_in, fading)
      mass_out = Add (mass_left, weight)
      part = MatMul (weights, rows)
      total_left = Mul (total_in, fading)
      total_out = Add (total_left, part)
      scores_out = Concat <axis = 0> (scores_in, theirs)
    }}
  > (count, always, least, nothing, nothing, none)
  average = Div (total, mass)
  mean = Unsqueeze (average, zero)
  unders = Sub (scores, peak)
  all_weights = Exp (unders)
  shares = Div (all_weights, mass)
  attention = Unsqueeze (shares, zero)
}}
"""
"""The node by blocks, but for what makes `ROWS` (1, r, w), `SCORES` (1, r, 1) of `some` (r, e)."""

WHOLE = """
pool (float[1, n, w] ROWS, float[1, n, 1] SCORES) => (float[1, w] mean, float[1, n] attention)
{
  one = Constant <value_ints = [1]> ()
  last = Constant <value_ints = [-1]> ()
  column = Softmax <axis = 1> (SCORES)
  attention = Squeeze (column, last)
  row = Unsqueeze (attention, one)
  means = MatMul (row, ROWS)
  mean = Squeeze (means, one)
}
"""
"""The node where tiles meet before they are pooled, so that their blocks cannot be made apart."""


@dataclass(frozen=True, slots=True)
class RowByRow:
    """How rows and scores are made of features, each tile's of its own alone."""

    features: str
    """The graph's input, (N, E)."""

    nodes: tuple[NodeProto, ...]
    """In their order."""


def with_pooling(model: ModelProto) -> ModelProto:
    """The model with each node of `attention_pool` spelled out."""
    nodes = list[NodeProto]()
    for number, node in enumerate(model.graph.node):
        if (node.domain, node.op_type) == (DOMAIN, OPERATOR):
            made, prefix = _makers(node, model.graph), f"pool_{number}/"
            nodes += _by_blocks(node, made, prefix) if made else _at_once(node, prefix)
        else:
            nodes.append(node)
    kept = _used(nodes, {output.name for output in model.graph.output})
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def _makers(pool: NodeProto, graph: GraphProto) -> RowByRow | None:
    """What makes the rows and scores of a node; None where tiles meet on the way."""
    constants = {tensor.name for tensor in graph.initializer}
    open_names, nodes = set(pool.input), list[NodeProto]()
    for node in reversed(graph.node):
        if open_names & set(node.output):
            nodes.append(node)
            open_names = (open_names - set(node.output)) | (set(node.input) - constants)
    is_known = all(not node.domain and node.op_type in ROW_BY_ROW for node in nodes)
    if not is_known or len(open_names) != 1:
        return None
    return RowByRow(open_names.pop(), tuple(reversed(nodes)))


def _at_once(pool: NodeProto, prefix: str) -> list[NodeProto]:
    """What stands for a node, all new names with a prefix."""
    nodes = list(onnx.parser.parse_graph(WHOLE).node)
    return _renamed(nodes, _own(nodes, prefix) | _given(pool))


def _by_blocks(pool: NodeProto, made: RowByRow, prefix: str) -> list[NodeProto]:
    """The same as a loop, with the nodes that make rows and scores in it."""
    nodes = list(onnx.parser.parse_graph(POOL).node)
    inside = _own(made.nodes, prefix) | {made.features: f"{prefix}some"}
    given = {name: inside.get(taken, taken) for name, taken in _given(pool).items()}
    _renamed(nodes, _own(nodes, prefix) | given | {"features": made.features})
    (loop,) = (node for node in nodes if node.op_type == "Loop")
    body = loop.attribute[0].g.node
    (at,) = (number for number, node in enumerate(body) if node.op_type == "Slice")
    copies = [NodeProto.FromString(node.SerializeToString()) for node in made.nodes]
    filled = [*body[: at + 1], *_renamed(copies, inside), *body[at + 1 :]]
    del body[:]
    body.extend(filled)
    return nodes


def _given(pool: NodeProto) -> dict[str, str]:
    """What the texts above call the tensors of a node, and their names."""
    names = ("ROWS", "SCORES", "mean", "attention")
    return dict(zip(names, (*pool.input, *pool.output), strict=True))


def _own(nodes: Iterable[NodeProto], prefix: str) -> dict[str, str]:
    """Every name that nodes and their subgraphs give to something, and that with a prefix."""
    names = dict[str, str]()
    for node in nodes:
        names |= {name: prefix + name for name in node.output}
        for graph in _subgraphs(node):
            names |= {value.name: prefix + value.name for value in graph.input}
            names |= _own(graph.node, prefix)
    return names


def _renamed(nodes: list[NodeProto], names: Mapping[str, str]) -> list[NodeProto]:
    """The nodes, changed in place."""
    for node in nodes:
        for field in (node.input, node.output):
            field[:] = [names.get(name, name) for name in field]
        for graph in _subgraphs(node):
            for value in (*graph.input, *graph.output):
                value.name = names.get(value.name, value.name)
            _renamed(list(graph.node), names)
    return nodes


def _used(nodes: Iterable[NodeProto], wanted: set[str]) -> list[NodeProto]:
    """Those of the nodes on which what is wanted rests."""
    kept = list[NodeProto]()
    for node in reversed(list(nodes)):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= _inputs(node)
    return kept[::-1]


def _inputs(node: NodeProto) -> set[str]:
    """Names that a node and its subgraphs take."""
    inner = (_inputs(each) for graph in _subgraphs(node) for each in graph.node)
    return set(node.input).union(*inner)


def _subgraphs(node: NodeProto) -> list[GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]
