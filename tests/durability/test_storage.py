"""Storage that is full, or that cannot be written, costs no result that was there before."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sagdeploy.audit import verify
from sagdeploy.bags.bagfile import read_bag
from sagdeploy.cli.app import run
from sagdeploy.slides.synthetic import SlideSpec, paint_slide

MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096
SIZES_KIB = (64, 128, 256, 384, 512, 640, 768, 1024, 1280, 1536)
"""Of the disk: from room for the journal alone to room for nearly three slides."""


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for seed in range(3):
        spec = SlideSpec(seed=seed, size_l0=(640, 470), grade=1.0)
        paint_slide(folder / f"slide-{seed}.tiff", spec)
    return folder


@contextmanager
def mounted(source: str, target: Path, kind: str | None, flags: int, data: str) -> Iterator[None]:
    """A file system for as long as the block lasts; skips the test where nobody may mount one."""
    libc = ctypes.CDLL(None, use_errno=True)
    texts = [text.encode() if text else None for text in (source, str(target), kind)]
    if libc.mount(*texts, flags & ~MS_RDONLY, data.encode()) != 0:
        pytest.skip(f"cannot mount: {os.strerror(ctypes.get_errno())}")
    try:
        if flags & MS_RDONLY:
            assert libc.mount(None, texts[1], None, flags | MS_REMOUNT, None) == 0
        yield
    finally:
        assert libc.umount2(texts[1], 0) == 0


def contents(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.fixture
def predict(
    slides: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs `predict` into a folder, and returns its last line; the exit code must be the given."""

    def command(out: Path, code: int, *options: str) -> str:
        arguments = ["predict", str(slides), "--repository", str(repository)]
        assert run([*arguments, "--out", str(out), *options]) == code
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return said.splitlines()[-1]

    return command


@pytest.mark.parametrize("kib", SIZES_KIB)
def test_a_full_disk_leaves_whole_results_and_no_other(
    kib: int, predict: Callable[..., str], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted("tmpfs", disk, "tmpfs", 0, f"size={kib}k"):
        assert "No space left on device" in predict(disk / "out", 7)
        for finding in verify(disk / "out").findings:
            assert finding.kind == "unfinished" or finding.name in ("run.json", "predictions.csv")
        assert not list((disk / "out").glob(".partial-*"))


@pytest.mark.parametrize("kib", [64, 128, 192, 256])
def test_bags_on_a_full_disk_are_whole_or_not_there(
    kib: int, slides: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    disk, bags = tmp_path / "disk", tmp_path / "disk" / "bags"
    disk.mkdir()
    command = ["extract", str(slides), "--extractor", "stain_texture", "--tile-px", "28"]
    with mounted("tmpfs", disk, "tmpfs", 0, f"size={kib}k"):
        assert run([*command, "--min-tissue", "0", "--out", str(bags)]) == 7
        assert "No space left on device" in capsys.readouterr().err
        for path in bags.glob("[!.]*.h5"):
            read_bag(path)
        assert not list(bags.glob(".partial-*"))


def test_a_disk_that_fills_up_keeps_what_was_there(
    predict: Callable[..., str], tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted("tmpfs", disk, "tmpfs", 0, "size=4m"):
        predict(disk / "out", 0)
        before = {n: d for n, d in contents(disk / "out").items() if n.count("/") == 1}
        free = os.statvfs(disk)
        (disk / "full").write_bytes(bytes(free.f_bavail * free.f_bsize - 65536))
        predict(disk / "out", 7, "--overwrite", "--mpp", "0.4")
        after = {n: d for n, d in contents(disk / "out").items() if n.count("/") == 1}
        assert after == before


def test_a_folder_that_is_read_only_is_refused_before_any_slide(
    predict: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict(out, 0)
    before = contents(out)
    with mounted(str(out), out, None, MS_BIND | MS_RDONLY, ""):
        assert "Read-only file system" in predict(out, 7)
    assert contents(out) == before
