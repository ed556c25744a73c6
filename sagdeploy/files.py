"""Write a file whole or not at all, and name it safely.

A reader never sees half a file: data goes to a temporary name in the same folder, is
flushed to the disk, and takes its final name in one step.
"""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from sagdeploy.errors import ConfigError, OutputError

PARTIAL_PREFIX = ".partial-"
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends well.

    Raises OutputError when the folder or the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(
            dir=path.parent, prefix=PARTIAL_PREFIX, suffix=path.suffix, delete=False
        ) as file:
            partial = Path(file.name)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield partial
        _publish(partial, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
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
    partial.chmod(0o644)
    os.replace(partial, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path}: cannot be written: {error.strerror or error}",
        hint="free space or choose another --out",
    )
