"""Export a training run: its best seed on validation becomes a version in a repository."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from sagdeploy.errors import ExportError
from sagdeploy.export.graph import attention_maps, export_diagnosis
from sagdeploy.export.pace import core_pace
from sagdeploy.export.parity import BAG_TILES, diagnosis_parity
from sagdeploy.export.reduction import Reduced, Reduction, Trained, reduce_extractor
from sagdeploy.export.repository import publish
from sagdeploy.manifest import CorePace, Manifest, ManifestDraft, ModelCard, Parity
from sagdeploy.serving.runtime import CPU, providers
from sagdeploy.slides.tiling import TilePlan
from sagdeploy.training.checkpoint import (
    EXTRACTOR_FILE,
    SeedResult,
    TrainingRecord,
    best_result,
    load_model,
    read_results,
    read_run,
    software_versions,
)
from sagdeploy.training.terms import taught_heads

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
    reduction: Reduction | None = None,
) -> Manifest:
    """Publish a run's model into a Triton repository, and return its manifest.

    The seed is the best one on validation, never on test.
    extractor: its ONNX file, where the run does not hold it
    reduction: to fewer bits; None for the extractor that training saw
    Raises ExportError where ONNX Runtime does not say what PyTorch says.
    """
    record = read_run(run)
    plan = _plan(run, record)
    result = best_result(read_results(run))
    model = load_model(run, record, result)
    extractor_onnx = _existing(extractor or run / EXTRACTOR_FILE)
    with TemporaryDirectory() as folder:
        diagnosis_onnx = export_diagnosis(
            model,
            Path(folder) / "diagnosis.onnx",
            magnifications=record.magnifications,
            features=record.extractor.features,
            temperature=result.temperature,
        )
        parity = Parity(
            tiles=BAG_TILES,
            extractor=record.extractor.parity,
            diagnosis=diagnosis_parity(model, diagnosis_onnx, result.temperature),
        )
        draft = _draft(name, plan, record, result, model, parity)
        if reduction is not None:
            trained = Trained(record, result, plan, extractor_onnx, diagnosis_onnx)
            reduced = reduce_extractor(trained, reduction, Path(folder) / EXTRACTOR_FILE)
            draft, extractor_onnx = _with(draft, reduced), reduced.onnx
        draft = draft.model_copy(update={"pace": _pace(extractor_onnx, draft)})
        return publish(
            repository,
            draft,
            extractor_onnx=extractor_onnx,
            diagnosis_onnx=diagnosis_onnx,
            version=version,
        )


def _existing(extractor_onnx: Path) -> Path:
    """The same file; ExportError where it is none."""
    if not extractor_onnx.is_file():
        raise ExportError(
            f"{extractor_onnx.parent}: holds no {extractor_onnx.name}",
            hint="pass --extractor FILE.onnx, which made the bags",
        )
    return extractor_onnx


def _plan(run: Path, record: TrainingRecord) -> TilePlan:
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
    record: TrainingRecord,
    result: SeedResult,
    model: nn.Module,
    parity: Parity,
) -> ManifestDraft:
    guidance = record.settings.guidance
    maps = attention_maps(
        model, magnifications=record.magnifications, features=record.extractor.features
    )
    taught = taught_heads(torch.empty(1, 1, maps.heads, 1), guidance.hg_heads).shape[2]
    return ManifestDraft(
        name=name,
        classes=record.classes,
        plan=plan,
        extractor=record.extractor,
        heads=maps.heads,
        layers=maps.layers,
        temperature=result.temperature,
        attention_on_tissue_floor=_floor(result.least_on_tissue),
        card=ModelCard(
            model=record.settings.model.name,
            guidance=guidance.terms,
            hg_heads=taught if "hg" in guidance.terms else 0,
            seed=result.seed,
            epoch=result.epoch,
            cohort_sha256=record.cohort_sha256,
            slides=record.slides,
            validation=result.validation,
        ),
        parity=parity,
        software=software_versions(),
    )


def _pace(extractor_onnx: Path, draft: ManifestDraft) -> CorePace | None:
    """Of its extractor, on tiles as the plan cuts them; not asked on a GPU, which needs none."""
    if providers()[0] != CPU:
        return None
    return core_pace(extractor_onnx, draft.extractor.tile_px or draft.plan.tile_px)


def _with(draft: ManifestDraft, reduced: Reduced) -> ManifestDraft:
    """The draft of the same model with its extractor in fewer bits."""
    parity = draft.parity.model_copy(update={"extractor": ()})
    changes = {"extractor": reduced.card, "margin": reduced.margin, "parity": parity}
    return draft.model_copy(update=changes)


def _floor(least_on_tissue: float | None) -> float | None:
    return None if least_on_tissue is None else max(0.0, least_on_tissue - ON_TISSUE_MARGIN)
