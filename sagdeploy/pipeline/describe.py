"""What the reader says of a slide, for people and machines."""

from pathlib import Path

from sagdeploy.errors import NotAnalysableError
from sagdeploy.pipeline.outcome import one_line
from sagdeploy.slides.isolation import open_isolated
from sagdeploy.slides.slide import Slide
from sagdeploy.slides.tissue import find_tissue


def describe_slide(path: Path, *, mpp: float | None, trust_mpp: bool) -> dict[str, object]:
    """Facts of a slide by name; what cannot be had says why instead of a value.

    Nothing of the vendor's free text is shown: it may name the patient.
    """
    with open_isolated(path) as slide:
        return {
            "size_l0": list(slide.size_l0),
            **_scale(slide, mpp, trust_mpp),
            "vendor": slide.vendor,
            "objective_power": slide.objective_power,
            "levels": [list(level.size) for level in slide.levels],
            "bounds_l0": list(slide.bounds_l0),
            **_tissue(slide, mpp),
        }


def _scale(slide: Slide, override: float | None, trust: bool) -> dict[str, object]:
    try:
        mpp = slide.resolve_mpp(override=override, trust=trust)
    except NotAnalysableError as error:
        return {"mpp": None, "mpp_problem": one_line(error)}
    return {"mpp": mpp.value, "mpp_source": mpp.source}


def _tissue(slide: Slide, override: float | None) -> dict[str, object]:
    try:
        return {"tissue_share": round(find_tissue(slide, _said_mpp(slide, override)).share, 4)}
    except NotAnalysableError as error:
        return {"tissue_share": 0.0, "tissue_problem": one_line(error)}


def _said_mpp(slide: Slide, override: float | None) -> float | None:
    """The slide's scale, however implausible: it is for the size of the mask alone."""
    try:
        return slide.resolve_mpp(override=override, trust=True).value
    except NotAnalysableError:
        return None
