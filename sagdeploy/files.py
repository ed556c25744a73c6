"""Write a file, or a folder of them, whole or not at all, and name it safely.

A reader never sees half of either: data goes to a temporary name in the same folder, is
flushed to the disk, and takes its final name in one step. What a kill leaves under a temporary
name, `sweep` clears away.
"""

import hashlib
import json
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from uuid import uuid4

from sagdeploy.errors import ConfigError, OutputError

PARTIAL_PREFIX = ".partial-"
NEW, OLD = "new", "old"
"""Inside a temporary folder: what is to be published, and what it replaces."""

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends well.

    Who may read it is for the umask to say, or for the block by `chmod`.
    Raises OutputError when the folder or the disk refuses.
    """
    partial = path.with_name(f"{PARTIAL_PREFIX}{uuid4().hex}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch(exist_ok=False)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield partial
        _publish(partial, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty hidden folder, which becomes `folder` when the block ends well.

    A folder cannot be replaced in one step: the old one is put aside, then the new one takes its
    name. Between the two, both are whole; `sweep` takes the second step for whoever was killed.
    The files in it are flushed by whoever writes them: `write_whole` does.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(mkdtemp(dir=folder.parent, prefix=PARTIAL_PREFIX))
        fresh = work / NEW / folder.name
        fresh.mkdir(parents=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield fresh
        _flush_folder(fresh)
        if folder.exists():
            (work / OLD).mkdir()
            folder.rename(work / OLD / folder.name)
        fresh.rename(folder)
        _flush_folder(folder.parent)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        try:
            _settle(work)
        finally:  # where a signal came meanwhile
            _settle(work)


def sweep(folder: Path) -> None:
    """Clear away what killed writers left in a folder that nobody else writes now.

    OutputError where it cannot be.
    """
    try:
        for path in sorted(folder.glob(f"{PARTIAL_PREFIX}*")):
            if path.is_dir() and not path.is_symlink():
                _settle(path)
            else:
                path.unlink()
    except OSError as error:
        raise _unwritable(folder, error) from error


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path`, whole or not at all."""
    with write_whole(path) as partial:
        partial.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as canonical JSON: sorted keys, no NaN, one trailing newline."""
    write_bytes(path, canonical_json(value).encode())


def canonical_json(value: Any) -> str:
    """JSON that is the same, byte for byte, for the same value."""
    return json.dumps(value, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_name(name: str, what: str) -> str:
    """`name` if it may become part of a path; ConfigError otherwise."""
    if not SAFE_NAME.fullmatch(name):
        raise ConfigError(
            f"{what} {name!r} cannot be a file name",
            hint="use at most 64 letters, digits, '.', '_' and '-', the first a letter or digit",
        )
    return name


def name_from(text: str) -> str:
    """A safe name for any text: itself where it is safe, else a readable part and a hash."""
    if SAFE_NAME.fullmatch(text):
        return text
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    readable = re.sub(r"[^A-Za-z0-9]+", "-", ascii_text).strip("-")[:40] or "slide"
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{readable}-{digest}"


def _publish(partial: Path, path: Path) -> None:
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Have the disk hold the names in a folder, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _settle(work: Path) -> None:
    """Remove a temporary folder, after the second step of a replacement that took only one."""
    for old in work.glob(f"{OLD}/*"):
        target = work.parent / old.name
        for whole in (work / NEW / old.name, old):
            if not target.exists():
                with suppress(OSError):
                    whole.rename(target)
        if not target.exists():
            return  # better a stale folder than no result
    shutil.rmtree(work, ignore_errors=True)


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path}: cannot be written: {error.strerror or error}",
        hint="free space or choose another --out",
    )
