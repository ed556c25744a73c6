"""Tables of CLAM, STAMP, TRIDENT and Camelyon16 make one cohort, and no row is lost in silence."""

from pathlib import Path

import pytest

from sagdeploy.bags.cohort import CohortSlide, read_cohort
from sagdeploy.bags.tables import read_tables
from sagdeploy.errors import CohortError


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


CLAM = "case_id,slide_id,label\np1,s1,tumor\np1,s2,tumor\np2,s3,normal\np3,s4,normal\n"


def splits_of(path: Path, splits: Path) -> dict[str, str | None]:
    return {slide.slide_id: slide.split for slide in read_tables(path, splits=splits).slides}


def test_clam_s_table_names_patients_and_no_files(tmp_path: Path) -> None:
    cohort = read_tables(written(tmp_path, "clam.csv", CLAM))
    assert cohort.slides[1] == CohortSlide("s2", None, "tumor", patient_id="p1")
    assert cohort.classes == ("normal", "tumor")
    with pytest.raises(CohortError, match="no slide_path"):
        cohort.slides[1].located()


def test_extraction_needs_files(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="no column slide_path"):
        read_cohort(written(tmp_path, "clam.csv", CLAM), need_labels=False)


@pytest.mark.parametrize(
    "text",
    [
        ",train,val,test\n0,s1,s4,s3\n1,s2,,\n",
        ",train,val,test\ns1,True,False,False\ns2,True,False,False\n"
        "s4,False,True,False\ns3,False,False,True\n",
    ],
)
def test_clam_s_splits_come_as_ids_or_as_truths(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, "clam.csv", CLAM)
    expected = {"s1": "train", "s2": "train", "s3": "test", "s4": "val"}
    assert splits_of(path, written(tmp_path, "splits_0.csv", text)) == expected


def test_a_slide_that_only_one_table_has_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, "clam.csv", CLAM)
    splits = written(tmp_path, "splits_0.csv", ",train,val,test\n0,s1,s9,s3\n")
    cohort = read_tables(path, splits=splits)
    assert [slide.slide_id for slide in cohort.slides] == ["s1", "s3"]
    assert cohort.left_out == (
        "clam.csv line 3: slide s2 is not in splits_0.csv",
        "clam.csv line 5: slide s4 is not in splits_0.csv",
        "splits_0.csv: slide s9 is not in clam.csv",
    )


def test_other_splits_make_another_cohort(tmp_path: Path) -> None:
    path = written(tmp_path, "clam.csv", CLAM)
    one = written(tmp_path, "splits_0.csv", ",train,val,test\n0,s1,,s3\n")
    two = written(tmp_path, "splits_1.csv", ",train,val,test\n0,s3,,s1\n")
    hashes = {read_tables(path, splits=splits).sha256 for splits in (one, two, None)}
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("splits", "reason"),
    [
        (",train,val,test\n0,s1,s1,s3\n", "slide s1 is in val and in train"),
        (",train,val,test\n0,s1,s2,s3\n", "patient p1 is in val and in train too"),
        (",train,test\n0,s1,s3\n", "no column val"),
    ],
)
def test_splits_that_leak_or_lack_are_refused(tmp_path: Path, splits: str, reason: str) -> None:
    with pytest.raises(CohortError, match=reason):
        read_tables(
            written(tmp_path, "clam.csv", CLAM),
            splits=written(tmp_path, "splits_0.csv", splits),
        )


def test_splits_do_not_overrule_the_cohort_s_own(tmp_path: Path) -> None:
    own = written(tmp_path, "own.csv", "slide_id,label,split\na,x,train\nb,y,test\n")
    splits = written(tmp_path, "splits_0.csv", ",train,val,test\n0,b,,a\n")
    with pytest.raises(CohortError, match="2 problems") as caught:
        read_tables(own, splits=splits)
    assert "line 2: slide a is in train, but in test of --splits" in str(caught.value)


CLINI = "PATIENT,isMSIH,age\np1,MSIH,50\np2,nonMSIH,60\np3,,70\np4,MSIH,80\n"
SLIDES = "PATIENT,FILENAME\np1,a.h5\np1,b.h5\np2,c.h5\np3,d.h5\np9,e.h5\n"


def test_stamp_s_tables_are_joined_by_patient_and_every_dropped_row_is_told(
    tmp_path: Path,
) -> None:
    cohort = read_tables(
        written(tmp_path, "clini.csv", CLINI),
        slide_table=written(tmp_path, "slide.csv", SLIDES),
        label="isMSIH",
    )
    found = [(slide.slide_id, slide.patient_id, slide.label) for slide in cohort.slides]
    assert found == [("a", "p1", "MSIH"), ("b", "p1", "MSIH"), ("c", "p2", "nonMSIH")]
    assert cohort.left_out == (
        "clini.csv line 4: patient p3 has no label",
        "clini.csv line 5: patient p4 has no slide",
        "slide.csv line 5: patient p3 of d.h5 has no label",
        "slide.csv line 6: patient p9 of e.h5 has no label",
    )


@pytest.mark.parametrize(
    ("clini", "slides", "reason"),
    [
        (CLINI + "p1,nonMSIH,1\n", SLIDES, "line 6: patient p1 is there twice"),
        (CLINI, SLIDES + "p1,sub/f.h5\np1,g.svs\n", "2 problems"),
        (CLINI, "PATIENT,SLIDE\np1,a.h5\n", "no column FILENAME"),
        ("ID,isMSIH\np1,x\n", SLIDES, "no column PATIENT"),
        ("PATIENT,MSI\np1,x\n", SLIDES, "no column isMSIH"),
        ("PK\x03\x04", SLIDES, "a spreadsheet"),
    ],
)
def test_stamp_s_tables_that_cannot_be_joined_are_refused(
    tmp_path: Path, clini: str, slides: str, reason: str
) -> None:
    with pytest.raises(CohortError, match=reason):
        read_tables(
            written(tmp_path, "clini.csv", clini),
            slide_table=written(tmp_path, "slide.csv", slides),
            label="isMSIH",
        )


def test_trident_s_table_names_files_that_become_ids(tmp_path: Path) -> None:
    path = written(tmp_path, "wsis.csv", "wsi,mpp\nsub/a.svs,0.25\nb.ome.tif,\n")
    slides = read_cohort(path, need_labels=False).slides
    assert slides == (
        CohortSlide("a", tmp_path / "sub" / "a.svs", mpp=0.25),
        CohortSlide("b.ome", tmp_path / "b.ome.tif"),
    )


def camelyon16(folder: Path, *, test: int = 130) -> Path:
    names = [f"normal_{n:03d}" for n in (1, 2)] + [f"tumor_{n:03d}" for n in (1, 2, 3)]
    names += [f"test_{n:03d}" for n in range(1, test + 1)]
    rows = "".join(f"{name},{name}.tif\n" for name in names)
    return written(folder, "cohort.csv", "slide_id,slide_path\n" + rows)


def test_camelyon16_s_reference_says_its_official_split(tmp_path: Path, shared_data: Path) -> None:
    reference = shared_data / "annotations" / "camelyon16-reference.csv"
    cohort = read_tables(camelyon16(tmp_path), splits=reference)
    test = cohort.of_split("test")
    assert len(test) == 129
    assert sum(slide.label == "tumor" for slide in test) == 49
    labels = {slide.slide_id: slide.label for slide in cohort.slides}
    assert (labels["test_001"], labels["test_003"]) == ("tumor", "normal")
    train = [(slide.slide_id[:-4], slide.label) for slide in cohort.of_split("train")]
    assert train == [("normal", "normal")] * 2 + [("tumor", "tumor")] * 3
    (withdrawn,) = cohort.left_out
    assert "slide test_049 is not in camelyon16-reference.csv" in withdrawn


def test_missing_test_slides_are_told(tmp_path: Path, shared_data: Path) -> None:
    reference = shared_data / "annotations" / "camelyon16-reference.csv"
    cohort = read_tables(camelyon16(tmp_path, test=3), splits=reference)
    assert len(cohort.of_split("test")) == 3
    assert len(cohort.left_out) == 126
    assert cohort.left_out[0] == "camelyon16-reference.csv: slide test_004 is not in cohort.csv"


REFERENCE = "test_001,Tumor,IDC,Macro\ntest_002,Normal,IDC,None\n"


def test_a_cohort_keeps_its_spelling_and_its_validation_split(tmp_path: Path) -> None:
    own = "slide_id,label,split\nnormal_001,Normal,train\ntumor_001,Tumor,val\ntest_001,,\n"
    cohort = read_tables(
        written(tmp_path, "cohort.csv", own),
        splits=written(tmp_path, "reference.csv", REFERENCE),
    )
    assert [(slide.label, slide.split) for slide in cohort.slides] == [
        ("Normal", "train"),
        ("Tumor", "val"),
        ("Tumor", "test"),
    ]


def test_every_contradiction_to_the_official_split_is_listed(tmp_path: Path) -> None:
    own = "slide_id,label,split\nnormal_001,tumor,test\ntest_001,normal,train\n"
    with pytest.raises(CohortError, match="4 problems") as caught:
        read_tables(
            written(tmp_path, "cohort.csv", own),
            splits=written(tmp_path, "reference.csv", REFERENCE),
        )
    assert "slide test_001 is 'normal', in Camelyon16 it is 'tumor'" in str(caught.value)


SOFT = "slide_id,slide_path,label,soft_label\na,a.svs,x,0.9;0.1\nb,b.svs,y,\nc,c.svs,y,{}\n"


def test_soft_labels_are_shares_of_the_classes_in_their_order(tmp_path: Path) -> None:
    cohort = read_cohort(written(tmp_path, "cohort.csv", SOFT.format("0.33 0.67")))
    assert [slide.soft_label for slide in cohort.slides] == [(0.9, 0.1), (), (0.33, 0.67)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0.5", "no.* share for each class"),
        ("0.5;0.6", "share for each class"),
        ("-1;2", "share for each class"),
        ("nan;1", "share for each class"),
        ("a;b", "share for each class"),
        ("0.2;0.3;0.5", "soft_label has 3 shares, there are 2 classes"),
    ],
)
def test_soft_labels_of_something_else_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(CohortError, match=f"line 4: .*{reason}"):
        read_cohort(written(tmp_path, "cohort.csv", SOFT.format(text)))
