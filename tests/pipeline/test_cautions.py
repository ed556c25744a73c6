"""How much of a slide may be missing before somebody is told, and before it is refused."""

import numpy as np
import pytest

from sagdeploy.errors import NotAnalysableError
from sagdeploy.pipeline.cautions import missing_cautions
from sagdeploy.slides.tally import PixelCount

DENSE, GRID = np.full(20, 0.9), np.array([0.0, 0.5, 0.4])


def codes(missing: int, coverage: np.ndarray = DENSE) -> list[str]:
    return [c.code for c in missing_cautions(PixelCount(1000, missing), [coverage], name="a.svs")]


def test_a_hundredth_may_be_missing_without_a_word() -> None:
    assert codes(0) == codes(10) == []
    assert codes(11) == codes(500) == ["missing_pixels"]


def test_a_slide_that_misses_more_than_half_is_refused() -> None:
    with pytest.raises(NotAnalysableError, match=r"^a\.svs: 50\.1 % of the pixels") as error:
        codes(501)
    assert error.value.hint == "copy the slide again, or rescan it"


def test_a_grid_may_miss_the_glass_that_it_keeps() -> None:
    assert codes(690, GRID) == ["missing_pixels"]
    with pytest.raises(NotAnalysableError, match=r"71\.0 %"):
        codes(710, GRID)


def test_the_message_names_the_share() -> None:
    (caution,) = missing_cautions(PixelCount(1000, 317), [DENSE], name="a.svs")
    assert caution.message.startswith("31.7 % of the pixels that were read are missing")
