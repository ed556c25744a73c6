"""Attention by group of heads, where a model makes more than one map of a slide."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sagdeploy.manifest import Manifest
from sagdeploy.pipeline.predict import Prediction

MOST_ALONE = 8
"""Of more heads that guidance does not part, none is shown by itself."""


@dataclass(frozen=True, slots=True, eq=False)
class GroupMap:
    """Where a group of heads looked."""

    name: str
    attention: NDArray[np.float32]
    """(N,) mean over the group, sums to 1."""


def maps_of(prediction: Prediction, magnification: int) -> tuple[GroupMap, ...]:
    """The map of all heads, which is the slide's, then those of groups of them."""
    together = GroupMap("all heads", prediction.diagnosis.attention[magnification])
    if not prediction.diagnosis.heads:
        return (together,)
    heads = prediction.diagnosis.heads[magnification]  # (L*H, N)
    groups = head_groups(prediction.manifest).items()
    return together, *(GroupMap(name, heads[maps.ravel()].mean(axis=0)) for name, maps in groups)


def head_groups(manifest: Manifest) -> dict[str, NDArray[np.bool_]]:
    """Heads that HG taught and the others, or each alone; then each layer: (L, H) by name."""
    layers, heads, taught = manifest.layers, manifest.heads, manifest.card.hg_heads
    head, layer = np.arange(heads), np.arange(layers)
    chosen: dict[str, NDArray[np.bool_]] = {}
    if 0 < taught < heads:
        chosen = {f"heads taught by HG ({taught} of {heads})": head < taught}
        chosen["heads left free"] = head >= taught
    elif 1 < heads <= MOST_ALONE:
        chosen = {f"head {index + 1}": head == index for index in head}
    groups = {name: np.tile(own, (layers, 1)) for name, own in chosen.items()}
    if layers > 1:
        own_layer = {f"layer {index + 1}": layer == index for index in layer}
        groups |= {name: np.tile(own[:, None], heads) for name, own in own_layer.items()}
    return groups
