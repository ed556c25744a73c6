"""Which slides a command line names: files and folders become slides with distinct names."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sagdeploy.errors import ConfigError
from sagdeploy.files import name_from, sha256_of

SUFFIXES = frozenset(
    ".svs .tif .tiff .ndpi .mrxs .dcm .scn .bif .vms .vmu .svslide .czi".split()  # noqa: SIM905
)
"""Of the formats that OpenSlide reads."""


@dataclass(frozen=True, slots=True)
class SlideInput:
    """A slide to diagnose, and the name its results get."""

    slide_id: str
    path: Path


def collect_slides(paths: Sequence[Path], slide_id: str | None = None) -> tuple[SlideInput, ...]:
    """The slides that files and folders name, in order, each with an id of its own.

    A folder stands for the slides directly in it. Ids are file names without their suffix;
    where two slides share one, a hash of the content tells them apart.
    slide_id: overrides the id of a single slide
    """
    files = [file for path in paths for file in _expanded(path)]
    if slide_id is not None:
        if len(files) != 1:
            raise ConfigError(f"--slide-id names one slide, but there are {len(files)}")
        return (SlideInput(name_from(slide_id), files[0]),)
    stems = [name_from(file.stem) for file in files]
    shared = {stem for stem, count in Counter(stems).items() if count > 1}
    ids = [
        f"{stem}-{_digest(file)}" if stem in shared else stem
        for stem, file in zip(stems, files, strict=True)
    ]
    return tuple(map(SlideInput, _numbered(ids), files))


def _expanded(path: Path) -> list[Path]:
    if not path.is_dir() or path.suffix.lower() in SUFFIXES:
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise ConfigError(
            f"{path.name}: no slides in this folder",
            hint=f"slides end in {' '.join(sorted(SUFFIXES))}",
        )
    return files


def _digest(file: Path) -> str:
    return sha256_of(file)[:8] if file.is_file() else "unreadable"


def _numbered(ids: Iterable[str]) -> list[str]:
    """`ids`, the second and later of the same id made distinct by a number."""
    seen: Counter[str] = Counter()
    distinct = []
    for name in ids:
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return distinct
