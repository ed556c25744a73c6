"""Which files a slide is made of, what they hold, and whether they stay as they are.

One file names a slide, but OpenSlide reads the pixels of some formats from others: MIRAX from
the folder of the same name, Hamamatsu's VMS and VMU from files that an ini file names, DICOM
from all files of one series in its folder.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sagdeploy.errors import SlideError
from sagdeploy.files import sha256_of
from sagdeploy.slides.dicom import series_of
from sagdeploy.slides.library import printable_name

MIRAX_INI = "Slidedat.ini"
"""In the folder that holds the pixels of a .mrxs."""

MIRAX_DATA = frozenset({".ini", ".dat"})
HAMAMATSU = frozenset({".vms", ".vmu"})

INI_BYTES = 1 << 16
"""Of a .vms; OpenSlide takes no longer one either."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a slide is made of, at one time."""

    sha256: str
    """See `content_sha256`."""

    size_bytes: int
    """Of all its files."""


class _State(NamedTuple):
    """By which a file is known to be the same, and not written to meanwhile."""

    name: str
    inode: int
    size_bytes: int
    changed_ns: int


def hash_slide(path: Path) -> str:
    """SHA-256 of a slide's content, as `content_sha256`; SlideError where it cannot be read."""
    with _file_errors(path):
        return content_sha256(path)


def content_sha256(path: Path) -> str:
    """SHA-256 of a slide's content; OSError where it cannot be read.

    Of one file, it is that of its bytes. Of several, it is that of a text with a line for each,
    `<sha256>  <name>`, as sha256sum writes it, in the order of the names' bytes. The .mrxs, .vms
    or .vmu that names the slide stands there as its suffix, so that renaming the slide leaves its
    hash alone.
    """
    return _hash(_files(path))


def size_of(path: Path) -> int:
    """Bytes of all files of a slide; SlideError where they cannot be found."""
    return _size(_states(path))


@contextmanager
def unchanged(path: Path) -> Iterator[Source]:
    """What a slide is made of; SlideError unless it stays so while the block lasts."""
    before = _states(path)
    yield Source(hash_slide(path), _size(before))
    if _states(path) != before:
        raise SlideError(
            f"{printable_name(path.name)}: changed while it was read", hint="copy the slide again"
        )


def is_mirax_data(folder: Path) -> bool:
    """Whether a folder holds the pixels of a .mrxs beside it, and so no slides."""
    return (folder / MIRAX_INI).is_file()


def _files(path: Path) -> dict[str, Path]:
    """The files a slide is made of, by what they are called in it; SlideError if it is no file."""
    if not stat.S_ISREG(path.stat().st_mode):  # to read a FIFO would wait for ever
        raise SlideError(f"{printable_name(path.name)}: not a regular file")
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        return {suffix: path} | _mirax_data(path.with_suffix(""))
    if suffix in HAMAMATSU:
        return {suffix: path} | _named_in(path)
    series = series_of(path)
    if series is None:
        return {path.name: path}
    return {path.name: path} | _instances(path.parent, series)


def _mirax_data(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {
        file.name: file
        for file in folder.iterdir()
        if file.suffix.lower() in MIRAX_DATA and file.is_file()
    }


def _named_in(ini: Path) -> dict[str, Path]:
    """The files that the values of an ini file name; OpenSlide wants them beside it."""
    with ini.open("rb") as file:
        lines = file.read(INI_BYTES).splitlines()
    names = {os.fsdecode(line.partition(b"=")[2].strip()) for line in lines}
    beside = {name: ini.with_name(name) for name in names if name and Path(name).name == name}
    return {name: file for name, file in beside.items() if file.is_file()}


def _instances(folder: Path, series: str) -> dict[str, Path]:
    """The files of a DICOM series; those that cannot be read are none to OpenSlide either."""
    found = {}
    for file in folder.iterdir():
        with suppress(OSError):
            if series_of(file) == series:
                found[file.name] = file
    return found


def _hash(files: dict[str, Path]) -> str:
    if len(files) == 1:
        return sha256_of(*files.values())
    total = hashlib.sha256()
    for name in sorted(map(os.fsencode, files)):
        total.update(f"{sha256_of(files[os.fsdecode(name)])}  ".encode() + name + b"\n")
    return total.hexdigest()


def _size(states: list[_State]) -> int:
    return sum(state.size_bytes for state in states)


def _states(path: Path) -> list[_State]:
    """The slide's files as they are now."""
    with _file_errors(path):
        return sorted(_state(name, file) for name, file in _files(path).items())


def _state(name: str, file: Path) -> _State:
    status = file.stat()
    return _State(name, status.st_ino, status.st_size, status.st_mtime_ns)


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = printable_name(path.name)
        raise SlideError(f"{name}: {error.strerror or error}", hint="check the storage") from error
