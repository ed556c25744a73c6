import numpy as np
import torch
from numpy.typing import NDArray

from sagdeploy.models.stain import FEATURES, StainTexture, filters, unmixing
from sagdeploy.slides.painting import plan_painting

SIZE = (96, 80)  # height, width: no axis can be swapped


def paint(
    nuclei: int, *, radius: int = 5, colour: tuple[int, int, int] = (90, 60, 140), seed: int = 0
) -> NDArray[np.uint8]:
    """Pink tissue with so many dark round nuclei."""
    generator = np.random.default_rng(seed)
    tile = np.full((*SIZE, 3), (235, 175, 205), np.uint8)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for _ in range(nuclei):
        at_y, at_x = generator.integers(0, SIZE)
        tile[(y - at_y) ** 2 + (x - at_x) ** 2 <= radius**2] = colour
    return tile


def describe(*tiles: NDArray[np.uint8]) -> torch.Tensor:
    pixels = torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2).float()
    out: torch.Tensor = StainTexture()(pixels)
    return out


def test_features_are_finite_and_of_order_one_for_any_tile() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    white, black = np.full_like(noise, 255), np.zeros_like(noise)
    out = describe(paint(12), noise, white, black)
    assert out.shape == (4, FEATURES)
    assert out.isfinite().all()
    assert out[0].abs().max() < 10
    assert out[2].abs().max() < 0.2  # nothing on glass


def test_more_darker_and_larger_nuclei_are_seen() -> None:
    few, many = describe(paint(4), paint(20))
    large, dark = describe(paint(4, radius=9), paint(4, colour=(60, 30, 110)))
    mean_haematoxylin = 3
    for stronger in (many, large, dark):
        assert stronger[mean_haematoxylin] > few[mean_haematoxylin]
    assert (few - large).abs().max() > 0.3
    assert (few - dark).abs().max() > 0.3


def test_features_hardly_depend_on_where_nuclei_lie() -> None:
    tile = paint(10)
    here, mirrored = describe(tile, np.ascontiguousarray(tile[:, ::-1]))
    torch.testing.assert_close(here, mirrored, atol=0.02, rtol=0.02)


def test_pure_stains_are_told_apart() -> None:
    haematoxylin = torch.tensor([0.650, 0.704, 0.286])
    amounts = unmixing() @ (haematoxylin / haematoxylin.norm())
    torch.testing.assert_close(amounts, torch.tensor([1.0, 0.0, 0.0]), atol=1e-6, rtol=0)


def test_filters_ignore_a_flat_tile() -> None:
    assert filters().sum(dim=(1, 2)).abs().max() < 1e-6


def painted_tiles(grade: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of 4 tiles within the lesion of a painted slide, and of others far from it."""
    painting = plan_painting(seed=seed, size_l0=(2592, 1904), mpp=0.5, grade=grade, pen=None)
    lesion = painting.anatomy.lesion.vertices
    x, y = lesion.mean(axis=0).astype(int).tolist()
    inside = [(x + dx, y + dy) for dx in (-224, 0) for dy in (-224, 0)]
    grid = [(x, y) for y in range(0, 1680, 224) for x in range(0, 2368, 224)]
    apart = [xy for xy in grid if np.abs(lesion - xy - 112).max(axis=1).min() > 336]
    here, there = (
        describe(*(painting.region(xy, (224, 224)) for xy in places))
        for places in (inside, apart[::9])
    )
    return here, there


def test_painted_lesions_of_the_two_classes_lie_apart_and_other_tissue_does_not() -> None:
    mild, calm = map(torch.cat, zip(*(painted_tiles(0.0, seed) for seed in (1, 2)), strict=True))
    severe, quiet = map(torch.cat, zip(*(painted_tiles(1.0, seed) for seed in (3, 4)), strict=True))
    gap = (mild.mean(dim=0) - severe.mean(dim=0)).abs() / (mild.std(dim=0) + severe.std(dim=0))
    other = (calm.mean(dim=0) - quiet.mean(dim=0)).abs() / (calm.std(dim=0) + quiet.std(dim=0))
    assert gap.sort().values[-10:].min() > 1.5
    assert other.median() < 0.5
