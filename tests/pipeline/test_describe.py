"""What is told of a slide is what a diagnosis would be made with."""

from pathlib import Path

import pytest

from sagdeploy.pipeline.describe import describe_slide
from sagdeploy.slides.slide import open_slide
from sagdeploy.slides.tissue import find_tissue


@pytest.mark.parametrize(("mpp", "resolved"), [(None, 0.5), (2.0, 2.0)])
def test_tissue_is_told_at_the_scale_that_is_told(
    painted: Path, mpp: float | None, resolved: float
) -> None:
    said = describe_slide(painted, mpp=mpp, trust_mpp=False)
    with open_slide(painted) as slide:
        share = find_tissue(slide, resolved).share
        other = find_tissue(slide, 2.5 - resolved).share
    assert (said["mpp"], said["tissue_share"]) == (resolved, round(share, 4))
    assert round(share, 4) != round(other, 4)
