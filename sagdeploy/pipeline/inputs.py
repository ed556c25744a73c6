"""Which slides a command line names: files, folders, patterns and tables become slides."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from sagdeploy.bags.cohort import Cohort, CohortSlide, read_cohort
from sagdeploy.errors import ConfigError, SlideError
from sagdeploy.files import name_from
from sagdeploy.slides import dicom
from sagdeploy.slides.source import hash_slide, is_mirax_data

SUFFIXES = frozenset(
    ".svs .tif .tiff .ndpi .mrxs .dcm .scn .bif .vms .vmu .svslide .czi".split()  # noqa: SIM905
)
"""Of the formats that OpenSlide reads."""

TABLE_SUFFIX = ".csv"
WILD = "*?["
RESERVED = frozenset({"predictions.csv", "run.json"})
"""What lies beside the results, and so names no slide."""


@dataclass(frozen=True, slots=True)
class SlideInput:
    """A slide to diagnose, and the name its results get."""

    slide_id: str
    path: Path
    mpp: float | None = None
    """Microns per pixel that a table gives it."""


def collect_slides(paths: Sequence[Path], slide_id: str | None = None) -> tuple[SlideInput, ...]:
    """The slides that files, folders, patterns and tables name, in order, each with its own id.

    A folder stands for the slides directly in it, a pattern such as `slides/**/*.svs` for what
    fits it, a .csv for the slides of a cohort, whose ids and scales it gives. The .dcm of a folder
    that are of one DICOM series are one slide, called by the first. Other ids are file names
    without their suffix; where two slides share one, a hash of the content tells them apart.
    slide_id: overrides the id of a single slide
    """
    tables = [path for path in paths if path.suffix.lower() == TABLE_SUFFIX]
    listed = [slide for table in tables for slide in _listed(table)]
    named = [file for path in paths if path not in tables for file in _expanded(path)]
    files = list(_one_a_series(named))
    if slide_id is not None:
        if tables or len(files) != 1:
            count = len(files) + len(listed)
            raise ConfigError(f"--slide-id names one slide, but there are {count}")
        _check_free(slide_id)
        return (SlideInput(name_from(slide_id), files[0]),)
    _check_distinct([slide.slide_id for slide in listed])
    taken = RESERVED | {slide.slide_id for slide in listed}
    return (*listed, *map(SlideInput, _numbered(_ids(files), taken), files))


def named_cohort(paths: Sequence[Path]) -> Cohort:
    """The cohort in a table, or the slides that paths name as one without labels."""
    if len(paths) == 1 and paths[0].suffix.lower() == TABLE_SUFFIX:
        return read_cohort(paths[0], need_labels=False)
    slides = (
        CohortSlide(slide.slide_id, slide.path, mpp=slide.mpp) for slide in collect_slides(paths)
    )
    return Cohort(tuple(slides), classes=(), sha256="")


def _listed(table: Path) -> Iterator[SlideInput]:
    for row in read_cohort(table, need_labels=False).slides:
        yield SlideInput(row.slide_id, row.located(), row.mpp)


def _expanded(path: Path) -> list[Path]:
    """The slides that one argument names; ConfigError where a folder cannot be read."""
    try:
        if set(str(path)) & set(WILD) and not path.exists():
            return _matches(path)
        if not path.is_dir() or path.suffix.lower() in SUFFIXES:
            return [path]
        return _in_folder(path)
    except OSError as error:
        raise ConfigError(
            f"{path.name}: {error.strerror or error}", hint="check the path and its permissions"
        ) from error


def _in_folder(path: Path) -> list[Path]:
    files = _slides(path.iterdir())
    if not files:
        raise ConfigError(
            f"{path.name}: no slides in this folder",
            hint=f"slides end in {' '.join(sorted(SUFFIXES))}; below it: '{path.name}/**/*.svs'",
        )
    return files


def _matches(pattern: Path) -> list[Path]:
    """Slides that fit a pattern of the shell's, `**` for any folders; links are not followed."""
    if any("**" in part and part != "**" for part in pattern.parts):
        raise ConfigError(
            f"{pattern.name!r}: ** stands for folders, alone between slashes",
            hint="such as 'slides/**/*.svs'",
        )
    anchor = Path(pattern.anchor)
    files = _slides(anchor.glob(str(pattern.relative_to(anchor))))
    if not files:
        raise ConfigError(f"no slide fits {pattern.name!r}", hint="look at the pattern")
    return files


def _slides(files: Iterable[Path]) -> list[Path]:
    return sorted(
        file for file in files if file.suffix.lower() in SUFFIXES and not is_mirax_data(file.parent)
    )


def _one_a_series(files: Iterable[Path]) -> Iterator[Path]:
    """The files, but of the .dcm of one folder and DICOM series only the first."""
    seen = set()
    for file in files:
        series = _series(file) if file.suffix.lower() == dicom.SUFFIX else None
        if series is None or (file.parent, series) not in seen:
            yield file
        seen.add((file.parent, series))


def _series(file: Path) -> str | None:
    try:
        return dicom.series_of(file)
    except OSError:  # the slide will say so itself
        return None


def _ids(files: Sequence[Path]) -> Iterator[str]:
    stems = [name_from(file.stem) for file in files]
    shared = {stem for stem, count in Counter(stems).items() if count > 1}
    for stem, file in zip(stems, files, strict=True):
        yield f"{stem[:55]}-{_digest(file)}" if stem in shared else stem


def _digest(file: Path) -> str:
    try:
        return hash_slide(file)[:8] if file.is_file() else "missing"
    except (OSError, SlideError):
        return "damaged"


def _numbered(ids: Iterable[str], taken: frozenset[str]) -> Iterator[str]:
    """`ids`, those that are taken, by an earlier one or anyway, made distinct by a number."""
    seen = set(taken)
    for name in ids:
        distinct = next(n for n in _variants(name) if n not in seen)
        seen.add(distinct)
        yield distinct


def _variants(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name[:58]}-{number}" for number in count(2))


def _check_distinct(ids: Sequence[str]) -> None:
    """ConfigError unless the ids that tables give are of one slide each, and of no other file."""
    for name, times in Counter(ids).items():
        if times > 1:
            raise ConfigError(f"slide {name} is in two tables", hint="name each slide once")
        _check_free(name)


def _check_free(name: str) -> None:
    """ConfigError where an id is the name of another file."""
    if name in RESERVED:
        raise ConfigError(f"no slide can be called {name}", hint="choose another slide_id")
