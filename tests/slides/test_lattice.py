import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sagdeploy.slides.lattice import Box, Floats, drawn, scattered, uniform, value_noise

boxes = st.builds(
    Box, st.integers(-90, 90), st.integers(-90, 90), st.integers(1, 70), st.integers(1, 50)
)


def test_every_lattice_point_has_its_own_number() -> None:
    x, y = np.meshgrid(np.arange(-200, 200), np.arange(-150, 150))
    numbers = uniform(x, y, seed=5, channel=1)
    assert len(np.unique(numbers)) == numbers.size
    assert abs(numbers.mean() - 0.5) < 0.005
    assert numbers.min() >= 0
    assert numbers.max() < 1


def test_seeds_and_channels_are_independent() -> None:
    x, y = np.meshgrid(np.arange(-100, 100), np.arange(-150, 150))
    one = uniform(x, y, seed=5, channel=1)
    for other in (uniform(x, y, seed=6, channel=1), uniform(x, y, seed=5, channel=2)):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02


@given(boxes, st.integers(1, 69), st.sampled_from([1, 4, 8]))
def test_a_field_drawn_in_two_parts_is_the_field_drawn_whole(box: Box, cut: int, step: int) -> None:
    def field(x: Floats, y: Floats) -> Floats:
        return value_noise(x, y, wavelength=23, seed=1, channel=2) + x - 2 * y

    whole = drawn(field, box, step)
    assert whole.shape == (box.height, box.width)
    cut = min(cut, box.width)
    left = drawn(field, Box(box.x, box.y, cut, box.height), step)
    assert (left == whole[:, :cut]).all()


def test_a_drawn_field_knows_x_from_y() -> None:
    ramp = drawn(lambda x, y: x + 100 * y, Box(3, -5, 7, 4), 2)
    y, x = np.mgrid[-5:-1, 3:10]
    np.testing.assert_allclose(ramp, x + 100 * y)


@given(boxes, boxes)
def test_boxes_share_a_part_that_both_hold(one: Box, other: Box) -> None:
    part = one.part(other)
    assert part == other.part(one)
    x, y = np.meshgrid(np.arange(-90, 160), np.arange(-90, 140))
    points = np.column_stack([x.ravel(), y.ravel()]).astype(np.float64)
    both = one.holds(points) & other.holds(points)
    assert both.sum() == (part.width * part.height if part else 0)


@given(boxes, st.floats(3, 40))
def test_points_scattered_over_a_box_are_found_from_any_part_of_it(
    box: Box, spacing: float
) -> None:
    def held(part: Box) -> set[tuple[float, ...]]:
        _, xy = scattered(part, spacing=spacing, jitter=0.4, seed=3, channel=0)
        return set(map(tuple, xy[part.holds(xy)].tolist()))

    half = box.height // 2
    parts = [
        Box(box.x, box.y, box.width, half),
        Box(box.x, box.y + half, box.width, box.height - half),
    ]
    assert held(box) == held(parts[0]) | held(parts[1])
