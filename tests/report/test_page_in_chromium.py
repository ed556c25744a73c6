"""The report in a real browser, opened from its file."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sagdeploy.pipeline.predict import Prediction
from sagdeploy.report.folder import write_results
from sagdeploy.report.scale import COLOURS
from sagdeploy.slides.slide import Slide
from tests.page_watch import Watched, box_of, watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LESION_RGB, STAGE = (120, 10, 40), ".viewer .stage"
HOTTEST_RGB = (int(COLOURS[255, 0]), int(COLOURS[255, 1]), int(COLOURS[255, 2]))


@pytest.fixture
def opened(
    browser: "Browser", prediction: Prediction, slide: Slide, tmp_path: Path
) -> Iterator[Watched]:
    write_results(prediction, slide, tmp_path / "s")
    with watched(browser, dark=False) as seen:
        seen.page.goto((tmp_path / "s" / "report.html").as_uri())
        seen.page.locator("#places").uncheck()
        yield seen


def test_the_overlay_sits_on_the_lesion_to_the_pixel(opened: Watched) -> None:
    opened.page.locator("#opacity").fill("0")
    lesion = box_of(opened.picture(STAGE), LESION_RGB, within=120)
    opened.page.locator("#opacity").fill("100")
    hottest = box_of(opened.picture(STAGE), HOTTEST_RGB, within=12)
    assert all(abs(a - b) <= 1 for a, b in zip(lesion, hottest, strict=True)), (lesion, hottest)


def test_the_slider_fades_the_map_over_the_slide(opened: Watched) -> None:
    shown = []
    for percent in ("100", "50", "0"):
        opened.page.locator("#opacity").fill(percent)
        shown.append(opened.picture(STAGE).mean(axis=(0, 1)))
    np.testing.assert_allclose(shown[1], (shown[0] + shown[2]) / 2, atol=2)


def test_a_click_on_a_top_tile_goes_there(opened: Watched) -> None:
    opened.page.locator("#places").check()
    opened.page.locator(".tiles figure").nth(6).click()
    stage, mark = opened.place(STAGE), opened.place("#place-0-7")
    assert mark[0] + mark[2] / 2 == pytest.approx(stage[0] + stage[2] / 2, abs=2)
    assert mark[2] == pytest.approx(stage[2] / 5, rel=0.05)
    assert stage[1] <= mark[1] + 1
    assert mark[1] + mark[3] <= stage[1] + stage[3] + 1
    opened.page.locator("#reset").click()
    assert opened.place("#place-0-7")[2] == pytest.approx(stage[2] / 10, rel=0.05)


def test_it_asks_nothing_of_anyone_and_the_console_is_silent(opened: Watched) -> None:
    opened.page.locator("#scale").select_option("raw")
    opened.page.locator(".tiles figure").first.hover()
    assert opened.complaints == []
    assert all(request.startswith(("file:///", "data:")) for request in opened.requests)


def test_it_fits_the_width_of_small_and_large_screens(
    browser: "Browser", prediction: Prediction, slide: Slide, tmp_path: Path
) -> None:
    write_results(prediction, slide, tmp_path / "s")
    for width in (480, 1280, 1920):
        with watched(browser, width=width) as seen:
            seen.page.goto((tmp_path / "s" / "report.html").as_uri())
            assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
