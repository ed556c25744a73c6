"""A page of a real browser that remembers what should not have happened, and finds colours."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Box = tuple[int, int, int, int]
"""First and last column, first and last row."""


@dataclass
class Watched:
    """A page, what it asked for, and what it complained of."""

    page: "Page"
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def place(self, selector: str, number: int = 0) -> NDArray[np.float64]:
        """x, y, width, height of an element on the screen."""
        box = self.page.locator(selector).nth(number).bounding_box()
        assert box, f"{selector} is not seen"
        return np.array([box["x"], box["y"], box["width"], box["height"]])

    def picture(self, selector: str) -> NDArray[np.int64]:
        """(h, w, 3) of an element as it is seen."""
        png = self.page.locator(selector).first.screenshot()
        return np.asarray(Image.open(BytesIO(png)).convert("RGB")).astype(np.int64)


@contextmanager
def watched(
    browser: "Browser", *, width: int = 1280, height: int = 800, dark: bool = True
) -> Iterator[Watched]:
    """A fresh page with no cookies."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
    )
    context.set_default_timeout(10_000)
    seen = Watched(context.new_page())
    seen.page.on("console", lambda message: seen.complaints.append(message.text))
    seen.page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    seen.page.on("request", lambda request: seen.requests.append(request.url))
    yield seen
    context.close()


def box_of(picture: NDArray[np.int64], rgb: tuple[int, int, int], *, within: int) -> Box:
    """Where the pixels lie that differ by less than `within` from a colour, channels summed."""
    rows, columns = np.nonzero(np.abs(picture - rgb).sum(axis=-1) < within)
    assert len(rows), f"no pixel is {rgb}"
    return int(columns.min()), int(columns.max()), int(rows.min()), int(rows.max())
