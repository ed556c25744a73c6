"""Open slides are shared, bounded, and never closed while they are read."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sagdeploy.errors import SlideError
from sagdeploy.view.lending import KEPT, OpenSlides


def test_a_slide_is_opened_once_for_many_readers(painted: Path) -> None:
    slides = OpenSlides()
    with slides.lend(painted) as first, slides.lend(painted) as second:
        assert first is second
    with slides.lend(painted) as third:
        assert third is first
    slides.close()


def test_many_readers_of_many_slides_all_get_their_pixels(painted: Path, tmp_path: Path) -> None:
    paths = [Path(shutil.copy(painted, tmp_path / f"{n}.tiff")) for n in range(KEPT + 3)]
    slides = OpenSlides()

    def read(path: Path) -> bytes:
        with slides.lend(path) as slide:
            return slide.read((64, 32), (512, 256), (128, 64)).tobytes()

    with ThreadPoolExecutor(8) as pool:
        pixels = set(pool.map(read, paths * 6))
    slides.close()
    assert len(pixels) == 1


def test_the_longest_unused_are_closed(painted: Path, tmp_path: Path) -> None:
    paths = [Path(shutil.copy(painted, tmp_path / f"{n}.tiff")) for n in range(KEPT + 1)]
    slides = OpenSlides()
    lent = []
    for path in paths:
        with slides.lend(path) as slide:
            lent.append(slide)
    with slides.lend(paths[-1]) as newest, slides.lend(paths[0]) as oldest:
        assert newest is lent[-1]
        assert oldest is not lent[0]
    slides.close()


def test_a_slide_in_use_outlives_the_end(painted: Path) -> None:
    slides = OpenSlides()
    with slides.lend(painted) as slide:
        slides.close()
        assert np.ptp(slide.thumbnail(64)) > 0


def test_a_slide_that_failed_is_opened_anew(painted: Path) -> None:
    slides = OpenSlides()
    with pytest.raises(SlideError), slides.lend(painted) as broken:
        raise SlideError("as OpenSlide does")
    with slides.lend(painted) as fresh:
        assert fresh is not broken
    slides.close()
