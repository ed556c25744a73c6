import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagdeploy.bags.cohort import CohortSlide, read_cohort, write_cohort
from sagdeploy.bags.rows import FORMULA_STARTS, MAX_BYTES
from sagdeploy.errors import CohortError

TABLE = """\
slide_id,slide_path,label,split,patient_id,annotation_path,cells_path,mpp
s1,slides/one.svs,tumour,train,p1,one.xml,,0.25
s2,/data/two.svs,normal,validation,p2,,two.csv,
s3,slides/three.svs,normal,Test,,,,
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "cohort.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def problems(folder: Path, text: str, classes: tuple[str, ...] | None = None) -> list[str]:
    """What the error lists that reading `text` gives."""
    with pytest.raises(CohortError) as caught:
        read_cohort(written(folder, text), classes=classes)
    return str(caught.value).partition("problem")[2].partition(": ")[2].split("; ")


def test_every_column_is_read(tmp_path: Path) -> None:
    cohort = read_cohort(written(tmp_path, TABLE))
    assert cohort.slides == (
        CohortSlide(
            slide_id="s1",
            slide_path=tmp_path / "slides" / "one.svs",
            label="tumour",
            split="train",
            patient_id="p1",
            annotation_path=tmp_path / "one.xml",
            mpp=0.25,
        ),
        CohortSlide(
            slide_id="s2",
            slide_path=Path("/data/two.svs"),
            label="normal",
            split="val",
            patient_id="p2",
            cells_path=tmp_path / "two.csv",
        ),
        CohortSlide("s3", tmp_path / "slides" / "three.svs", "normal", "test", "s3"),
    )
    assert cohort.classes == ("normal", "tumour")
    assert cohort.sha256 == hashlib.sha256(TABLE.encode()).hexdigest()
    assert [slide.slide_id for slide in cohort.of_split("val")] == ["s2"]


@pytest.mark.parametrize(
    "text",
    [
        TABLE,
        "\ufeff" + TABLE,
        TABLE.replace("\n", "\r\n"),
        TABLE.replace(",", ";"),
        TABLE.replace("tumour", '" tumour "'),
        TABLE.replace("\n", "\n\n,,,,,,,\n"),
    ],
)
def test_tables_as_spreadsheets_save_them(tmp_path: Path, text: str) -> None:
    plain = read_cohort(written(tmp_path, TABLE))
    assert read_cohort(written(tmp_path, text)).slides == plain.slides


def test_given_classes_keep_their_order(tmp_path: Path) -> None:
    classes = ("tumour", "normal", "other")
    assert read_cohort(written(tmp_path, TABLE), classes=classes).classes == classes


def test_labels_are_not_needed_to_predict(tmp_path: Path) -> None:
    cohort = read_cohort(written(tmp_path, "slide_id,slide_path\ns1,a.svs\n"), need_labels=False)
    assert cohort.slides[0].label is None
    assert cohort.classes == ()


def test_every_bad_row_is_listed_with_its_line(tmp_path: Path) -> None:
    text = """\
slide_id,slide_path,label,split,patient_id,mpp
a,a.svs,x,train,p1,0.5
../b,b.svs,x,train,p2,0.5
c,,y,train,p3,0.5
d,d.svs,y,dev,p4,0.5
e,e.svs,y,train,p5,nan
f,f.svs,,train,p6,0.5
a,g.svs,y,train,p7,0.5
h,h.svs,y,test,p1,0.5
i,i.svs,z,train,p8,-1
j,j.svs,z,,p9,
k,k.svs,z,train,p10,
l,l.svs,=x,train,p11,
m,m.svs,x,train,@p12,
"""
    listed = problems(tmp_path, text, classes=("x", "y"))
    assert listed == [
        "line 3: slide_id '../b' cannot be a file name",
        "line 4: slide c has no slide_path",
        "line 5: split 'dev' is none of train, val, valid, validation, test",
        "line 6: mpp 'nan' is no positive number",
        "line 7: slide f has no label",
        "line 8: slide a is on line 2 too",
        "line 9: patient p1 is in test and in train too",
        "line 10: mpp '-1' is no positive number",
        "line 11: label 'z' is none of x, y",
        "line 11: slide j is in no split, though others are",
        "line 12: label 'z' is none of x, y",
        "line 13: label '=x' begins as a spreadsheet's formula does",
        "line 14: patient_id '@p12' begins as a spreadsheet's formula does",
    ]


def test_twenty_problems_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    rows = "".join(f"s{index},a.svs,\n" for index in range(25))
    listed = problems(tmp_path, "slide_id,slide_path,label\n" + rows)
    assert len(listed) == 21
    assert listed[-1] == "and 5 more"


def test_rows_of_another_length_are_listed(tmp_path: Path) -> None:
    listed = problems(tmp_path, "slide_id,slide_path,label\na,a.svs\nb,b.svs,x,y\nc,c.svs,x\n")
    assert listed == ["line 2: has 2 cells, the header 3", "line 3: has 4 cells, the header 3"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no column slide_id or slide_path"),
        ("slide_id,label\na,x\n", "no column slide_path"),
        ("slide_id,slide_path,label\n", "names no slide"),
        ("slide_id,slide_id,slide_path\na,a,a.svs\n", "slide_id twice"),
        ("slide_id,slide_path,label\na,a.svs,x\nb,b.svs,x\n", "every slide has the label 'x'"),
        ("slide_id,slide_path\na,\0.svs\n", "NUL"),
        ("slide_id,slide_path\na,\udcff.svs\n", "not UTF-8"),
        ('slide_id,slide_path\n"a,a.svs\n', "line 2: unexpected end"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(CohortError, match=reason):
        read_cohort(written(tmp_path, text))


def test_an_oversized_or_missing_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cohort.csv"
    with pytest.raises(CohortError, match="no such table"):
        read_cohort(path)
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(CohortError, match="over"):
        read_cohort(path)


@given(
    st.lists(st.sampled_from(["train", "val", "test"]), min_size=2, max_size=12),
    st.lists(st.integers(0, 4), min_size=12, max_size=12),
)
def test_no_patient_is_ever_in_two_splits(
    tmp_path_factory: pytest.TempPathFactory, splits: list[str], patients: list[int]
) -> None:
    slides = [
        CohortSlide(f"s{i}", Path("a.svs"), f"class {i % 2}", split, f"p{patients[i]}")
        for i, split in enumerate(splits)
    ]
    path = tmp_path_factory.mktemp("cohort") / "cohort.csv"
    write_cohort(path, slides)
    apart = len({(s.patient_id, s.split) for s in slides}) == len({s.patient_id for s in slides})
    if apart:
        assert len(read_cohort(path).slides) == len(slides)
    else:
        with pytest.raises(CohortError, match="too"):
            read_cohort(path)


names = st.text("abcXYZ019 ,;\"'=_é-", min_size=1, max_size=12).map(str.strip).filter(bool)
labels = names.filter(lambda name: not name.startswith(FORMULA_STARTS))
mpps = st.none() | st.floats(0.05, 2)


@given(st.lists(st.tuples(names, labels, mpps), min_size=1, max_size=6))
def test_a_cohort_survives_writing(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, float | None]]
) -> None:
    folder = tmp_path_factory.mktemp("cohort")
    slides = tuple(
        CohortSlide(
            slide_id=f"s{index}",
            slide_path=folder / "slides" / file,
            label=label,
            annotation_path=Path("/elsewhere") / file,
            mpp=mpp,
        )
        for index, (file, label, mpp) in enumerate(rows)
    )
    write_cohort(folder / "cohort.csv", slides)
    classes = tuple(sorted({label for _, label, _ in rows}))
    assert read_cohort(folder / "cohort.csv", classes=classes).slides == slides


def test_a_written_cohort_moves_with_its_folder(tmp_path: Path) -> None:
    here = tmp_path / "here"
    write_cohort(here / "cohort.csv", [CohortSlide("a", here / "a.svs", "x")])
    here.rename(tmp_path / "there")
    moved = read_cohort(tmp_path / "there" / "cohort.csv", classes=("x", "y"))
    assert moved.slides[0].slide_path == tmp_path / "there" / "a.svs"
