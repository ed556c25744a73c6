"""The report: one page a slide that holds everything it shows and works from a file.

Its text and numbers come from the record, its frame from `page.html`, `page.css` and `page.js`
beside this module. All text from outside is escaped.
"""

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

from sagdeploy.manifest import Manifest
from sagdeploy.report import viewer
from sagdeploy.report.pictures import Pictures
from sagdeploy.report.record import (
    CautionRecord,
    DiagnosisRecord,
    ModelRecord,
    PredictionRecord,
    SlideRecord,
)

GUIDANCE = {"hg": "heuristic (HG)", "tg": "tissue (TG)"}
ENOUGH_SLIDES = 100
"""From which on a calibration error of some points would have shown."""

VALIDATION = {"accuracy": "accuracy", "auc": "AUC", "ece": "calibration error", "loss": "loss"}
"""What the page says of the model's validation."""

MPP_SOURCES = {
    "metadata": "the slide's metadata",
    "option": "the command line",
    "cohort": "the cohort's table",
}


def render_page(record: PredictionRecord, manifest: Manifest, pictures: Pictures) -> str:
    """The report of a slide that is done, as HTML."""
    assert record.slide is not None
    assert record.model is not None
    assert record.prediction is not None
    assert record.attention is not None
    width, height = record.slide.size_l0
    layers = viewer.layers_of(record.attention, record.slide.size_l0, pictures)
    return Template(_asset("page.html")).substitute(
        slide_id=escape(record.slide_id),
        label=escape(record.prediction.label),
        model=escape(f"{record.model.name}, version {record.model.version}"),
        bars=_bars(record.prediction),
        meaning=_meaning(record.prediction, manifest.card.slides.get("val", 0)),
        warnings=_warnings(record.warnings),
        looks="\n".join([*map(viewer.looks, layers), viewer.heads(layers)]),
        switches=viewer.switches(layers),
        aspect=f"{width / height:.6f}",
        shape=" tall" if height > width else "",
        slide_image=pictures.slide,
        small_image=pictures.small_slide,
        layers="\n".join(map(viewer.images, layers)),
        places="\n".join(map(viewer.places, layers)),
        legends="".join(viewer.legends(layer, pictures.ramp) for layer in layers),
        tiles="\n".join(map(viewer.top_tiles, layers)),
        model_rows=_rows(_model_facts(record.model, manifest)),
        making_rows=_rows(_making_facts(record, record.slide)),
        sagdeploy=escape(record.software["sagdeploy"]),
        style=_asset("page.css"),
        script=_asset("page.js"),
    )


def _asset(name: str) -> str:
    return files("sagdeploy.report").joinpath(name).read_text(encoding="utf-8")


def _bars(prediction: DiagnosisRecord) -> str:
    lines = []
    for name, probability in prediction.probabilities.items():
        first = " first" if name == prediction.label else ""
        lines.append(
            f'<span class="name{first}">{escape(name)}</span>'
            f'<span class="track{first}"><i style="width: {100 * probability:.1f}%"></i></span>'
            f'<span class="value{first}">{100 * probability:.1f} %</span>'
        )
    return "\n".join(lines)


def _meaning(prediction: DiagnosisRecord, slides: int) -> str:
    """What the probabilities mean, by a temperature that was fitted on so many slides."""
    fitted = f"(temperature {prediction.temperature:.3g}, fitted on {slides:,} validation slides)"
    if prediction.calibrated and slides >= ENOUGH_SLIDES:
        return (
            f"Calibrated {fitted}: of slides like those, about nine in ten that get 90 % for a"
            " class are of that class. Slides of another kind may differ."
        )
    if prediction.calibrated:
        return (
            f"Scaled {fitted}. So few slides do not show how often such probabilities come true:"
            " they are not the chance that the slide is of a class."
        )
    return (
        "Not calibrated: these are the model's scores, which sum to 100 %."
        " They are not the chance that the slide is of a class."
    )


def _warnings(warnings: Sequence[CautionRecord]) -> str:
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(warning.message)}</li>" for warning in warnings)
    return f'<section class="card wide warning"><h2>Please note</h2><ul>{items}</ul></section>'


def _rows(facts: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"<tr><th>{escape(name)}</th><td>{text}</td></tr>" for name, text in facts)


def _model_facts(model: ModelRecord, manifest: Manifest) -> Iterable[tuple[str, str]]:
    card = manifest.card
    guidance = ", ".join(GUIDANCE.get(term, term) for term in model.guidance) or "none"
    slides = ", ".join(f"{count:,} {split}" for split, count in card.slides.items())
    metrics = ", ".join(
        f"{text} {card.validation[name]:.3g}"
        for name, text in VALIDATION.items()
        if name in card.validation
    )
    yield "Network", escape(f"{model.network}, guidance: {guidance}")
    yield "Classes", escape(", ".join(model.classes))
    yield "Slides", escape(slides)
    yield "Validation", escape(f"{metrics or 'none'} (epoch {card.epoch}, seed {card.seed})")
    yield "Tiles", escape(_plan(model))
    yield "Extractor", escape(f"{model.extractor}: {model.extractor_weights}")
    yield "Extractor SHA-256", _code(model.extractor_sha256)
    yield "Diagnosis SHA-256", _code(model.diagnosis_sha256)
    yield "Manifest SHA-256", _code(model.manifest_sha256)


def _plan(model: ModelRecord) -> str:
    plan = model.plan
    scales = ", ".join(f"{mpp:g}" for mpp in plan.mpp)
    if plan.kind == "dense":
        return f"{plan.tile_px} px at mpp {scales}, at least {100 * plan.min_tissue:g} % tissue"
    crops = ", ".join(f"{n} x {n}" for n in plan.grid)
    return f"{crops} crops over the tissue at mpp {scales}, background kept"


def _making_facts(record: PredictionRecord, slide: SlideRecord) -> Iterable[tuple[str, str]]:
    width, height = slide.size_l0
    versions = ", ".join(f"{name} {version}" for name, version in record.software.items())
    counts = ", ".join(
        f"{name.replace('_', ' ')} {count:,}" for name, count in (record.counts or {}).items()
    )
    yield "Slide", escape(f"{width:,} x {height:,} px, {slide.vendor}")
    yield "Scale", escape(f"mpp {slide.mpp.value:g}, from {MPP_SOURCES[slide.mpp.source]}")
    if slide.objective_power:
        yield "Objective", escape(f"{slide.objective_power:g}x")
    yield "Slide SHA-256", _code(slide.sha256)
    yield "Counts", escape(counts)
    yield "Missing", f"{100 * slide.missing_share:.1f} % of the pixels that were read"
    yield "Parameters SHA-256", _code(record.parameters_sha256 or "")
    yield "Engine", escape(record.engine or "")
    yield "Software", escape(versions)
    for name, sha256 in record.artefacts.items():
        yield name, _code(sha256)


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"
