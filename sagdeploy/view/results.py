"""The results of `predict` as the viewer shows them: a folder's slides, one or two models each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from sagdeploy.config import problems
from sagdeploy.errors import ConfigError
from sagdeploy.files import sha256_of
from sagdeploy.report.folder import PAGE, RECORD, TILES
from sagdeploy.report.record import PredictionRecord, SlideRecord
from sagdeploy.report.tables import AttentionMap, read_tiles


@dataclass(frozen=True, slots=True)
class Result:
    """What one model made of one slide."""

    record: PredictionRecord
    folder: Path

    def attention(self) -> tuple[AttentionMap, ...]:
        """The attention of every tile, one map a magnification."""
        return read_tiles(self._checked(TILES))

    def page(self) -> bytes:
        """The report."""
        return self._checked(PAGE).read_bytes()

    def _checked(self, name: str) -> Path:
        """A file of the result; ConfigError where it is not the one that was written with it."""
        path = self.folder / name
        try:
            is_ours = path.is_file() and sha256_of(path) == self.record.artefacts.get(name)
        except OSError:
            is_ours = False
        if not is_ours:
            raise ConfigError(
                f"{self.record.slide_id}: {name} is not the file that {RECORD} names",
                hint="run sagdeploy predict again",
            )
        return path


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One slide with the results that were found for it, one a folder; None where one lacks it."""

    slide_id: str
    slide: SlideRecord | None
    """None where no model read it."""

    results: tuple[Result | None, ...]


def read_results(out: Path) -> tuple[Result, ...]:
    """The results in a folder that `predict` wrote; ConfigError where there are none, or not ours.

    A folder of one slide's results will do as well.
    """
    files = sorted(out.glob(f"*/{RECORD}")) or sorted(out.glob(RECORD))
    if not files:
        raise ConfigError(
            f"{out}: holds no results", hint="name the folder that sagdeploy predict --out wrote"
        )
    return tuple(Result(_read_record(path), path.parent) for path in files)


def exhibits(folders: Sequence[Sequence[Result]]) -> tuple[Exhibit, ...]:
    """The slides of all folders, each once: those of the first, then those it lacks.

    Results are of one slide where the hashes of its file agree, whatever they call it.
    """
    keys = {_key(result): result for results in reversed(folders) for result in reversed(results)}
    columns = [{_key(result): result for result in results} for results in folders]
    order = dict.fromkeys(_key(result) for results in folders for result in results)
    return tuple(
        Exhibit(
            keys[key].record.slide_id,
            keys[key].record.slide,
            tuple(column.get(key) for column in columns),
        )
        for key in order
    )


def _key(result: Result) -> str:
    slide = result.record.slide
    return slide.sha256 if slide else result.record.slide_id


def _read_record(path: Path) -> PredictionRecord:
    try:
        return PredictionRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ConfigError(
            f"{path}: not a record that this sagdeploy reads: {problems(error)}",
            hint="run sagdeploy predict again",
        ) from error
