"""Export a training run: its best seed on validation becomes a version in a repository."""

from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from sagdeploy.errors import ExportError
from sagdeploy.export.graph import export_diagnosis
from sagdeploy.export.parity import measure_parity
from sagdeploy.export.repository import publish
from sagdeploy.manifest import ManifestDraft, ModelCard, Parity
from sagdeploy.slides.tiling import TilePlan
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

ON_TISSUE_MARGIN = 0.05
"""Below the least share of attention on tissue of all validation slides, before it is a warning:
of n + 1 slides of one kind each is as likely to have the least, so that without a margin one in
n + 1 would be warned of for nothing."""


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
    plan = _plan(run, record)
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
            magnifications=record.magnifications,
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
            _draft(name, plan, record, result, model, parity),
            extractor_onnx=extractor_onnx,
            diagnosis_onnx=diagnosis_onnx,
            version=version,
        )


def _plan(run: Path, record: RunRecord) -> TilePlan:
    """How a client must cut slides; ExportError where the bags did not say."""
    if record.plan is None:
        raise ExportError(
            f"{run}: trained on features of other software ({record.origin}), which do not say "
            "how slides are cut",
            hint="run sagdeploy extract with that extractor as FILE.onnx, and train on its bags",
        )
    return record.plan


def _draft(
    name: str,
    plan: TilePlan,
    record: RunRecord,
    result: SeedResult,
    model: nn.Module,
    parity: Parity,
) -> ManifestDraft:
    return ManifestDraft(
        name=name,
        classes=record.classes,
        plan=plan,
        extractor=record.extractor,
        heads=getattr(model, "heads", 1),
        layers=getattr(model, "layers", 1),
        temperature=result.temperature,
        attention_on_tissue_floor=_floor(result.least_on_tissue),
        card=ModelCard(
            model=record.settings.model.name,
            guidance=record.settings.guidance.terms,
            seed=result.seed,
            epoch=result.epoch,
            cohort_sha256=record.cohort_sha256,
            slides=record.slides,
            validation=result.validation,
        ),
        parity=parity.model_copy(update={"extractor": record.extractor.parity}),
        software=software_versions(),
    )


def _floor(least_on_tissue: float | None) -> float | None:
    return None if least_on_tissue is None else max(0.0, least_on_tissue - ON_TISSUE_MARGIN)
