"""How much a diagnosis changes when its extractor has fewer bits, on the validation slides."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from sagdeploy.bags.cohort import CohortSlide
from sagdeploy.config import Precision
from sagdeploy.errors import ExportError
from sagdeploy.export.samples import cut
from sagdeploy.manifest import Margin, tensor_names
from sagdeploy.pipeline.stream import stream_features
from sagdeploy.serving.engine import Arrays
from sagdeploy.serving.runtime import Graph
from sagdeploy.slides.tiling import TilePlan
from sagdeploy.training.metrics import diagnosis_scores

LEAST_COSINE = 0.97
LEAST_RANK = 0.98
LARGEST_DIFFERENCE = 0.02
"""Of probabilities: nobody should decide otherwise for so little."""

Features = NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Told how many slides are done, of how many."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A model with its extractor in float32, and in fewer bits."""

    whole: Graph
    reduced: Graph
    diagnosis: Graph
    """Of both, as are the plan and the classes."""

    plan: TilePlan
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class SlideChange:
    """What became of one slide."""

    cosines: NDArray[np.float64]
    """(N,) of the features of each tile, whole and reduced, the mean feature taken off both."""

    ranks: tuple[float, ...]
    """Spearman's correlation of the two attentions, one a magnification."""

    probabilities: NDArray[np.float64]
    """(2, C) whole, reduced."""

    label: int


def mean_feature(whole: Graph, tiles: Sequence[NDArray[np.uint8]]) -> Features:
    """(E,) over some tiles: what features have in common, which hides how they differ."""
    features = [whole.run({"tiles": batch})["features"] for batch in tiles]
    centre: Features = np.concatenate(features).mean(axis=0)
    return centre


def measure_margin(
    pair: Pair,
    slides: Sequence[CohortSlide],
    centre: Features,
    progress: Progress = lambda done, slides: None,
) -> Margin:
    """How far the reduced extractor's diagnoses are from the whole one's; tiles are read once.

    centre: (E,) mean feature, of other slides
    Raises ExportError where its features are not finite.
    """
    changes = []
    for done, row in enumerate(slides):
        progress(done, len(slides))
        changes.append(_change(pair, row, centre))
    progress(len(slides), len(slides))
    return margin_of(changes)


def margin_of(changes: Sequence[SlideChange]) -> Margin:
    """The margin over some slides."""
    cosines = np.concatenate([change.cosines for change in changes])
    whole, reduced = np.stack([change.probabilities for change in changes], axis=1)  # (n, C) each
    labels = np.array([change.label for change in changes])
    before, after = (diagnosis_scores(each, labels).auc for each in (whole, reduced))
    return Margin(
        slides=len(changes),
        tiles=len(cosines),
        feature_cosine=float(cosines.mean()),
        attention_rank=float(np.mean([rank for change in changes for rank in change.ranks])),
        probability_difference=float(np.abs(whole - reduced).max()),
        auc_difference=None if before is None or after is None else after - before,
    )


def refuse_beyond(margin: Margin, precision: Precision) -> None:
    """ExportError where a diagnosis changes by more than is stated above."""
    faults = []
    if margin.feature_cosine < LEAST_COSINE:
        faults.append(f"centred cosine of features {margin.feature_cosine:.3f} < {LEAST_COSINE}")
    if margin.attention_rank < LEAST_RANK:
        faults.append(f"rank correlation of attention {margin.attention_rank:.3f} < {LEAST_RANK}")
    if margin.probability_difference > LARGEST_DIFFERENCE:
        faults.append(
            f"probabilities differ by {margin.probability_difference:.3f} > {LARGEST_DIFFERENCE}"
        )
    if faults:
        raise ExportError(
            f"{precision} changes the diagnosis of {margin.slides} validation slides too much: "
            + "; ".join(faults),
            hint="export with --precision fp32" + (" or fp16" if precision == "int8" else ""),
        )


def rank_correlation(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Spearman's; 1 where there is nothing to order, as with one tile."""
    ranks = np.stack([rankdata(one), rankdata(other)])
    spread = ranks.std(axis=1)
    if not spread.any():
        return 1.0
    return float(np.corrcoef(ranks)[0, 1]) if spread.all() else 0.0


def centred_cosines(whole: Features, reduced: Features, centre: Features) -> NDArray[np.float64]:
    """(N,) of features (N, E) without what all have in common; 1 where they are equal.

    Features are often positive, so that those of any two tiles point much the same way.
    """
    a, b = (each.astype(np.float64) - centre for each in (whole, reduced))
    products, lengths = (a * b).sum(axis=1), np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.divide(products, lengths, out=np.zeros(len(a)), where=lengths > 0)
    return np.where((whole == reduced).all(axis=1), 1.0, cosines)


def _change(pair: Pair, row: CohortSlide, centre: Features) -> SlideChange:
    def both(batch: NDArray[np.uint8]) -> Features:
        features = [graph.run({"tiles": batch})["features"] for graph in (pair.whole, pair.reduced)]
        if not np.isfinite(features[1]).all():
            raise ExportError(
                f"{row.slide_id}: features that are not finite, in fewer bits",
                hint="export with --precision fp32",
            )
        return np.concatenate(features, axis=1)  # (n, 2E)

    assert row.label is not None  # training refuses tables without labels
    with cut(row, pair.plan) as found:
        streamed = [stream_features(found.slide, tiles, both) for tiles in found.tiles]
    whole, reduced = zip(*(np.split(each, 2, axis=1) for each in streamed), strict=True)
    ours, theirs = (_diagnosis(pair.diagnosis, features) for features in (whole, reduced))
    maps = tensor_names("attention", len(pair.plan.mpp))
    return SlideChange(
        cosines=np.concatenate(
            [centred_cosines(*each, centre) for each in zip(whole, reduced, strict=True)]
        ),
        ranks=tuple(rank_correlation(ours[name], theirs[name]) for name in maps),
        probabilities=np.stack([ours["probabilities"], theirs["probabilities"]]).astype(np.float64),
        label=pair.classes.index(row.label),
    )


def _diagnosis(graph: Graph, features: Sequence[Features]) -> Arrays:
    names = [tensor.name for tensor in graph.inputs]
    return graph.run(dict(zip(names, features, strict=True)))
