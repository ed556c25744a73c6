"""What was found on a slide, as its record."""

import platform
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray

from sagdeploy.manifest import Manifest
from sagdeploy.pipeline.outcome import SlideOutcome
from sagdeploy.pipeline.predict import Prediction, PredictOptions, SlideFacts
from sagdeploy.report.record import (
    TOP_TILES,
    AttentionRecord,
    CautionRecord,
    DiagnosisRecord,
    ErrorRecord,
    ModelRecord,
    MppRecord,
    ParametersRecord,
    PredictionRecord,
    SlideRecord,
    TissueRecord,
    TopTile,
    digest,
)
from sagdeploy.report.scale import percentiles
from sagdeploy.slides.tiling import Tiles

SOFTWARE = ("sagdeploy", "numpy", "pillow", "openslide-python", "openslide-bin")


def record_of(prediction: Prediction, artefacts: dict[str, str]) -> PredictionRecord:
    """The record of a slide that is done.

    artefacts: SHA-256 of the files written beside it, by name
    """
    magnifications = zip(
        prediction.tiles, prediction.diagnosis.attention, prediction.tissue_coverage, strict=True
    )
    parameters = parameters_of(prediction.options)
    return PredictionRecord(
        slide_id=prediction.slide_id,
        status="done",
        slide=_slide(prediction.slide),
        tissue=TissueRecord(share=prediction.tissue.share, threshold=prediction.tissue.threshold),
        model=_model(prediction.manifest),
        parameters=parameters,
        parameters_sha256=parameters.sha256,
        engine=prediction.engine,
        prediction=_diagnosis(prediction),
        attention=tuple(_attention(*each) for each in magnifications),
        counts=prediction.counts,
        warnings=tuple(
            CautionRecord(code=caution.code, message=caution.message)
            for caution in prediction.warnings
        ),
        software=_software(),
        artefacts=artefacts,
    )


def failure_of(outcome: SlideOutcome) -> PredictionRecord:
    """The record of a slide that is not done: why, and no number."""
    return PredictionRecord(
        slide_id=outcome.slide_id,
        status=outcome.status,
        error=ErrorRecord(code=outcome.exit_code, message=outcome.message),
        software=_software(),
        artefacts={},
    )


def parameters_of(options: PredictOptions) -> ParametersRecord:
    """The options that change a result."""
    source = None if options.mpp is None else options.mpp_source
    return ParametersRecord(mpp=options.mpp, mpp_source=source, trust_mpp=options.trust_mpp)


def _slide(facts: SlideFacts) -> SlideRecord:
    return SlideRecord(
        sha256=facts.sha256,
        size_bytes=facts.size_bytes,
        size_l0=facts.size_l0,
        bounds_l0=facts.bounds_l0,
        mpp=MppRecord(value=facts.mpp.value, source=facts.mpp.source, metadata=facts.mpp.metadata),
        vendor=facts.vendor,
        objective_power=facts.objective_power,
        levels=facts.levels,
        missing_share=facts.missing_share,
    )


def _model(manifest: Manifest) -> ModelRecord:
    return ModelRecord(
        name=manifest.name,
        version=manifest.version,
        network=manifest.card.model,
        guidance=manifest.card.guidance,
        classes=manifest.classes,
        plan=manifest.plan,
        extractor=manifest.extractor.name,
        extractor_weights=manifest.extractor.weights,
        extractor_sha256=manifest.extractor.sha256,
        diagnosis_sha256=manifest.diagnosis_sha256,
        manifest_sha256=digest(manifest),
        cohort_sha256=manifest.card.cohort_sha256,
    )


def _diagnosis(prediction: Prediction) -> DiagnosisRecord:
    classes, diagnosis = prediction.manifest.classes, prediction.diagnosis
    probabilities = diagnosis.probabilities.clip(0, 1)  # a softmax may end a rounding above 1
    second, first = np.sort(probabilities)[-2:].tolist()
    return DiagnosisRecord(
        label=classes[int(probabilities.argmax())],
        probabilities=dict(zip(classes, probabilities.tolist(), strict=True)),
        logits=dict(zip(classes, diagnosis.logits.tolist(), strict=True)),
        margin=first - second,
        temperature=prediction.manifest.temperature,
        calibrated=prediction.manifest.temperature != 1,
    )


def _attention(
    tiles: Tiles, attention: NDArray[np.float32], tissue: NDArray[np.float64]
) -> AttentionRecord:
    percentile = percentiles(attention)
    order = np.argsort(-attention, kind="stable")
    summed = np.cumsum(attention[order], dtype=np.float64)
    even = float(summed[-1]) / len(tiles)  # Python's, so that NumPy rounds it as the attention is
    shown = min(TOP_TILES, max(1, np.count_nonzero(attention > even)))
    return AttentionRecord(
        mpp=tiles.mpp,
        tiles=len(tiles),
        tile_size_l0=tiles.size_l0,
        tile_size_px=tiles.size_px,
        sum=summed[-1],
        on_tissue=min(1.0, float(attention @ tissue)),
        on_tissue_if_even=tissue.mean(),
        tiles_with_half=int(np.searchsorted(summed, summed[-1] / 2)) + 1,
        top_tiles=tuple(
            TopTile(
                xy_l0=(int(tiles.xy_l0[row, 0]), int(tiles.xy_l0[row, 1])),
                attention=attention[row],
                percentile=percentile[row],
            )
            for row in order[:shown]
        ),
    )


def _software() -> dict[str, str]:
    """Versions of what a result depends on in this process."""
    found = {"python": platform.python_version()}
    for name in SOFTWARE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found
