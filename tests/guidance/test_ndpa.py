"""NDP.view's nanometres from the middle of the glass become pixels of the slide."""

from pathlib import Path

import pytest

from sagdeploy.errors import AnnotationError
from sagdeploy.guidance.ndpa import read_ndpa_cells
from sagdeploy.slides.metadata import centre_offset_nm

SIZE_L0 = (2400, 1600)
OFFSET_NM = (1_000_000.0, -3_000_000.0)

NDPA = """<?xml version="1.0" encoding="utf-8" standalone="yes"?>
<annotations>
 <ndpviewstate id="1"><title>cell</title><coordformat>nanometers</coordformat>
  <lens>20.0</lens><x>9</x><y>9</y><z>0</z>
  <annotation type="pin" displayname="AnnotatePin" color="#ff0000"><x>1000000</x><y>-3000000</y>
  </annotation></ndpviewstate>
 <ndpviewstate id="2"><title>cell</title>
  <annotation type="circle" displayname="AnnotateCircle" color="#ff0000">
   <x>1100000</x><y>-3050000</y><radius>5000</radius></annotation></ndpviewstate>
 <ndpviewstate id="3"><title>cell</title>
  <annotation type="freehand" displayname="AnnotateFreehand" color="#ff0000"><pointlist>
   <point><x>900000</x><y>-2900000</y></point><point><x>920000</x><y>-2900000</y></point>
   <point><x>920000</x><y>-2860000</y></point><point><x>900000</x><y>-2860000</y></point>
  </pointlist></annotation></ndpviewstate>
</annotations>
"""


def read(path: Path, offset_nm: tuple[float, float] | None = OFFSET_NM) -> list[list[float]]:
    found = read_ndpa_cells(path, size_l0=SIZE_L0, slide_mpp=0.25, centre_offset_nm=offset_nm)
    cells: list[list[float]] = found.tolist()
    return cells


def written(folder: Path, text: str) -> Path:
    path = folder / "a.ndpa"
    path.write_text(text, encoding="utf-8")
    return path


def test_pins_circles_and_outlines_become_centres(tmp_path: Path) -> None:
    assert read(written(tmp_path, NDPA)) == [[1200, 800], [1600, 600], [840, 1280]]


def test_without_the_scan_s_place_on_the_glass_there_is_no_place(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="where on the glass") as caught:
        read(written(tmp_path, NDPA), None)
    assert ".ndpi" in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("</annotations>", "", "not valid XML"),
        ("<annotations>", '<!DOCTYPE a [<!ENTITY x "y">]><annotations>', "unsafe"),
        ("1100000", "nan", "lies on no slide"),
        ("1100000", "9e99", "lies on no slide"),
        ("1100000", "here", "annotation 2 holds .*here"),
        ("<x>1100000</x>", "", "annotation 2 is neither a point nor an outline"),
    ],
)
def test_what_cannot_be_places_is_refused_by_name(
    tmp_path: Path, old: str, new: str, reason: str
) -> None:
    path = written(tmp_path, NDPA.replace(old, new))
    with pytest.raises(AnnotationError, match=reason) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_the_offset_is_read_whole_or_not_at_all() -> None:
    said = {"hamamatsu.XOffsetFromSlideCentre": "-1500", "hamamatsu.YOffsetFromSlideCentre": "7"}
    assert centre_offset_nm(said) == (-1500, 7)
    assert centre_offset_nm({"hamamatsu.XOffsetFromSlideCentre": "-1500"}) is None
    assert centre_offset_nm(said | {"hamamatsu.YOffsetFromSlideCentre": "1e3"}) is None
