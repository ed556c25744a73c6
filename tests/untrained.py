"""A model repository for tests that need one, but no trained model."""

from pathlib import Path

import torch

from sagdeploy.export.extractor import ExtractorSource, prepare_extractor
from sagdeploy.export.graph import export_diagnosis
from sagdeploy.export.parity import BAG_TILES, diagnosis_parity
from sagdeploy.export.repository import publish
from sagdeploy.manifest import ManifestDraft, ModelCard, Parity
from sagdeploy.models.registry import build_model
from sagdeploy.pipeline.extract import EXTRACTOR_FILE
from sagdeploy.slides.tiling import TilePlan

CLASSES = ("benign", "malignant")
PLAN = TilePlan(tile_px=112, min_tissue=0.05)


def publish_untrained(repository: Path, scratch: Path, name: str = "sag") -> int:
    """Publish an ABMIL with seeded random weights as a new version of `name`."""
    card = prepare_extractor(ExtractorSource("stain_texture"), scratch)
    torch.manual_seed(7)
    model = build_model(
        "abmil", features=card.features, classes=len(CLASSES), magnifications=1, options={}
    )
    diagnosis = export_diagnosis(
        model, scratch / "diagnosis.onnx", magnifications=1, features=card.features
    )
    extractor = scratch / EXTRACTOR_FILE
    draft = ManifestDraft(
        name=name,
        classes=CLASSES,
        plan=PLAN,
        extractor=card,
        card=ModelCard(
            model="abmil",
            guidance=(),
            seed=7,
            epoch=0,
            cohort_sha256="0" * 64,
            slides={},
            validation={},
        ),
        parity=Parity(tiles=BAG_TILES, extractor=(), diagnosis=diagnosis_parity(model, diagnosis)),
        software={},
    )
    manifest = publish(repository, draft, extractor_onnx=extractor, diagnosis_onnx=diagnosis)
    return manifest.version
