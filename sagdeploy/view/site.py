"""What the viewer answers, by address; of HTTP it knows no more than types of content.

Every part of an address is looked up, never joined to a path: what is not in a table here
does not exist.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sagdeploy.errors import MissingExtraError
from sagdeploy.report.overlay import encode_jpeg, fitted
from sagdeploy.report.scale import COLOURS, percentiles, shades
from sagdeploy.report.tables import AttentionMap
from sagdeploy.slides.deepzoom import TILE_PX, DeepZoom
from sagdeploy.slides.slide import Slide
from sagdeploy.view.lending import OpenSlides
from sagdeploy.view.matching import SlideFinder
from sagdeploy.view.results import Exhibit, Result

HTML, JSON, JPEG = "text/html; charset=utf-8", "application/json", "image/jpeg"
CSS, JAVASCRIPT = "text/css; charset=utf-8", "text/javascript; charset=utf-8"
OPENSEADRAGON: Final = "openseadragon.min.js"
ASSETS: Final = {
    "": ("page.html", HTML),
    "page.css": ("page.css", CSS),
    "page.js": ("page.js", JAVASCRIPT),
    "pane.js": ("pane.js", JAVASCRIPT),
    "overlay.js": ("overlay.js", JAVASCRIPT),
    OPENSEADRAGON: (OPENSEADRAGON, JAVASCRIPT),
}
"""File beside this module, and its type, by address."""

THUMBNAIL_PX, TOP_TILE_PX = 128, 256
STEPS = 200
"""Most attended tiles that can be stepped through."""

ROUTES: Final = {
    "slide": re.compile(r"(\d{1,6})/slide\.json"),
    "thumbnail": re.compile(r"(\d{1,6})/thumbnail\.jpg"),
    "tile": re.compile(r"(\d{1,6})/tiles/(\d{1,2})/(\d{1,6})_(\d{1,6})\.jpg"),
    "attention": re.compile(r"(\d{1,6})/(\d)/attention\.json"),
    "top_tile": re.compile(r"(\d{1,6})/(\d)/top/(\d)_(\d{1,2})\.jpg"),
    "report": re.compile(r"(\d{1,6})/(\d)/report\.html"),
}
"""Addresses of a slide: its number, then the number of the model, then what of it."""


class Answer(NamedTuple):
    """What is at an address."""

    kind: str
    body: bytes
    is_report: bool = False
    """A page that brings its own script, to be shut off from the viewer."""


class Site:
    """Everything that the viewer shows of some results and their slides."""

    def __init__(self, exhibits: Sequence[Exhibit], finder: SlideFinder) -> None:
        self._exhibits = exhibits
        self._finder = finder
        self._slides = OpenSlides()

    def close(self) -> None:
        """Give the slides' files back."""
        self._slides.close()

    def answer(self, address: str) -> Answer | None:
        """What is at an address, which has no leading slash; None where there is nothing.

        Raises SagError where there is something that cannot be read.
        """
        if address in ASSETS:
            name, kind = ASSETS[address]
            return Answer(kind, asset(name))
        if address == "slides.json":
            return _json([_summary(exhibit) for exhibit in self._exhibits])
        for name, route in ROUTES.items():
            if match := route.fullmatch(address):
                key, *numbers = map(int, match.groups())
                if key < len(self._exhibits):
                    answer: Answer | None = getattr(self, f"_{name}")(self._exhibits[key], *numbers)
                    return answer
        return None

    def _slide(self, exhibit: Exhibit) -> Answer | None:
        """Whether the slide was found, and how it is asked for."""
        if exhibit.slide is None:
            return None
        with self._lent(exhibit) as slide:
            found = slide is not None
        return _json({"found": found, "tile_px": TILE_PX, "colours": COLOURS.tolist()})

    def _thumbnail(self, exhibit: Exhibit) -> Answer | None:
        with self._lent(exhibit) as slide:
            return _jpeg(slide.thumbnail(THUMBNAIL_PX) if slide else _blank())

    def _tile(self, exhibit: Exhibit, level: int, column: int, row: int) -> Answer | None:
        with self._lent(exhibit) as slide:
            if slide is None:
                return None
            zoom = DeepZoom(slide.size_l0)
            if not zoom.holds(level, column, row):
                return None
            return _jpeg(zoom.read(slide, level, column, row))

    def _attention(self, exhibit: Exhibit, model: int) -> Answer | None:
        result = _done(exhibit, model)
        if result is None:
            return None
        return _json([_map(attention) for attention in result.attention()])

    def _top_tile(
        self, exhibit: Exhibit, model: int, magnification: int, rank: int
    ) -> Answer | None:
        result = _done(exhibit, model)
        attention = (result.record.attention or ()) if result else ()
        if magnification >= len(attention) or rank >= len(attention[magnification].top_tiles):
            return None
        facts = attention[magnification]
        size_px = fitted(facts.tile_size_px, TOP_TILE_PX)
        with self._lent(exhibit) as slide:
            if slide is None:
                return _jpeg(_blank())
            return _jpeg(slide.read(facts.top_tiles[rank].xy_l0, facts.tile_size_l0, size_px))

    def _report(self, exhibit: Exhibit, model: int) -> Answer | None:
        result = _done(exhibit, model)
        return Answer(HTML, result.page(), is_report=True) if result else None

    @contextmanager
    def _lent(self, exhibit: Exhibit) -> Iterator[Slide | None]:
        """The open slide of an exhibit, or None where no file is that slide."""
        slide = exhibit.slide
        path = self._finder.find(exhibit.slide_id, slide) if slide else None
        if path is None:
            yield None
            return
        with self._slides.lend(path) as lent:
            yield lent


def asset(name: str) -> bytes:
    """A file of the viewer; MissingExtraError where the installation lacks OpenSeadragon."""
    file = files("sagdeploy.view").joinpath(name)
    if name == OPENSEADRAGON and not file.is_file():
        raise MissingExtraError(
            "this installation lacks OpenSeadragon, which the build takes from npm",
            hint="install sagdeploy again where npm's registry can be reached",
        )
    return file.read_bytes()


def _done(exhibit: Exhibit, model: int) -> Result | None:
    """What a model found on a slide; None where it found nothing."""
    result = exhibit.results[model] if model < len(exhibit.results) else None
    return result if result and result.record.status == "done" else None


def _summary(exhibit: Exhibit) -> dict[str, Any]:
    """What the list of slides shows of one."""
    slide = exhibit.slide
    return {
        "slide_id": exhibit.slide_id,
        "size_l0": slide and slide.size_l0,
        "mpp": slide and slide.mpp.value,
        "results": [result and _finding(result) for result in exhibit.results],
    }


def _finding(result: Result) -> dict[str, Any]:
    record = result.record
    model, found = record.model, record.prediction
    return {
        "status": record.status,
        "message": record.error.message if record.error else "",
        "warnings": [caution.message for caution in record.warnings],
        "model": f"{model.name} {model.version}" if model else "",
        "guidance": model.guidance if model else (),
        "label": found.label if found else "",
        "probabilities": found.probabilities if found else {},
        "calibrated": bool(found and found.calibrated),
        "on_tissue": [each.on_tissue for each in record.attention or ()],
        "top_tiles": [len(each.top_tiles) for each in record.attention or ()],
    }


def _map(attention: AttentionMap) -> dict[str, Any]:
    """The tiles of one magnification, with their place on both scales of colour."""
    order = np.argsort(-attention.attention, kind="stable")[:STEPS]
    return {
        "mpp": attention.mpp,
        "size_l0": attention.size_l0,
        "xy_l0": attention.xy_l0.tolist(),
        "shades": {
            "percentile": shades(attention.attention, "percentile").tolist(),
            "raw": shades(attention.attention, "raw").tolist(),
        },
        "tiles": len(attention.attention),
        "top": [
            {"row": row, "attention": value, "percentile": percentile}
            for row, value, percentile in zip(
                order.tolist(),
                attention.attention[order].tolist(),
                percentiles(attention.attention)[order].tolist(),
                strict=True,
            )
        ],
    }


def _blank() -> NDArray[np.uint8]:
    """Stands for a slide that was not found."""
    return np.full((3, 4, 3), 128, np.uint8)


def _json(value: Any) -> Answer:
    return Answer(JSON, json.dumps(value, allow_nan=False).encode())


def _jpeg(rgb: NDArray[np.uint8]) -> Answer:
    return Answer(JPEG, encode_jpeg(rgb, quality=88))
