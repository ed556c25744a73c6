"""Where groups of a model's heads looked, from a trained ScAtNet to its report."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sagdeploy.cli.app import run
from sagdeploy.errors import EngineError
from sagdeploy.pipeline.predict import Prediction
from sagdeploy.report.findings import record_of
from sagdeploy.report.folder import write_results
from sagdeploy.report.heads import head_groups, maps_of
from sagdeploy.report.page import render_page
from sagdeploy.report.pictures import pictures_of
from sagdeploy.serving.engine import check_diagnosis
from sagdeploy.serving.local import LocalEngine
from sagdeploy.slides.slide import Slide
from tests.page_watch import watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LAYERS, HEADS, TAUGHT = 2, 4, 1


@pytest.fixture
def many(make_prediction: Callable[..., Prediction]) -> Prediction:
    """A prediction with eight maps of each slide, the first and fifth of which HG taught."""
    plain = make_prediction(scales=2)
    heads = tuple(
        np.random.default_rng(0).dirichlet(np.ones(len(tiles)), LAYERS * HEADS).astype(np.float32)
        for tiles in plain.tiles
    )
    manifest = plain.manifest.model_copy(
        update={
            "layers": LAYERS,
            "heads": HEADS,
            "card": plain.manifest.card.model_copy(update={"hg_heads": TAUGHT}),
        }
    )
    return replace(plain, manifest=manifest, diagnosis=replace(plain.diagnosis, heads=heads))


def test_taught_and_free_heads_and_layers_are_means_of_their_maps(many: Prediction) -> None:
    shown = {own.name: own.attention for own in maps_of(many, 1)}
    heads = many.diagnosis.heads[1]
    np.testing.assert_allclose(shown["heads taught by HG (1 of 4)"], heads[[0, 4]].mean(axis=0))
    np.testing.assert_allclose(
        shown["heads left free"], heads[[1, 2, 3, 5, 6, 7]].mean(axis=0), rtol=1e-5
    )
    np.testing.assert_allclose(shown["layer 2"], heads[4:].mean(axis=0), rtol=1e-5)
    assert next(iter(shown)) == "all heads"
    assert shown["all heads"] is many.diagnosis.attention[1]


@pytest.mark.parametrize("fault", ["lacking", "negative", "one map short"])
def test_heads_that_cannot_be_right_are_refused(many: Prediction, fault: str) -> None:
    names = many.manifest.tensors("attention")
    outputs = dict(zip(names, many.diagnosis.attention, strict=True))
    outputs |= {"probabilities": many.diagnosis.probabilities, "logits": many.diagnosis.logits}
    heads = dict(zip(many.manifest.tensors("attention_heads"), many.diagnosis.heads, strict=True))
    counts = [len(tiles) for tiles in many.tiles]
    whole = check_diagnosis(outputs | heads, many.manifest, counts)
    assert whole.heads[1] is many.diagnosis.heads[1]
    spoilt = {"negative": -many.diagnosis.heads[0], "one map short": many.diagnosis.heads[0][1:]}
    heads["attention_heads_0"] = spoilt.get(fault, many.diagnosis.heads[0])
    if fault == "lacking":
        del heads["attention_heads_0"]
    with pytest.raises(EngineError, match="attention"):
        check_diagnosis(outputs | heads, many.manifest, counts)


def test_without_guidance_every_head_is_shown_and_one_map_is_not_parted(
    many: Prediction, prediction: Prediction
) -> None:
    card = many.manifest.card.model_copy(update={"hg_heads": 0})
    names = list(head_groups(many.manifest.model_copy(update={"card": card, "layers": 1})))
    assert names == ["head 1", "head 2", "head 3", "head 4"]
    assert [own.name for own in maps_of(prediction, 0)] == ["all heads"]


def test_the_page_lets_one_choose_the_heads(many: Prediction, slide: Slide) -> None:
    record = record_of(many, {})
    page = render_page(
        record, many.manifest, pictures_of(many, record, slide, slide.thumbnail(300))
    )
    assert page.count('<img class="layer"') == 2 * 5 * 2  # magnifications, groups, scales
    assert '<option value="1">heads taught by HG (1 of 4)</option>' in page
    assert (
        page.count(
            'class="layer" data-magnification="0" data-heads="0" data-scale="percentile" src'
        )
        == 1
    )
    assert len(page) < 8_000_000


def test_choosing_heads_shows_their_map_alone(
    many: Prediction, slide: Slide, browser: "Browser", tmp_path: Path
) -> None:
    write_results(many, slide, tmp_path / "s")
    with watched(browser) as seen:
        seen.page.goto((tmp_path / "s" / "report.html").as_uri())
        seen.page.locator("#heads").select_option("2")
        seen.page.locator("#magnification").select_option("1")
        seen.page.locator("#scale").select_option("raw")
        shown = [layer for layer in seen.page.locator(".layer").all() if layer.is_visible()]
        legends = [part for part in seen.page.locator(".legend").all() if part.is_visible()]
        assert len(shown) == len(legends) == 1
        place = [shown[0].get_attribute(f"data-{name}") for name in ("magnification", "heads")]
        assert place == ["1", "2"]
        assert seen.complaints == []


def test_a_trained_scatnet_says_where_each_head_looked(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bags, trained, models = (str(tmp_path / name) for name in ("bags", "run", "models"))
    config = tmp_path / "small.toml"
    config.write_text(
        'model = {name = "scatnet", options = {dim = 16, layers = 2, heads = 2}}\n'
        "optim = {epochs = 1}\n"
    )
    extract = ["--extractor", "stain_texture", "--plan", "grid", "--mpp", "2", "--grid", "3"]
    slide = str(sorted((cohort.parent / "slides").iterdir())[0])
    for command in (
        ["extract", str(cohort), "--out", bags, *extract],
        ["guide", str(cohort), "--bags", bags],
        ["train", str(cohort), "--bags", bags, "--out", trained, "--config", str(config),
         "--guidance", "hg,tg", "--jobs", "1"],
        ["export", trained, "--repository", models],
        ["predict", slide, "--repository", models, "--out", str(tmp_path / "out")],
    ):  # fmt: skip
        assert run(command) == 0, capsys.readouterr().err
    manifest = LocalEngine(Path(models)).manifest("sag")
    assert (manifest.layers, manifest.heads, manifest.card.hg_heads) == (2, 2, 1)
    (page,) = (tmp_path / "out").glob("*/report.html")
    assert "heads taught by HG (1 of 2)" in page.read_text()
