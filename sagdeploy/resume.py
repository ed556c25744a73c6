"""What of the results in a folder can stay, and what stands in the way of new ones.

Nothing is taken for done because it exists: a result stays while the slide's content, the model,
the parameters and sagdeploy are those it was made with, and every file of it is as it was written.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from sagdeploy.errors import OutputError, SlideError
from sagdeploy.files import sha256_of
from sagdeploy.manifest import Manifest
from sagdeploy.pipeline.inputs import SlideInput
from sagdeploy.pipeline.predict import PredictOptions
from sagdeploy.report.findings import parameters_of
from sagdeploy.report.folder import RECORD, is_free, is_whole, read_record
from sagdeploy.report.record import PredictionRecord, digest
from sagdeploy.slides.source import hash_slide, size_of

SHOWN = 3
"""Of the slides whose results do not fit; the others are counted."""


def options_of(slide: SlideInput, options: PredictOptions) -> PredictOptions:
    """The options for one slide: the scale on the command line wins over that of its table."""
    if options.mpp is not None or slide.mpp is None:
        return options
    return replace(options, mpp=slide.mpp, mpp_source="cohort")


def is_current(
    record: PredictionRecord,
    folder: Path,
    slide: SlideInput,
    *,
    manifest: Manifest,
    options: PredictOptions,
    known_sha256: str | None,
) -> bool:
    """Whether a slide's results are, to the byte, what would be made of it now.

    known_sha256: that an earlier run has noted of the record; None where none did
    """
    if _is_outdated(record, slide, manifest, options):
        return False
    if known_sha256 not in (None, record.sha256) or not is_whole(record, folder):
        return False
    assert record.slide is not None  # or it would be outdated
    return hash_slide(slide.path) == record.slide.sha256


def outdated(
    out: Path, slides: Sequence[SlideInput], *, manifest: Manifest, options: PredictOptions
) -> list[str]:
    """Ids of the slides whose results, by their records alone, will be made again."""
    return [
        slide.slide_id
        for slide in slides
        if (record := read_record(out / slide.slide_id)) is None
        or _is_outdated(record, slide, manifest, options_of(slide, options))
    ]


def other_results(
    out: Path, slide_ids: Collection[str], known: Mapping[str, str]
) -> dict[str, str]:
    """SHA-256 of the records in a folder that are not of these slides, as they were written.

    known: of all that an earlier run has noted
    """
    names = {path.parent.name: path for path in sorted(out.glob(f"*/{RECORD}"))}
    return {
        name: known.get(name) or sha256_of(path)
        for name, path in names.items()
        if name not in slide_ids
    }


def check_free(out: Path, slides: Sequence[SlideInput]) -> None:
    """OutputError where a slide's folder holds something that sagdeploy did not write."""
    taken = [slide.slide_id for slide in slides if not is_free(out / slide.slide_id)]
    if taken:
        raise OutputError(
            f"{out}: {_some(taken)}: not results of sagdeploy, and not to be replaced",
            hint="choose another --out",
        )


def check_one_kind(
    out: Path,
    slides: Sequence[SlideInput],
    others: Collection[str],
    *,
    manifest: Manifest,
    options: PredictOptions,
) -> None:
    """OutputError where a folder holds results that do not go with those that are to come.

    others: ids of slides that have results there, but are not to be diagnosed now
    """
    wanted = {slide.slide_id: options_of(slide, options) for slide in slides}
    differing = []
    for name in (*wanted, *others):
        record = read_record(out / name)
        if record is not None and record.slide is not None:
            said = ", ".join(_differences(record, manifest, wanted.get(name)))
            differing += [f"{name} by {said}"] if said else []
    if differing:
        raise OutputError(
            f"{out}: holds results of another kind: {_some(differing)}",
            hint="choose another --out, or --overwrite to make them again",
        )


def _is_outdated(
    record: PredictionRecord, slide: SlideInput, manifest: Manifest, options: PredictOptions
) -> bool:
    """Whether a record is of a failure, of another kind, or of a slide of another size, or of none.

    A slide that cannot be looked at is none: what is the matter with it is its own outcome.
    """
    if record.slide is None or list(_differences(record, manifest, options)):
        return True
    try:
        return size_of(slide.path) != record.slide.size_bytes
    except SlideError:
        return True


def _differences(
    record: PredictionRecord, manifest: Manifest, options: PredictOptions | None
) -> Iterator[str]:
    """What a result was made with that is another now; options: None if they do not matter."""
    model, parameters = record.model, record.parameters
    assert model is not None  # in the record of a slide that is done
    assert parameters is not None
    if model.manifest_sha256 != digest(manifest):
        yield f"{model.name} version {model.version} ({model.manifest_sha256[:8]})"
    if options is not None:
        now = parameters_of(options)
        for name, value in parameters:
            if value != getattr(now, name):
                yield f"{name} {value}" if value is not None else f"no {name}"
    if (made_by := record.software["sagdeploy"]) != version("sagdeploy"):
        yield f"sagdeploy {made_by}"


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return f"{'; '.join(items[:SHOWN])}{more}"
