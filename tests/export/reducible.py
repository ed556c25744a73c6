"""Small extractors that are large enough to be worth fewer bits."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

TILE_PX = 48
CHANNELS = (3, 32, 48)

GRAPH = """<ir_version: 10, opset_import: ["" : 18]>
g (uint8[N,{side},{side},3] tiles) => (float[N,{features}] features)
<float mean = {{128}}, float scale = {{0.015625}}, int64[2] sides = {{2, 3}}> {{
    bytes = Transpose<perm = [0, 3, 1, 2]>(tiles)
    pixels = Cast<to = 1>(bytes)
    centred = Sub(pixels, mean)
    image = Mul(centred, scale)
    a = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(image, w0, b0)
    an = {norm0}
    ar = Relu(an)
    b = Conv<strides = [2, 2], pads = [1, 1, 1, 1]>(ar, w1, b1)
    bn = {norm1}
    br = Relu(bn)
    c = Conv<pads = [1, 1, 1, 1]>(br, w2, b2)
    cr = Relu(c)
    features = ReduceMean<keepdims = 0>(cr, sides)
}}"""
NORM = "InstanceNormalization<epsilon = 0.000001>({name}, one{index}, zero{index})"


def write_extractor(
    path: Path,
    *,
    features: int = 24,
    norm: bool = False,
    widths: tuple[float, float] = (1, 1),
    side: int | str = TILE_PX,
) -> Path:
    """uint8 (N, H, W, 3) -> float32 (N, E): convolutions, with instance norms if `norm`.

    widths: the first convolution's channels are multiplied by these and all between, and where
    no norm undoes it the second divides by them, so that the features are the same for any
    """
    rng = np.random.default_rng(11)
    sizes = (*CHANNELS, features)
    weights = {}
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        scale = (2 / (9 * inputs)) ** 0.5
        weights[f"w{index}"] = scale * rng.standard_normal((outputs, inputs, 3, 3))
        weights[f"b{index}"] = 0.1 * rng.standard_normal(outputs)
        weights[f"one{index}"], weights[f"zero{index}"] = np.ones(outputs), np.zeros(outputs)
    factors = np.geomspace(*widths, CHANNELS[1])
    weights["w0"] *= factors[:, None, None, None]
    weights["b0"] *= factors
    if not norm:
        weights["w1"] /= factors[None, :, None, None]
    norms = [
        NORM.format(name=name, index=index) if norm else f"Identity({name})"
        for index, name in enumerate("ab")
    ]
    text = GRAPH.format(side=side, features=features, norm0=norms[0], norm1=norms[1])
    model = onnx.parser.parse_model(text)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(values.astype(np.float32), name)
        for name, values in weights.items()
        if name in used
    )
    onnx.save(model, path)
    return path


def smooth_tiles(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Tiles of soft coloured spots, (N, H, W, 3); no two alike."""
    rng = np.random.default_rng(seed)
    at = np.arange(TILE_PX) / TILE_PX * 2 * np.pi
    phases = rng.uniform(0, 2 * np.pi, (2, count, 1, 1, 3))
    steps = rng.integers(1, 5, (2, count, 1, 1, 3))
    x = np.sin(steps[0] * at[None, None, :, None] + phases[0])
    y = np.sin(steps[1] * at[None, :, None, None] + phases[1])
    colour, depth = rng.uniform(60, 190, (count, 1, 1, 3)), rng.uniform(10, 60, (count, 1, 1, 3))
    pixels: NDArray[np.uint8] = np.clip(colour + depth * x * y, 0, 255).astype(np.uint8)
    return pixels
