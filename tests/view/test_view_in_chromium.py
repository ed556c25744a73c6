"""The viewer in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sagdeploy.errors import MissingExtraError
from sagdeploy.report.scale import COLOURS
from sagdeploy.view.site import OPENSEADRAGON, asset
from tests.page_watch import Box, Watched, box_of, watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.view.conftest import Viewer

LESION_RGB = (120, 10, 40)
HOTTEST_RGB = (int(COLOURS[255, 0]), int(COLOURS[255, 1]), int(COLOURS[255, 2]))
STAGE = ".pane .stage"


@pytest.fixture
def opened(browser: "Browser", viewer: "Viewer") -> Iterator[Watched]:
    """The viewer at its first slide, all of it loaded."""
    try:
        asset(OPENSEADRAGON)
    except MissingExtraError as error:
        pytest.skip(f"{error}: {error.hint}")
    with watched(browser) as seen:
        seen.page.goto(viewer.address)
        for pane in (1, 2):
            seen.page.wait_for_selector(f".pane:nth-child({pane})[data-loaded=case-1]")
        yield seen


def set_opacity(seen: Watched, percent: int) -> None:
    seen.page.locator("#opacity").fill(str(percent))


def boxes(seen: Watched) -> tuple[Box, Box]:
    """Where the lesion and the most attended tile are seen, in pixels of the screen."""
    seen.page.wait_for_timeout(600)  # the movement, and the tiles it asks for
    in_front = ".mark, .navigator, .legend, .bar"
    seen.page.evaluate(f"document.querySelectorAll('{in_front}').forEach((part) => part.remove())")
    set_opacity(seen, 0)
    lesion = box_of(seen.picture(STAGE), LESION_RGB, within=120)
    set_opacity(seen, 100)
    return lesion, box_of(seen.picture(STAGE), HOTTEST_RGB, within=12)


def assert_same_place(seen: Watched) -> None:
    lesion, hottest = boxes(seen)
    assert all(abs(a - b) <= 1 for a, b in zip(lesion, hottest, strict=True)), (lesion, hottest)


def test_the_overlay_sits_on_the_lesion_to_the_pixel(opened: Watched) -> None:
    assert_same_place(opened)


def test_it_still_does_after_a_step_to_the_top_tile(opened: Watched) -> None:
    opened.page.keyboard.press("n")
    assert_same_place(opened)


def test_a_step_frames_the_tile_and_says_its_share(opened: Watched) -> None:
    opened.page.keyboard.press("n")
    opened.page.wait_for_timeout(600)
    assert opened.page.locator("#rank").inner_text().startswith("Tile 1 of ")
    assert "x 336, y 224" in opened.page.locator("#place").inner_text()
    stage, mark = opened.place(STAGE), opened.place(".mark")
    np.testing.assert_allclose(mark[:2] + mark[2:] / 2, stage[:2] + stage[2:] / 2, atol=1)


def test_a_click_on_a_top_tile_goes_there_and_back_goes_back(opened: Watched) -> None:
    opened.page.locator("#tiles button").nth(1).click()
    assert opened.page.locator("#rank").inner_text().startswith("Tile 2 of ")
    opened.page.keyboard.press("p")
    assert opened.page.locator("#rank").inner_text().startswith("Tile 1 of ")


def test_two_models_are_seen_side_by_side_and_move_together(opened: Watched) -> None:
    opened.page.keyboard.press("n")
    opened.page.wait_for_timeout(800)
    first, second = (opened.place(".mark", pane) for pane in (0, 1))
    apart = opened.place(STAGE, 1)[:2] - opened.place(STAGE, 0)[:2]
    np.testing.assert_allclose(first[:2] + apart, second[:2], atol=1)
    np.testing.assert_allclose(first[2:], second[2:], atol=1)
    opened.page.keyboard.press("m")
    opened.page.keyboard.press("n")
    assert "x 784, y 448" in opened.page.locator("#place").inner_text()


def test_a_slide_without_a_diagnosis_comes_last_and_says_why(opened: Watched) -> None:
    assert opened.page.locator("#slides b").all_inner_texts() == ["case-1", "case-2"]
    opened.page.keyboard.press("j")
    assert opened.page.locator(".finding").first.inner_text() == "case-2: corrupt"


def test_the_page_turns_light_and_dark(opened: Watched) -> None:
    dark = opened.picture("#slides").mean()
    opened.page.keyboard.press("d")
    assert opened.picture("#slides").mean() > dark + 100


def test_the_report_opens_beside_it(opened: Watched) -> None:
    with opened.page.context.expect_page() as popup:
        opened.page.locator(".report").first.click()
    assert popup.value.locator("h1").inner_text() == "case-1"
    assert popup.value.evaluate("document.documentElement.className") == "js"


def test_nothing_leaves_loopback_and_the_console_is_silent(
    opened: Watched, viewer: "Viewer", slides: Path
) -> None:
    for key in ("n", "s", "o", "o", "j", "k", "0"):
        opened.page.keyboard.press(key)
    opened.page.wait_for_timeout(500)
    assert opened.complaints == []
    here = (f"http://127.0.0.1:{viewer.port}/", "data:", "blob:")
    assert all(request.startswith(here) for request in opened.requests)
    assert viewer.token not in opened.page.url
    assert "DOE_JANE" not in opened.page.content()
