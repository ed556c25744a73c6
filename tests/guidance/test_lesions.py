import numpy as np
import pytest
import shapely
from shapely import MultiPolygon

from sagdeploy.guidance.lesions import NONE, find_lesions

MPP = 0.5  # 37.5 um are 75 pixels


def square(x: float, y: float, side_um: float) -> shapely.Polygon:
    """A square by its top left in pixels and its side in microns."""
    return shapely.box(x, y, x + side_um / MPP, y + side_um / MPP)


def test_regions_nearer_than_75_um_are_one_lesion() -> None:
    near = MultiPolygon([square(1000, 700, 300), square(1740, 700, 300)])  # 140 pixels apart
    far = MultiPolygon([square(1000, 700, 300), square(1760, 700, 300)])
    assert len(find_lesions(near, slide_mpp=MPP).outlines) == 1
    assert len(find_lesions(far, slide_mpp=MPP).outlines) == 2


@pytest.mark.parametrize(("diameter_um", "is_isolated"), [(198, True), (202, False)])
def test_less_than_200_um_are_isolated_tumour_cells(diameter_um: float, is_isolated: bool) -> None:
    disc = shapely.Point(2000, 900).buffer(diameter_um / 2 / MPP, quad_segs=64)
    lesions = find_lesions(MultiPolygon([disc]), slide_mpp=MPP)
    assert lesions.is_isolated.tolist() == [is_isolated]


def test_the_longest_diameter_counts() -> None:
    thin = shapely.box(1000, 700, 1010, 700 + 210 / MPP)
    assert not find_lesions(MultiPolygon([thin]), slide_mpp=MPP).is_isolated.any()


def test_a_hole_is_part_of_its_lesion() -> None:
    ring = square(1000, 700, 400).difference(square(1300, 1000, 100))
    lesions = find_lesions(MultiPolygon([ring]), slide_mpp=MPP)
    assert lesions.at(np.array([[1400.0, 1100.0]])).tolist() == [0]


def test_a_point_is_on_its_lesion_up_to_37_um_beyond_the_outline() -> None:
    regions = MultiPolygon([square(1000, 700, 300), square(3000, 2100, 300)])
    lesions = find_lesions(regions, slide_mpp=MPP)
    points = np.array([[926.0, 800], [924.0, 800], [3100, 2200], [800, 1000]])
    at = lesions.at(points)
    assert at[1] == at[3] == NONE
    assert at[0] != at[2]
    assert lesions.outlines[at[0]].contains(shapely.Point(1100, 800))


def test_no_region_is_no_lesion() -> None:
    lesions = find_lesions(MultiPolygon(), slide_mpp=MPP)
    assert lesions.outlines == ()
    assert lesions.at(np.array([[5.0, 7.0]])).tolist() == [NONE]
