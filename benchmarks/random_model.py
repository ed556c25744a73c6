"""A model repository whose weights are random: for benchmarks of what runs it.

Import it in a process of its own: it loads PyTorch, which nothing that is measured needs.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sagdeploy.export.graph import export_diagnosis, export_extractor
from sagdeploy.export.pace import core_pace
from sagdeploy.export.precision import to_int8
from sagdeploy.export.repository import publish
from sagdeploy.manifest import ManifestDraft, ModelCard, Parity
from sagdeploy.models.extractors import build_extractor
from sagdeploy.models.registry import build_model
from sagdeploy.serving.runtime import extractor_card
from sagdeploy.slides.tiling import TilePlan


def publish_random(
    repository: Path,
    name: str,
    *,
    extractor: str,
    tile_px: int,
    calibration: NDArray[np.uint8] | None = None,
) -> None:
    """Publish an ABMIL on one of our extractors; in int8 where there are tiles to calibrate it."""
    scratch = repository.parent
    network = build_extractor(extractor, seed=None if extractor == "stain_texture" else 0)
    onnx = export_extractor(network, scratch / "extractor.onnx", tile_px=None)
    if calibration is not None:
        batches = np.array_split(calibration, max(1, len(calibration) // 16))
        onnx = to_int8(onnx, scratch / "int8.onnx", batches)
    card = extractor_card(onnx, name=extractor, weights="random")
    model = build_model("abmil", features=card.features, classes=2, magnifications=1, options={})
    diagnosis = export_diagnosis(
        model, scratch / "diagnosis.onnx", magnifications=1, features=card.features
    )
    draft = ManifestDraft(
        name=name,
        classes=("benign", "malignant"),
        plan=TilePlan(tile_px=tile_px),
        extractor=card,
        pace=core_pace(onnx, tile_px),
        card=ModelCard(
            model="abmil",
            guidance=(),
            seed=0,
            epoch=0,
            cohort_sha256="0" * 64,
            slides={},
            validation={},
        ),
        parity=Parity(tiles=(), extractor=(), diagnosis=()),
        software={},
    )
    publish(repository, draft, extractor_onnx=onnx, diagnosis_onnx=diagnosis)
