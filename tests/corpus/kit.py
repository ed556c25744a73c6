"""What the bad inputs of the corpus are made from."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.bigtiff import write_svs

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Kit:
    """Where one bad input is made, and good ones to make it from."""

    folder: Path
    repository: Path
    bags: Path
    """Of a slide `slide`."""

    pixels: Pixels
    """(h, w, 3) of a good slide."""

    def good(self, name: str = "slide.svs") -> Path:
        """A good slide."""
        return write_svs(self.folder / name, self.pixels)

    def file(self, name: str, content: bytes | str) -> Path:
        """A file of this content."""
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def svs(self, **changes: object) -> Path:
        """A slide with other metadata."""
        return write_svs(self.folder / "slide.svs", self.pixels, **changes)  # type: ignore[arg-type]

    def flat(self, colour: tuple[int, int, int]) -> Path:
        """A slide of one colour."""
        return write_svs(self.folder / "slide.svs", np.full_like(self.pixels, colour))

    def link(self, target: str | Path) -> Path:
        """A link in a slide's place."""
        os.symlink(target, self.folder / "slide.svs")
        return self.folder / "slide.svs"

    def predict(self, *arguments: object) -> list[str]:
        """A command line of `predict`."""
        models = ["--repository", str(self.repository)]
        return ["predict", *map(str, arguments), *models, "--out", str(self.folder / "out")]
