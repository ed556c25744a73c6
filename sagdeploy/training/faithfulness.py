"""Whether a diagnosis depends on where the attention lies: tiles are taken away, and it is watched.

Insertion keeps only the tiles of highest attention, deletion only the others. What is followed
is the probability of the class that the model gives to the whole slide, as the share of tiles
kept or taken grows; the area under it, over that share, is compared with tiles in random order.
No mask and no label is needed. A map can lie where the pathologist points and still fail here.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sagdeploy.training.batch import collate
from sagdeploy.training.calibration import calibrated
from sagdeploy.training.dataset import LabelledBag
from sagdeploy.training.inference import BagPrediction, evaluating
from sagdeploy.training.metrics import mean_of

SHARES = (0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99)
"""Of the tiles, kept or taken away; symmetric, so that keeping one is taking the other."""

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FaithfulnessScores:
    """What the attention of one slide says about the diagnosis."""

    deletion_area: float | None
    """Mean probability of the diagnosis while the tiles of highest attention are taken away."""

    insertion_area: float | None
    """The same while they are put back."""

    deletion_gain: float | None
    """How much lower the first area is than that of tiles in random order; 0 says nothing."""

    insertion_gain: float | None
    """How much higher the second is than that of tiles in random order."""


FAITHFULNESS_METRICS = tuple(field.name for field in fields(FaithfulnessScores))
UNKNOWN: Final = FaithfulnessScores(None, None, None, None)


def faithfulness(
    model: nn.Module,
    bag: LabelledBag,
    prediction: BagPrediction,
    *,
    temperature: float,
    seed: int,
) -> FaithfulnessScores:
    """What a model makes of parts of a slide, by attention and in one random order.

    prediction: of the whole slide
    seed:       the random order follows from it and the slide's id, whatever the model
    Takes 3 * len(SHARES) passes of the model over the bag.
    """
    diagnosis = int(prediction.logits.argmax())
    rng = np.random.default_rng([seed, zlib.crc32(bag.slide_id.encode())])
    ranks = [_ranks(attention, rng) for attention in prediction.attention]
    reverse = [len(each) - 1 - each for each in ranks]
    random = [rng.permutation(len(each)) for each in ranks]

    def kept(order: Sequence[NDArray[np.intp]]) -> Float64:
        """Probability of the diagnosis with each of SHARES of the tiles, first ranks first."""
        logits = _logits_of_parts(model, bag, order)
        return calibrated(logits, temperature)[:, diagnosis]

    whole = float(calibrated(prediction.logits[None], temperature)[0, diagnosis])
    by_chance = kept(random)
    insertion, insertion_chance = _area(kept(ranks), whole), _area(by_chance, whole)
    # taking the first share away leaves the last ones: SHARES are symmetric
    deletion = _area(kept(reverse), whole)
    return FaithfulnessScores(
        deletion_area=deletion,
        insertion_area=insertion,
        deletion_gain=insertion_chance - deletion,
        insertion_gain=insertion - insertion_chance,
    )


def mean_faithfulness(scores: Iterable[FaithfulnessScores]) -> FaithfulnessScores:
    """Mean of each score over the slides, or seeds, that have it."""
    rows = [asdict(row) for row in scores]
    return FaithfulnessScores(
        **{name: mean_of(row[name] for row in rows) for name in FAITHFULNESS_METRICS}
    )


def _ranks(attention: Float64, rng: np.random.Generator) -> NDArray[np.intp]:
    """Place of each tile in the order of falling attention: (N,), equal ones in any order."""
    ranks = np.empty(len(attention), np.intp)
    order = np.lexsort((rng.permutation(len(attention)), -attention))
    ranks[order] = np.arange(len(attention))
    return ranks


def _logits_of_parts(
    model: nn.Module, bag: LabelledBag, ranks: Sequence[NDArray[np.intp]]
) -> Float64:
    """(len(SHARES), C) what a model says where only the tiles of the first ranks are there."""
    batch = collate([bag])
    rows = []
    with evaluating(model):
        for share in SHARES:
            is_tile = tuple(_first(each, share) for each in ranks)
            rows.append(model(batch.features, is_tile).logits[0].double().numpy())
    return np.stack(rows)


def _first(ranks: NDArray[np.intp], share: float) -> Tensor:
    """bool (1, N): the first share of the ranks, at least one."""
    return torch.from_numpy(ranks < max(1, round(share * len(ranks))))[None]


def _area(probabilities: Float64, whole: float) -> float:
    """Mean height of the curve over the share of tiles, from the smallest of SHARES to all."""
    shares = np.array([*SHARES, 1.0])
    heights = np.append(probabilities, whole)
    return float(np.trapezoid(heights, shares) / (shares[-1] - shares[0]))
