"""Our models and losses against numbers that the paper's original code printed.

Each file holds a batch, the original's weights and what it made of them in eval mode. Files
of any size, number of classes and magnifications are read; options follow from the names of
the weights.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sagdeploy.config import GuidanceSettings, Guide
from sagdeploy.models.abmil import Abmil
from sagdeploy.models.attention import ModelOutput
from sagdeploy.models.scatnet import ScAtNet
from sagdeploy.models.self_attention import SelfAttention, attention_map
from sagdeploy.training.loss import GuidedLoss, LossParts

FOLDER = Path(
    os.environ.get("SAGDEPLOY_GOLDEN", Path(__file__).parents[3] / "shared" / "data" / "golden")
)
FILES = sorted(FOLDER.glob("*.npz"))
TOLERANCE = 1e-5
ABMIL_ADAM: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.9), "weight_decay": 5e-3}
SCATNET_ADAM: dict[str, Any] = {"lr": 5e-4, "eps": 1e-9, "weight_decay": 4e-5}

pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not FILES, reason=f"no golden files at {FOLDER}: set SAGDEPLOY_GOLDEN"),
]


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """One file, as our models take it."""

    arrays: dict[str, NDArray[np.float32]]
    model: nn.Module
    features: list[Tensor]
    heuristic_guidance: list[Tensor]
    tissue_guidance: list[Tensor]
    adam: dict[str, Any]

    @property
    def is_tile(self) -> list[Tensor]:
        return [torch.ones(x.shape[:2], dtype=torch.bool) for x in self.features]

    def guides(self) -> tuple[Guide, ...]:
        """Which terms the file has; with one alone, the one that its value fits."""
        losses = self.arrays["losses_scaled"]
        if len(losses) != 2:
            return ("hg", "tg") if len(losses) == 3 else ()
        parts = self.cost(self.loss(("hg", "tg")))
        assert parts.hg is not None
        assert parts.tg is not None
        far = abs(parts.hg.item() - losses[1]) > abs(parts.tg.item() - losses[1])
        return ("tg",) if far else ("hg",)

    def answer(self) -> ModelOutput:
        out: ModelOutput = self.model(self.features, self.is_tile)
        return out

    def loss(self, guides: tuple[Guide, ...] | None = None) -> GuidedLoss:
        terms = self.guides() if guides is None else guides
        return GuidedLoss(GuidanceSettings(terms=terms, compat="reference"), "bce")

    def cost(self, loss: GuidedLoss) -> LossParts:
        parts: LossParts = loss(
            self.answer(),
            torch.from_numpy(self.arrays["label"]),
            self.is_tile,
            heuristic_guidance=self.heuristic_guidance,
            tissue_guidance=self.tissue_guidance,
        )
        return parts


def weights_of(arrays: dict[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    start = "param."
    return {
        name.removeprefix(start).removeprefix("module."): torch.from_numpy(array)
        for name, array in arrays.items()
        if name.startswith(start)
    }


def read_abmil(arrays: dict[str, NDArray[np.float32]]) -> Golden:
    weights = weights_of(arrays)
    hidden, features = weights["attention.0.weight"].shape
    classes = len(weights["classifier.0.weight"])
    model = Abmil(features=features, classes=classes, hidden=hidden)
    model.load_state_dict(weights)
    bag, hg, tg = (torch.from_numpy(arrays[name])[None] for name in ("feats", "hg", "tg"))
    return Golden(arrays, model.eval(), [bag], [hg], [tg], ABMIL_ADAM)


def read_scatnet(arrays: dict[str, NDArray[np.float32]]) -> Golden:
    weights = weights_of(arrays)
    count = sum(re.fullmatch(r"x\d+", name) is not None for name in arrays)
    features = [torch.from_numpy(arrays[f"x{index}"]) for index in range(count)]
    encoder = "scale_wise_attn.scale_{}.proj_cnn_emb.weight"
    others = [weights.get(encoder.format(index)) for index in range(1, count)]
    first = weights[encoder.format(0)]
    model = ScAtNet(
        features=first.shape[1],
        classes=len(weights["classifier.3.weight"]),
        magnifications=count,
        dim=len(first),
        layers=count_of(r"MA_s0_l\d+", arrays),
        heads=arrays["MA_s0_l0"].shape[1],
        scale_layers=count_of(r"attend_over_scales\.attn_over_scale_\d+\.mha\.kqv\.bias", weights),
        tied=count > 1 and all(other is None or torch.equal(other, first) for other in others),
        scale_embedding="learned" if "scale_pos_emb.weight" in weights else "sinusoid",
        compat="reference",
    )
    model.load_state_dict(weights)
    hg, tg = (
        [torch.from_numpy(arrays[f"{name}{index}"]).flatten(1) for index in range(count)]
        for name in ("hg", "tg")
    )
    return Golden(arrays, model.eval(), features, hg, tg, SCATNET_ADAM)


def count_of(pattern: str, names: Any) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in names)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def golden(request: pytest.FixtureRequest) -> Golden:
    with np.load(request.param, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if not weights_of(arrays):
        pytest.skip("the file holds no weights")
    return read_abmil(arrays) if "feats" in arrays else read_scatnet(arrays)


def check(ours: Tensor, arrays: dict[str, NDArray[np.float32]], name: str) -> None:
    theirs = torch.from_numpy(np.asarray(arrays[name]))
    torch.testing.assert_close(
        ours.detach().reshape(theirs.shape), theirs, rtol=TOLERANCE, atol=TOLERANCE
    )


def test_golden_logits(golden: Golden) -> None:
    check(golden.answer().logits, golden.arrays, "logits")


def test_golden_attention(golden: Golden) -> None:
    attention = golden.answer().attention
    if "attention" in golden.arrays:
        check(attention[0], golden.arrays, "attention")
    for name in golden.arrays:
        if found := re.fullmatch(r"MA_s(\d+)_l(\d+)", name):
            magnification, layer = int(found[1]), int(found[2])
            check(attention[magnification][:, layer], golden.arrays, name)


def test_golden_attention_of_each_query(golden: Golden) -> None:
    for name, layer, bag in maps_of(golden):
        key_bias = torch.zeros(1, 1, bag.shape[1])
        query, key, _ = (part.flatten(0, 1) for part in layer.project(bag))
        check(attention_map(query, key, key_bias, layer.scale), golden.arrays, name)


def maps_of(golden: Golden) -> Iterator[tuple[str, SelfAttention, Tensor]]:
    """Each layer whose map the file holds, and what goes into it."""
    inputs: list[tuple[SelfAttention, Tensor]] = []
    layers = [module for module in golden.model.modules() if isinstance(module, SelfAttention)]
    handles = [
        layer.register_forward_pre_hook(lambda module, given: inputs.append((module, given[0])))
        for layer in layers
    ]
    golden.answer()
    for handle in handles:
        handle.remove()
    names = [
        f"attn_s{magnification}_l{index}"
        for magnification in range(len(golden.features))
        for index in range(count_of(r"MA_s0_l\d+", golden.arrays))
    ]
    seen = dict(zip(names, inputs, strict=False))
    if inputs:
        seen["scale_attn_last"] = inputs[-1]
    for name, (layer, bag) in seen.items():
        if name in golden.arrays:
            yield name, layer, bag


def test_golden_losses(golden: Golden) -> None:
    guides = golden.guides()
    parts = golden.cost(golden.loss())
    values = {"hg": parts.hg, "tg": parts.tg}
    losses = [parts.classification, *(v for g in guides if (v := values[g]) is not None)]
    check(torch.stack(losses), golden.arrays, "losses_scaled")
    check(parts.weights, golden.arrays, "uw_weights")
    check(parts.total, golden.arrays, "uw_total")


def test_golden_single_terms(golden: Golden) -> None:
    parts = golden.cost(golden.loss(("hg", "tg")))
    for name, value in {
        "loss_cls": parts.classification,
        "loss_mse_raw": parts.hg,
        "loss_inout_raw": parts.tg,
    }.items():
        if name in golden.arrays and value is not None:
            guided = golden.heuristic_guidance[0].any() or name != "loss_mse_raw"
            raw = value if name == "loss_cls" else 10 * value
            check(raw if guided else torch.zeros(()), golden.arrays, name)


def test_golden_gradients(golden: Golden) -> None:
    loss = golden.loss()
    torch.autograd.backward(golden.cost(loss).total)
    assert loss.weighting is not None
    ours = dict(golden.model.named_parameters()) | {"loss_scale": loss.weighting.log_variance}
    for name in golden.arrays:
        own = name.removeprefix("grad.").removeprefix("module.")
        if name.startswith("grad.") and own in ours:
            gradient = ours[own].grad
            assert gradient is not None
            check(gradient, golden.arrays, name)


def test_golden_trajectory(golden: Golden) -> None:
    if "traj" not in golden.arrays:
        pytest.skip("the file holds no trajectory")
    guides = golden.guides()
    loss = golden.loss(guides)
    assert loss.weighting is not None
    optimizer = torch.optim.Adam([*golden.model.parameters(), *loss.parameters()], **golden.adam)
    rows = []
    for _ in range(len(golden.arrays["traj"])):
        parts = golden.cost(loss)
        optimizer.zero_grad()
        torch.autograd.backward(parts.total)
        optimizer.step()
        values = {"hg": parts.hg, "tg": parts.tg}
        losses = [
            parts.classification,
            *(v for g in guides if (v := values[g]) is not None),
        ]
        after = loss.weighting.log_variance.detach().clone()
        rows.append(torch.cat([torch.stack(losses), parts.weights, after]))
    check(torch.stack(rows), golden.arrays, "traj")
