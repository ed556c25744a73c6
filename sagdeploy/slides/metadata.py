"""What a slide's metadata say, read with suspicion: its scale, its glass, its scanned part."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sagdeploy.errors import ConfigError, NotAnalysableError

MPP_RANGE = (0.05, 2.0)
"""Microns per pixel of any scan that can be diagnosed from; 0.25 is about 40x."""

DISAGREEMENT = 0.05
"""Two statements of one scale that differ by a larger share contradict each other."""

WHITE = (255, 255, 255)
HINT = "give the scanner's true value: predict --mpp 0.25, or the column mpp of a table of slides"

MppSource = Literal["metadata", "option", "cohort"]


@dataclass(frozen=True, slots=True)
class Mpp:
    """Microns per level-0 pixel, and where the figure comes from."""

    value: float
    source: MppSource
    metadata: float | None
    """Mean of what the file says of x and y; None where it says nothing that can be used."""

    @property
    def contradicts(self) -> bool:
        """Whether a value given by hand differs from the file's by more than 5 %."""
        return self.metadata is not None and _differ(self.value, self.metadata)


def resolve_mpp(
    metadata_xy: tuple[str | None, str | None],
    *,
    name: str,
    override: float | None = None,
    source: MppSource = "option",
    trust: bool = False,
) -> Mpp:
    """Microns per pixel of the slide `name`: `override`, else what its metadata says of x and y.

    Never guessed from the objective's power. `trust` admits what is implausible, but positive.
    Raises NotAnalysableError where the metadata will not do, ConfigError where `override` won't.
    """
    x, y = (positive(text) for text in metadata_xy)
    metadata = None if x is None or y is None else (x + y) / 2
    if override is not None:
        check_mpp(override, name=name, trust=trust)
        return Mpp(override, source, metadata)
    if metadata_xy == (None, None):
        raise NotAnalysableError(f"{name}: no microns per pixel in the metadata", hint=HINT)
    said = " and ".join(repr(text) for text in metadata_xy)
    if x is None or y is None or metadata is None:
        raise NotAnalysableError(
            f"{name}: the metadata's microns per pixel cannot be read: {said}", hint=HINT
        )
    if not trust and (_differ(x, y) or not _plausible(metadata)):
        raise NotAnalysableError(
            f"{name}: the metadata's microns per pixel are not plausible: {said}", hint=HINT
        )
    return Mpp(metadata, "metadata", metadata)


def check_mpp(value: float, *, name: str, trust: bool = False) -> None:
    """Refuse, by a ConfigError that names `name`, microns per pixel that no scan has."""
    if not (0 < value < math.inf and (trust or _plausible(value))):
        raise ConfigError(
            f"{name}: {value:g} is not a plausible number of microns per pixel",
            hint="most slides have 0.2 to 0.5, and 0.05 to 2 is allowed",
        )


def background_rgb(text: str) -> tuple[int, int, int]:
    """The colour of empty glass; white where the file says nothing, or something dark."""
    if not re.fullmatch("[0-9a-fA-F]{6}", text):
        return WHITE
    red, green, blue = bytes.fromhex(text)
    return (red, green, blue) if min(red, green, blue) >= 128 else WHITE


def bounds_l0(said: Mapping[str, str], size_l0: tuple[int, int]) -> tuple[int, int, int, int]:
    """(x, y, width, height) of what was scanned; the whole slide where the file is silent."""
    width, height = size_l0
    texts = [said.get(f"openslide.bounds-{side}", "") for side in ("x", "y", "width", "height")]
    if not all(re.fullmatch(r"\d{1,9}", text) for text in texts):
        return (0, 0, width, height)
    x, y, across, down = map(int, texts)
    across, down = min(across, width - x), min(down, height - y)
    return (x, y, across, down) if across > 0 and down > 0 else (0, 0, width, height)


def centre_offset_nm(said: Mapping[str, str]) -> tuple[float, float] | None:
    """(x, y) of the scan's centre on the glass, in which NDP.view notes places; else None."""
    texts = [said.get(f"hamamatsu.{axis}OffsetFromSlideCentre", "") for axis in "XY"]
    if not all(re.fullmatch(r"-?\d{1,9}", text) for text in texts):
        return None
    return float(texts[0]), float(texts[1])


def positive(text: str | None) -> float | None:
    """The positive, finite number that a property of a slide states, or None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < math.inf else None


def _plausible(mpp: float) -> bool:
    return MPP_RANGE[0] <= mpp <= MPP_RANGE[1]


def _differ(a: float, b: float) -> bool:
    return abs(a - b) > DISAGREEMENT * min(a, b)
