import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from sagdeploy.pipeline.cautions import Caution
from sagdeploy.pipeline.predict import Prediction
from sagdeploy.report.findings import record_of
from sagdeploy.report.page import render_page
from sagdeploy.report.pictures import pictures_of
from sagdeploy.slides.slide import Slide

VOID = {"meta", "link", "img", "input", "br"}


class Outline(HTMLParser):
    """The elements of a page, and whether each is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.addresses += [given[key] or "" for key in ("src", "href", "action") if key in given]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def render(slide: Slide) -> Callable[[Prediction], str]:
    def page(prediction: Prediction) -> str:
        record = record_of(prediction, {"tiles.csv": "ab" * 32})
        pictures = pictures_of(prediction, record, slide, slide.thumbnail(500))
        return render_page(record, prediction.manifest, pictures)

    return page


@pytest.mark.parametrize("scales", [1, 3])
def test_the_page_is_well_formed_and_asks_for_nothing(
    render: Callable[[Prediction], str], make_prediction: Callable[..., Prediction], scales: int
) -> None:
    page = render(make_prediction(scales=scales))
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert len(set(outline.ids)) == len(outline.ids)
    assert all(address.startswith("data:image/") for address in outline.addresses)
    assert not re.search(r"https?://|url\(|@import", page)
    assert len(page) < 8_000_000


def test_the_page_says_what_it_is_and_is_not(
    render: Callable[[Prediction], str], prediction: Prediction
) -> None:
    page = render(prediction)
    assert "Research use only" in page
    assert "Attention shows where the model looked, not why." in page
    assert "of 60 tiles hold half of the attention" in page


@pytest.mark.parametrize(
    ("slides", "said"),
    [
        (54, "Scaled (temperature 1.5, fitted on 54 validation slides). So few"),
        (540, "Calibrated (temperature 1.5, fitted on 540 validation slides): of slides"),
    ],
)
def test_few_slides_calibrate_nobody(
    slides: int, said: str, render: Callable[[Prediction], str], prediction: Prediction
) -> None:
    card = prediction.manifest.card.model_copy(update={"slides": {"val": slides}})
    manifest = prediction.manifest.model_copy(update={"card": card})
    assert said in render(replace(prediction, manifest=manifest))


def test_without_a_temperature_the_page_says_so(
    render: Callable[[Prediction], str], make_prediction: Callable[..., Prediction]
) -> None:
    assert "Not calibrated" in render(make_prediction(temperature=1.0))


def test_text_from_outside_is_escaped(
    render: Callable[[Prediction], str], make_prediction: Callable[..., Prediction]
) -> None:
    messages = ("<img src=x onerror=alert(1)>", "$label & more")
    cautions = tuple(Caution("attention_off_tissue", message) for message in messages)
    page = render(make_prediction(warnings=cautions))
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "$label &amp; more" in page
    assert "=melanoma&lt;b&gt;" in page
    assert "melanoma<b>" not in page


def test_places_of_the_top_tiles_are_exact(
    render: Callable[[Prediction], str], prediction: Prediction
) -> None:
    mark = re.search(r'id="place-0-1"[^>]*style="([^"]*)"', render(prediction))
    assert mark is not None
    percent = dict(re.findall(r"(\w+): ([\d.]+)%", mark[1]))
    assert {side: float(value) for side, value in percent.items()} == {
        "left": 30, "top": pytest.approx(100 * 100 / 650, abs=1e-4),
        "width": 10, "height": pytest.approx(100 * 100 / 650, abs=1e-4),
    }  # fmt: skip


def test_the_hottest_tile_is_shown_as_it_lies_on_the_slide(
    slide: Slide, prediction: Prediction
) -> None:
    record = record_of(prediction, {})
    assert record.attention is not None
    top = record.attention[0].top_tiles[0]
    pixels = slide.read(top.xy_l0, (100, 100), (224, 224))
    assert (pixels == np.array([120, 10, 40])).all()
