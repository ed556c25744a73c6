"""Why a diagnosis should be looked at twice, and from where on there is better none."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sagdeploy.errors import NotAnalysableError
from sagdeploy.slides.metadata import Mpp
from sagdeploy.slides.tally import PixelCount

MISSING_NOTED = 0.01
"""Share of missing pixels that is passed over: less than one tile in a hundred."""

MISSING_MOST = 0.5
"""Share of missing pixels that is borne: beyond it, most of what the model is shown is no slide."""

CautionCode = Literal["mpp_contradicts", "attention_off_tissue", "missing_pixels"]


@dataclass(frozen=True, slots=True)
class Caution:
    """Why a diagnosis should be looked at twice."""

    code: CautionCode
    message: str


def scale_cautions(mpp: Mpp) -> Iterator[Caution]:
    """A caution where the scale that was given is not the slide's own."""
    if mpp.contradicts:
        yield Caution(
            "mpp_contradicts",
            f"mpp {mpp.value:g} was given; the slide's metadata say {mpp.metadata:g}",
        )


def missing_cautions(
    read: PixelCount, coverages: Iterable[NDArray[np.float64]], *, name: str
) -> Iterator[Caution]:
    """A caution where pixels are missing; NotAnalysableError where too many are.

    Glass that a scanner has left out is no reason to refuse the crops of a grid, which keep it.

    read:      of the tiles
    coverages: share of each tile on tissue
    name:      of the slide
    """
    share = read.missing_share
    glass = 1 - float(np.concatenate([*coverages]).mean())
    said = f"{100 * share:.1f} % of the pixels that were read are missing from the file"
    if share > max(MISSING_MOST, glass):
        raise NotAnalysableError(f"{name}: {said}", hint="copy the slide again, or rescan it")
    if share > MISSING_NOTED:
        yield Caution(
            "missing_pixels", f"{said}: never scanned, or lost; they were taken for glass"
        )


def off_tissue_cautions(
    attention: Iterable[NDArray[np.float32]],
    coverages: Iterable[NDArray[np.float64]],
    floor: float | None,
) -> Iterator[Caution]:
    """A caution where less attention is on tissue than on any slide that validated the model.

    floor: the least of those slides; None where nobody measured it
    """
    magnifications = zip(attention, coverages, strict=True)
    least = min(float(weights @ coverage) for weights, coverage in magnifications)
    if floor is not None and least < floor:
        yield Caution(
            "attention_off_tissue",
            f"only {100 * least:.0f} % of the attention is on tissue; at least {100 * floor:.0f} %"
            " is expected from the model's validation: look at the map before the diagnosis",
        )
