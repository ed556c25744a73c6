"""Nothing that names a patient, a person, a machine or a place comes out of any command.

Forty canaries are put where such names are in a hospital: in what scanners write into slides, in
the names of files and folders, in the environment and in a server's address. Slides have ids of
the cohort's choice. Then real processes go the whole way, with slides that fail, too.
"""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sagdeploy.cli.app import run
from sagdeploy.slides.slide import open_slide
from sagdeploy.slides.synthetic import SlideSpec, paint_slide
from tests.bigtiff import DESCRIPTION, with_tag, write_svs

PROPERTIES = (
    "Filename", "Date", "Time", "User", "ScanScope ID", "Title", "ImageID", "Barcode", "Patient",
    "PatientID", "Accession", "DSR ID", "Slide Label", "Operator", "Hospital", "Physician",
    "Birthdate", "MRN", "Comment", "Rack", "Parmset", "Exposure Owner", "Session", "Workstation",
)  # fmt: skip
"""Of an Aperio slide's description."""

ENVIRONMENT = ("USER", "LOGNAME", "HOSTNAME", "USERNAME", "MAIL", "SAGDEPLOY_NOTE")
FOLDERS = ("HOME", "TMPDIR")
FILES = ("one", "two", "three", "four", "five")
ADDRESS = ("user", "password")
PLACES = (*PROPERTIES, *ENVIRONMENT, *FOLDERS, *FILES, *ADDRESS, "ward")
CANARIES = {place: f"CANARY{number:02d}X{place.upper()[:3]}" for number, place in enumerate(PLACES)}


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a name that must not come out, with slides and a cohort that gives them ids."""
    folder = tmp_path_factory.mktemp("hospital") / CANARIES["ward"]
    for name in ("home", "temporary"):
        (folder / CANARIES["HOME" if name == "home" else "TMPDIR"]).mkdir(parents=True)
    more = "".join(f"|{name} = {CANARIES[name]}" for name in PROPERTIES)
    rows = ["slide_id,slide_path,label,split"]
    for number, (name, split) in enumerate(zip(SLIDES, SPLITS, strict=True)):
        painted = folder / "painted.tif"
        paint_slide(painted, SlideSpec(seed=number, size_l0=(640, 470), grade=number % 2))
        with open_slide(painted) as slide:
            pixels = slide.read((0, 0), slide.size_l0, slide.size_l0)
        painted.unlink()
        write_svs(folder / f"{name}.svs", pixels, more=more)
        rows.append(f"case-{number},{name}.svs,{'ab'[number % 2]},{split}")
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n")
    return folder


SLIDES = tuple(f"{CANARIES[FILES[n % 3]]}-{n}" for n in range(8))
SPLITS = ("train", "train", "train", "train", "val", "val", "test", "test")


def spoil(ward: Path) -> str:
    """A cohort of slides that fail, each in another way."""
    good = (ward / f"{SLIDES[0]}.svs").read_bytes()
    four, five = (CANARIES[name] for name in FILES[3:])
    (ward / f"{four}.svs").write_bytes(good[: len(good) // 2])
    (ward / f"{five}.svs").write_bytes(good.replace(b"MPP = 0.5", b"MPP = x.y"))
    (ward / f"{four} {five}.svs").write_text(f"{four} in text")
    (ward / f"{five}-2.svs").write_bytes(with_tag(good, DESCRIPTION, 65))
    rows = [f"bad-1,{four}.svs", f"bad-2,{five}.svs", f"bad-3,{four} {five}.svs"]
    rows += [f"bad-4,{five}-2.svs", f"bad-5,{CANARIES['ward']}.svs", f"case-6,{SLIDES[6]}.svs"]
    table = ward / "failing.csv"
    table.write_text("\n".join(["slide_id,slide_path", *rows]) + "\n")
    return table.name


def commands(ward: Path) -> Iterator[tuple[int, list[str]]]:
    """The whole way, and the exit code of each step."""
    extractor = ["--extractor", "stain_texture", "--tile-px", "112"]
    yield 0, ["extract", "cohort.csv", "--out", "bags", *extractor]
    yield 0, ["guide", "cohort.csv", "--bags", "bags", "--heuristic", "none"]
    training = ["--seeds", "1", "--epochs", "1", "--guidance", "tg"]
    yield 0, ["train", "cohort.csv", "--bags", "bags", "--out", "run", *training]
    yield 0, ["export", "run", "--repository", "models"]
    predict = ["predict", "cohort.csv", "--repository", "models"]
    yield 0, [*predict, "--out", "out"]
    yield 0, [*predict, "--out", "out", "--json"]
    yield 8, ["predict", spoil(ward), "--repository", "models", "--out", "failed", "--json"]
    yield 8, ["extract", "failing.csv", "--out", "bags", *extractor, "--json"]
    slide = f"{SLIDES[0]}.svs"
    named = ["--slide-id", "pseudonym", "--repository", "models", "--out", "named"]
    yield 0, ["predict", slide, *named]
    yield 3, ["predict", f"{CANARIES[FILES[3]]}.svs", *named]
    yield 0, ["verify", "out"]
    with serving_nothing() as port:
        address = f"http://{CANARIES['user']}:{CANARIES['password']}@localhost:{port}"
        yield 6, ["predict", "cohort.csv", "--server", address, "--out", "named"]


class Silent(BaseHTTPRequestHandler):
    """Refuses everything, and says nothing of it."""

    def log_message(self, *_: object) -> None:
        """Write no line."""


@contextmanager
def serving_nothing() -> Iterator[int]:
    """Port of a server that knows no model."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_no_canary_leaves_the_slides(ward: Path) -> None:
    environment = {name: CANARIES[name] for name in ENVIRONMENT}
    environment |= {name: str(ward / CANARIES[name]) for name in FOLDERS}
    sources = {path for path in ward.iterdir() if path.suffix in (".svs", ".csv")}
    said = b""
    for code, arguments in commands(ward):
        done = subprocess.run(
            [sys.executable, "-m", "sagdeploy", *arguments],
            cwd=ward, env=os.environ | environment, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, (arguments, done.stderr.decode())
        said += done.stdout + done.stderr
        sources |= {ward / "failing.csv", *ward.glob("*.svs")}
    written = [path for path in ward.rglob("*") if path.is_file() and path not in sources]
    assert len(written) > 50
    texts = {"what was said": said} | {
        str(path.relative_to(ward)): path.read_bytes() for path in written
    }
    for name in FOLDERS:  # nobody's home, and no place for temporary files, is written to
        assert [path for path in (ward / CANARIES[name]).rglob("*") if path.is_file()] == []
    secrets = {*CANARIES.values(), str(ward.parent)}
    if len(os.uname().nodename) > 5:  # shorter ones are in any file by chance
        secrets.add(os.uname().nodename)
    assert len(secrets) >= 40
    found = [
        (name, secret)
        for name, text in texts.items()
        for secret in secrets
        if secret.lower().encode() in text.lower() or secret in Path(name).name
    ]
    assert found == []


def test_onnx_runtime_reports_to_nobody(tmp_path: Path) -> None:
    places = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("ORT_")}
    code = "import sagdeploy.serving.runtime"
    subprocess.run([sys.executable, "-c", code], env=quiet | places, check=True)
    assert list(tmp_path.iterdir()) == []  # where it means to report, it keeps a machine's id


def test_label_and_macro_images_are_never_asked_for() -> None:
    package = Path(__file__).parents[2] / "sagdeploy"
    for path in package.rglob("*.py"):
        assert "associated_image" not in path.read_text(encoding="utf-8"), path


def test_a_damaged_model_is_told_of_without_its_place(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / CANARIES["user"]
    models = shutil.copytree(repository, place / "models")
    graph = next(models.glob("*_extractor/1/model.onnx"))
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    paint_slide(tmp_path / "slide.tiff", SlideSpec(seed=1, size_l0=(640, 470), grade=1.0))
    command = ["predict", str(tmp_path / "slide.tiff"), "--repository", str(models)]
    assert run([*command, "--out", str(tmp_path / "out"), "--json"]) == 5
    assert "is not the file that was published" in (tmp_path / "out" / "run.json").read_text()
    written = "".join(
        path.read_text() for path in (tmp_path / "out").rglob("*.*") if path.is_file()
    )
    for text in (written, capsys.readouterr().out):
        assert CANARIES["user"] not in text
        assert str(tmp_path) not in text
