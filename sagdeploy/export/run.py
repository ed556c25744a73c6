"""Export a training run: its best seed on validation becomes a version in a repository."""

from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from sagdeploy.errors import ExportError
from sagdeploy.export.graph import export_diagnosis
from sagdeploy.export.parity import measure_parity
from sagdeploy.export.repository import publish
from sagdeploy.manifest import ManifestDraft, ModelCard, Parity
from sagdeploy.training.checkpoint import (
    EXTRACTOR_FILE,
    RunRecord,
    SeedResult,
    best_result,
    load_model,
    read_results,
    read_run,
    software_versions,
)


def export_run(
    run: Path,
    repository: Path,
    name: str,
    *,
    version: int | None = None,
    extractor: Path | None = None,
) -> int:
    """Publish a run's model into a Triton repository, and return its version.

    The seed is the best one on validation, never on test.
    extractor: its ONNX file, where the run does not hold it
    Raises ExportError where ONNX Runtime does not say what PyTorch says.
    """
    record = read_run(run)
    result = best_result(read_results(run))
    model = load_model(run, record, result)
    extractor_onnx = extractor or run / EXTRACTOR_FILE
    if not extractor_onnx.is_file():
        raise ExportError(
            f"{run}: holds no {EXTRACTOR_FILE}",
            hint="pass --extractor FILE.onnx, which made the bags",
        )
    with TemporaryDirectory() as folder:
        diagnosis_onnx = export_diagnosis(
            model,
            Path(folder) / "diagnosis.onnx",
            magnifications=len(record.plan.mpp),
            features=record.extractor.features,
            temperature=result.temperature,
        )
        parity = measure_parity(
            extractor=None,
            extractor_onnx=extractor_onnx,
            model=model,
            diagnosis_onnx=diagnosis_onnx,
            temperature=result.temperature,
        )
        return publish(
            repository,
            _draft(name, record, result, model, parity),
            extractor_onnx=extractor_onnx,
            diagnosis_onnx=diagnosis_onnx,
            version=version,
        )


def _draft(
    name: str, record: RunRecord, result: SeedResult, model: nn.Module, parity: Parity
) -> ManifestDraft:
    return ManifestDraft(
        name=name,
        classes=record.classes,
        plan=record.plan,
        extractor=record.extractor,
        heads=getattr(model, "heads", 1),
        layers=getattr(model, "layers", 1),
        temperature=result.temperature,
        card=ModelCard(
            model=record.settings.model.name,
            guidance=record.settings.guidance.terms,
            seed=result.seed,
            epoch=result.epoch,
            cohort_sha256=record.cohort_sha256,
            slides=record.slides,
            validation=result.validation,
        ),
        parity=parity,
        software=software_versions(),
    )
