"""A model of the user's own, by public commands: trained guided, exported, and served."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sagdeploy.cli.app import run
from sagdeploy.models.attention import ModelOutput, masked_softmax

HEADS = 2


class SmallTransformer(nn.Module):
    """One layer whose tiles look at each other; no code of ours but the protocol's two names."""

    def __init__(self, *, features: int, classes: int, magnifications: int, dim: int = 8) -> None:
        super().__init__()
        assert magnifications == 1
        self.embed = nn.Linear(features, dim)
        self.look = nn.Linear(dim, 2 * dim)
        self.classify = nn.Linear(dim, classes)

    def forward(self, features: Sequence[Tensor], is_tile: Sequence[Tensor]) -> ModelOutput:
        """As models.attention has it."""
        x = self.embed(features[0])  # (1, N, dim)
        query, key = self.look(x).unflatten(-1, (2, HEADS, -1)).permute(2, 0, 3, 1, 4)
        maps = masked_softmax(query @ key.mT, is_tile[0][:, None, None])  # (1, H, N, N)
        attention = maps.mean(dim=2)  # (1, H, N)
        slide = attention.mean(dim=1, keepdim=True) @ x  # (1, 1, dim)
        return ModelOutput(self.classify(slide.squeeze(1)), (attention.unsqueeze(1),))


SETTINGS = f"""
select_by = "last"

[model]
name = "{__name__}:SmallTransformer"
standardise = true

[model.options]
dim = 12

[optim]
epochs = 3
lr = 1e-2
"""


def test_it_is_trained_guided_exported_and_predicts(
    tmp_path: Path, cohort: Path, painted: Path
) -> None:
    bags, runs = str(tmp_path / "bags"), [tmp_path / "guided", tmp_path / "baseline"]
    repository, out = str(tmp_path / "repository"), tmp_path / "out"
    (tmp_path / "settings.toml").write_text(SETTINGS)
    sagdeploy("extract", str(cohort), "--out", bags, "--extractor", "stain_texture")
    sagdeploy("guide", str(cohort), "--bags", bags, "--heuristic", "annotations")
    for folder, guidance in zip(runs, ("hg,tg", "none"), strict=True):
        table = ["train", str(cohort), "--bags", bags, "--out", str(folder), "--jobs", "1"]
        sagdeploy(*table, "--config", str(tmp_path / "settings.toml"), "--guidance", guidance)
    guided, baseline = ((folder / "seed_0" / "weights.safetensors").read_bytes() for folder in runs)
    assert guided != baseline
    sagdeploy("export", str(runs[0]), "--repository", repository)
    where = ["--repository", repository, "--out", str(out), "--json"]
    client = [sys.executable, "-m", "sagdeploy", "predict", str(painted), *where]
    said = subprocess.run(client, check=True, stdout=subprocess.PIPE, text=True).stdout
    (prediction,) = json.loads(said)
    assert sum(prediction["prediction"]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert prediction["attention"][0]["sum"] == pytest.approx(1, abs=1e-5)


def sagdeploy(*arguments: str) -> None:
    """Run a command that must succeed."""
    threads = torch.get_num_threads()
    assert run(list(arguments)) == 0
    torch.set_num_threads(threads)
