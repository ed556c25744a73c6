"""Tables, annotations, models and weights that cannot be used, or must not be."""

import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.corpus.kit import Kit
from tests.corpus.slides import Case

HEADER = "slide_id,slide_path,mpp\n"
DOCTYPE = '<?xml version="1.0"?><!DOCTYPE a [{}]><ASAP_Annotations>{}</ASAP_Annotations>'
SQUARE = "[[0, 0], [9, 0], [9, 9], [0, 0]]"
LAUGHS = '<!ENTITY l0 "ha">' + "".join(
    f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10)
)


TRACE = Path("unpickled")
"""Made in the current folder by code that must never run."""


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.trace),)


def table(name: str, content: bytes | str, message: str, code: int = 2) -> Case:
    """A cohort table that cannot be used."""

    def make(kit: Kit) -> list[str]:
        kit.good()
        return kit.predict(kit.file("cohort.csv", content))

    return Case(name, make, code, message)


def annotation(name: str, suffix: str, content: bytes | str, message: str) -> Case:
    """An annotation file that cannot be read, or must not be."""

    def make(kit: Kit) -> list[str]:
        path = kit.file(f"outlines.{suffix}", content)
        slide = kit.good()
        cohort = f"slide_id,slide_path,annotation_path\nslide,{slide},{path}\n"
        bags = shutil.copytree(kit.bags, kit.folder / "bags")
        return ["guide", str(kit.file("cohort.csv", cohort)), "--bags", str(bags)]

    return Case(name, make, 2, message)


def tampered(name: str, spoil: Callable[[Path], object], message: str) -> Case:
    """A model repository that somebody changed."""

    def make(kit: Kit) -> list[str]:
        models = Path(shutil.copytree(kit.repository, kit.folder / "models"))
        spoil(models)
        command = kit.predict(kit.good())
        command[command.index("--repository") + 1] = str(models)
        return command

    return Case(name, make, 5, message)


def weights(name: str, suffix: str, content: bytes, message: str) -> Case:
    """Weights that are none."""

    def make(kit: Kit) -> list[str]:
        path = kit.file(f"weights.{suffix}", content)
        out = ["--out", str(kit.folder / "bags")]
        return ["extract", str(kit.good()), "--weights", str(path), *out]

    return Case(name, make, 5, message)


def flipped(name: str) -> Callable[[Path], object]:
    """One byte in the middle of a file of the repository is another."""

    def spoil(models: Path) -> None:
        path = models / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0x40
        path.write_bytes(data)

    return spoil


def feature(coordinates: str) -> str:
    return (
        '{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {}, '
        f'"geometry": {{"type": "Polygon", "coordinates": [{coordinates}]}}}}]}}'
    )


def cases() -> Iterator[Case]:
    """All of them, by what they are."""
    yield from _tables()
    yield from _annotations()
    yield from _models()
    yield from _calls()


def _tables() -> Iterator[Case]:
    yield table("table-empty", "", "no column")
    yield table("table-without-rows", HEADER, "names no slide")
    yield table("table-without-paths", "slide_id\na\n", "no column slide_path")
    yield table("table-with-an-id-twice", HEADER + "a,a.svs,\na,b.svs,\n", "on line 2 too")
    yield table("table-with-a-path-as-id", HEADER + "../a,a.svs,\n", "cannot be a file name")
    yield table("table-with-a-formula", HEADER + "=cmd(),a.svs,\n", "cannot be a file name")
    yield table("table-with-our-own-name", HEADER + "run.json,slide.svs,\n", "can be called")
    yield table("table-with-a-word-as-mpp", HEADER + "a,a.svs,x\n", "no positive number")
    yield table("table-with-a-ragged-row", HEADER + "a,a.svs\n", "2 cells")
    yield table("table-with-a-column-twice", "slide_id,slide_path,mpp,mpp\n", "twice")
    yield table("table-in-latin-1", HEADER.encode() + b"\xe9,a.svs,\n", "not UTF-8")
    yield table("table-with-a-nul", HEADER + "a\0,a.svs,\n", "NUL")
    yield table("table-as-spreadsheet", b"PK\3\4", "a spreadsheet")
    yield table("table-with-an-open-quote", HEADER + '"a,a.svs,\n', "line")
    yield table("table-naming-no-file", HEADER + "a,gone.svs,\n", "No such file", 3)
    yield table("table-with-an-absurd-mpp", HEADER + "a,slide.svs,400\n", "not a plausible")


def _annotations() -> Iterator[Case]:
    passwd = '<!ENTITY x SYSTEM "file:///etc/passwd">'
    yield annotation("xml-with-a-file-inside", "xml", DOCTYPE.format(passwd, "&x;"), "")
    yield annotation("xml-of-a-billion-laughs", "xml", DOCTYPE.format(LAUGHS, "&l9;"), "")
    yield annotation("xml-with-a-bare-dtd", "xml", DOCTYPE.format("", ""), "")
    yield annotation("xml-cut-short", "xml", "<ASAP_Annotations><Annotations>", "")
    yield annotation("xml-nested-deep", "xml", "<a>" * 100_000, "")
    yield annotation("geojson-with-nan", "geojson", feature("[[NaN, 0], [9, 0], [9, 9]]"), "")
    yield annotation("geojson-beyond-floats", "geojson", feature("[[1e999, 0], [9, 0]]"), "")
    yield annotation("geojson-nested-deep", "geojson", "[" * 100_000, "")
    yield annotation(
        "geojson-of-long-digits", "geojson", feature(SQUARE.replace("9", "9" * 5000)), ""
    )
    yield annotation("annotations-of-no-kind", "txt", "here", "")


def _models() -> Iterator[Case]:
    for part in ("sag_extractor", "sag_diagnosis"):
        yield tampered(f"flipped-{part}", flipped(f"{part}/1/model.onnx"), "")
        yield tampered(f"lost-{part}", lambda m, p=part: (m / p / "1/model.onnx").unlink(), "")  # type: ignore[misc]
    yield tampered("flipped-manifest", flipped("sag/config.pbtxt"), "")
    yield tampered("no-configuration", lambda models: (models / "sag/config.pbtxt").unlink(), "")
    yield tampered("no-model", shutil.rmtree, "")
    yield weights("weights-that-run-code", "pth", pickle.dumps(Bomb(TRACE), 2), "")
    yield weights("weights-of-text", "safetensors", b"hello", "")
    yield weights("weights-of-a-huge-header", "safetensors", b"\xff" * 8 + b"{}", "")


def _calls() -> Iterator[Case]:
    def predict(*options: str) -> Callable[[Kit], list[str]]:
        return lambda kit: kit.predict(kit.good(), *options)

    yield Case("a-model-beside-the-repository", predict("--model", "../models"), 5, "")
    yield Case("a-version-that-is-not-there", predict("--model-version", "99"), 5, "")
    yield Case(
        "a-pattern-that-fits-nothing", lambda kit: kit.predict(kit.folder / "*.svs"), 2, "fits"
    )
    yield Case("a-folder-without-slides", lambda kit: kit.predict(kit.folder), 2, "no slides")
    yield Case(
        "one-pseudonym-for-two",
        lambda k: k.predict(k.good(), k.good("b.svs"), "--slide-id", "x"),
        2,
        "one slide",
    )
    yield Case("an-address-that-is-none", predict("--server", "ftp://host"), 2, "")
    yield Case(
        "results-in-a-file",
        lambda kit: [*kit.predict(kit.good()), "--out", str(kit.file("x", b""))],
        7,
        "cannot be written",
    )
