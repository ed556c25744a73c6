"""A slide that is decoded elsewhere has the same pixels, and harms nobody as it fails."""

import os
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sagdeploy.errors import SlideError
from sagdeploy.slides.decoder import OpenedSlide
from sagdeploy.slides.decoding import Limits
from sagdeploy.slides.isolation import IsolatedSlide, open_isolated
from sagdeploy.slides.slide import Slide, open_slide
from tests.slides.processes import decoders, nurseries, open_files, resident_kib, soon

CORNERS = np.array([(0, 0), (448, 224), (1391, 1003), (-20, 700), (224, 0)], np.int64)
ENDLESS = {"size_l0": (1504, 1104), "size_px": (15040, 11040)}
"""Takes a decoder seconds, and half a gigabyte."""


@pytest.fixture
def isolated(painted: Path) -> Iterator[IsolatedSlide]:
    with open_isolated(painted) as slide:
        yield slide


@pytest.fixture
def near(painted: Path) -> Iterator[Slide]:
    """The same slide, read in this process."""
    with open_slide(painted) as slide:
        yield slide


def corrupt(painted: Path, path: Path, *, tag: int, value: int) -> Path:
    """A copy of a BigTIFF whose first directory has another value, as a flipped bit gives it."""
    data = bytearray(painted.read_bytes())
    entry = data.index(struct.pack("<HHQ", tag, 4, 1))
    data[entry + 12 : entry + 16] = struct.pack("<I", value)
    path.write_bytes(data)
    return path


def test_a_slide_says_the_same_of_itself(isolated: IsolatedSlide, near: Slide) -> None:
    for name in ("name", "path", "reader", *OpenedSlide.__dataclass_fields__):
        assert getattr(isolated, name) == getattr(near, name), name
    assert isolated.resolve_mpp() == near.resolve_mpp()
    assert vars(near).keys() - vars(isolated).keys() == {"_pixels", "_tally"}


@pytest.mark.parametrize("size_px", [(224, 224), (112, 112), (100, 70)])
def test_pixels_are_the_same(
    isolated: IsolatedSlide, near: Slide, size_px: tuple[int, int]
) -> None:
    shape = (len(CORNERS), *size_px[::-1], 3)
    expected = np.empty(shape, np.uint8)
    near.read_tiles(CORNERS, size_l0=(224, 224), size_px=size_px, out=expected)
    copied = np.empty(shape, np.uint8)
    isolated.read_tiles(CORNERS, size_l0=(224, 224), size_px=size_px, out=copied)
    np.testing.assert_array_equal(copied, expected)
    with isolated.buffers(2, shape) as (_, shared):
        isolated.read_tiles(CORNERS, size_l0=(224, 224), size_px=size_px, out=shared)
        np.testing.assert_array_equal(shared, expected)
        isolated.read_tiles(CORNERS[1:3], size_l0=(224, 224), size_px=size_px, out=shared[2:4])
        np.testing.assert_array_equal(shared[2:4], expected[1:3])


def test_a_thumbnail_is_the_same(isolated: IsolatedSlide, near: Slide) -> None:
    np.testing.assert_array_equal(isolated.thumbnail(300), near.thumbnail(300))


def test_pixels_outlive_the_slide(painted: Path, near: Slide) -> None:
    expected = np.empty((len(CORNERS), 224, 224, 3), np.uint8)
    near.read_tiles(CORNERS, size_l0=(224, 224), size_px=(224, 224), out=expected)
    with open_isolated(painted) as slide, slide.buffers(1, expected.shape) as (shared,):
        slide.read_tiles(CORNERS, size_l0=(224, 224), size_px=(224, 224), out=shared)
    np.testing.assert_array_equal(shared, expected)


def test_many_threads_read_at_once(isolated: IsolatedSlide, near: Slide) -> None:
    wanted = [(x, y) for x in range(0, 1400, 100) for y in range(0, 1000, 250)]
    with isolated.buffers(len(wanted), (1, 90, 90, 3)) as shared, ThreadPoolExecutor(6) as pool:

        def work(index: int) -> None:
            corner = np.array([wanted[index]], np.int64)
            isolated.read_tiles(corner, size_l0=(90, 90), size_px=(90, 90), out=shared[index])

        list(pool.map(work, range(len(wanted))))
        for corner, pixels in zip(wanted, shared, strict=True):
            np.testing.assert_array_equal(pixels[0], near.read(corner, (90, 90), (90, 90)))


def test_errors_come_across_as_they_are(tmp_path: Path, painted: Path) -> None:
    bad = tmp_path / "bad\n.svs"
    bad.write_text("no slide")
    with pytest.raises(SlideError) as near, open_slide(bad):
        pass
    with pytest.raises(SlideError) as far, open_isolated(bad):
        pass
    assert (str(far.value), far.value.hint) == (str(near.value), near.value.hint)
    assert soon(lambda: not decoders())


def test_a_bug_in_the_decoder_is_told_in_one_line(isolated: IsolatedSlide) -> None:
    with pytest.raises(RuntimeError, match=r"^in the decoder: ZeroDivisionError: [^\n]*$"):
        isolated.read((0, 0), (10, 10), (0, 0))


@pytest.mark.parametrize("tag", [322, 323])
def test_a_header_that_makes_the_library_abort_is_one_failed_slide(
    painted: Path, tmp_path: Path, tag: int, capfd: pytest.CaptureFixture[str]
) -> None:
    bomb = corrupt(painted, tmp_path / "bomb.tiff", tag=tag, value=33_554_688)
    refused = pytest.raises(SlideError, match=r"bomb.tiff: out of memory \(limit 4 GiB\)")
    with refused, open_isolated(bomb) as slide:
        slide.read((0, 0), (300, 300), (300, 300))
    assert capfd.readouterr() == ("", "")
    assert soon(lambda: not decoders())


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGKILL, "killed from outside"),
        (signal.SIGABRT, r"died: signal 6 \(corrupt file\)"),
        (signal.SIGSEGV, r"died: signal 11 \(corrupt file\)"),
    ],
)
def test_a_decoder_that_dies_is_a_failed_slide(
    isolated: IsolatedSlide, number: int, reason: str
) -> None:
    (pid,) = decoders()
    threading.Timer(0.1, os.kill, (pid, number)).start()
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(isolated.read, (0, 0), **ENDLESS) for _ in range(2)]
        for each in asked:
            with pytest.raises(SlideError, match=reason):
                each.result()
    with pytest.raises(SlideError, match=reason):
        isolated.read((0, 0), (10, 10), (10, 10))
    with pytest.raises(SlideError, match=reason), isolated.buffers(1, (1, 2, 2, 3)):
        pass


def test_a_decoder_that_hangs_is_given_up(painted: Path) -> None:
    with open_isolated(painted, Limits(seconds=0.5)) as slide:
        (pid,) = decoders()
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(SlideError, match=r"timed out: not read within 0.5 s"):
            slide.read((0, 0), (10, 10), (10, 10))
        assert soon(lambda: pid not in decoders())


def test_a_decoder_that_wants_too_much_memory_is_given_up(painted: Path) -> None:
    with open_isolated(painted, Limits(memory_bytes=400 << 20)) as slide:
        slide.read((0, 0), (500, 500), (500, 500))
        with pytest.raises(SlideError, match=r"out of memory \(limit 0.39"):
            slide.read((0, 0), **ENDLESS)


def test_an_interrupted_reader_leaves_no_half_answer(isolated: IsolatedSlide) -> None:
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        isolated.read((0, 0), **ENDLESS)
    with pytest.raises(SlideError, match="closed"):
        isolated.read((0, 0), (10, 10), (10, 10))
    assert soon(lambda: not decoders())


def test_others_go_on_when_one_dies(painted: Path, isolated: IsolatedSlide) -> None:
    (first,) = decoders()
    with open_isolated(painted) as other:
        (second,) = set(decoders()) - {first}
        os.kill(second, signal.SIGKILL)
        with pytest.raises(SlideError):
            other.read((0, 0), (10, 10), (10, 10))
    assert isolated.read((0, 0), (10, 10), (10, 10)).shape == (10, 10, 3)


def test_a_killed_nursery_fails_its_slides_and_is_replaced(painted: Path) -> None:
    with open_isolated(painted) as slide:
        (nursery,), (pid,) = nurseries(), decoders()
        os.kill(nursery, signal.SIGKILL)
        with pytest.raises(SlideError, match="killed from outside"):
            slide.read((0, 0), (10, 10), (10, 10))
        assert soon(lambda: not Path(f"/proc/{pid}").exists())
    with open_isolated(painted) as slide:
        assert slide.read((0, 0), (10, 10), (10, 10)).shape == (10, 10, 3)


PARENT = """
import sys, time
from pathlib import Path
from sagdeploy.slides.isolation import open_isolated
from tests.slides.processes import decoders, nurseries
slide = open_isolated(Path(sys.argv[1]))
with slide.buffers(2, (1, 8, 8, 3)):
    print(*decoders(), *nurseries(), flush=True)
    time.sleep(60)
"""


def test_nothing_is_left_of_a_killed_program(painted: Path) -> None:
    named = set(os.listdir("/dev/shm"))
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(painted)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as program:
        assert program.stdout is not None
        pids = [int(pid) for pid in program.stdout.readline().split()]
        program.kill()
    assert len(pids) == 2
    assert soon(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert set(os.listdir("/dev/shm")) <= named


def test_slides_in_a_row_leave_nothing_behind(painted: Path) -> None:
    def look() -> None:
        with open_isolated(painted) as slide, slide.buffers(2, (8, 100, 100, 3)) as (shared, _):
            slide.read_tiles(CORNERS[:1], size_l0=(100, 100), size_px=(100, 100), out=shared[:1])

    look()
    (nursery,) = nurseries()
    files, ours, theirs = open_files(), resident_kib(os.getpid()), resident_kib(nursery)
    for _ in range(50):
        look()
    assert open_files() == files
    assert soon(lambda: not decoders())
    assert nurseries() == [nursery]
    assert resident_kib(nursery) - theirs < 1024
    assert resident_kib(os.getpid()) - ours < 4096


def test_a_program_out_of_descriptors_fails_the_slide(painted: Path) -> None:
    with open_isolated(painted):  # the nursery has what it needs
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        os.close(lowest := os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, limits[1]))
        try:
            with pytest.raises(SlideError, match="no process to decode it: Too many open files"):
                open_isolated(painted)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_ctrl_c_is_for_the_program_alone(isolated: IsolatedSlide) -> None:
    for pid in (*nurseries(), *decoders()):
        assert os.getpgid(pid) != os.getpgid(0)
        os.kill(pid, signal.SIGINT)
    assert isolated.read((0, 0), (10, 10), (10, 10)).shape == (10, 10, 3)


def test_a_decoder_imports_little_and_nothing_of_the_folder_it_runs_in(
    painted: Path, tmp_path: Path
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('imported from the folder')")
    code = (
        "import sys; sys.path.remove(''); from pathlib import Path\n"
        "from sagdeploy.slides.isolation import open_isolated\n"
        f"print(open_isolated(Path({str(painted)!r})).size_l0)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.stdout.strip(), done.stderr) == ("(1504, 1104)", "")
