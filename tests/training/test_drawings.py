"""What train, evaluate and compare draw and write says what their numbers say."""

import csv
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from sagdeploy.config import GuidanceSettings, Guide, OptimSettings, TrainSettings
from sagdeploy.training.alignment import AttentionScores
from sagdeploy.training.comparison import compare
from sagdeploy.training.curves import draw_curves
from sagdeploy.training.evaluate import evaluate_run, read_evaluation
from sagdeploy.training.experiment import train_seeds
from sagdeploy.training.figure import headings
from sagdeploy.training.judgement import SlideJudgement
from sagdeploy.training.metrics import diagnosis_scores
from sagdeploy.training.panel import panel
from sagdeploy.training.reliability import draw_reliability, reliability_of
from sagdeploy.training.roc import RATES, draw_roc, roc_of, true_positive_rates
from sagdeploy.training.table import csv_of, html_of, write_comparison
from tests.training.conftest import Toy

SVG = "{http://www.w3.org/2000/svg}"
ARMS: dict[str, tuple[Guide, ...]] = {"baseline": (), "guided": ("hg", "tg")}


@pytest.fixture(scope="module")
def runs(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two arms of two seeds, evaluated."""
    cohort, bags = toy
    folder = tmp_path_factory.mktemp("runs")
    for name, terms in ARMS.items():
        settings = TrainSettings(
            guidance=GuidanceSettings(terms=terms), optim=OptimSettings(epochs=4, lr=1e-2)
        )
        train_seeds(cohort, bags, folder / name, settings, range(2), jobs=1)
        evaluate_run(folder / name, cohort, bags, resamples=50)
    return [folder / name for name in ARMS]


def test_headings_say_what_tells_arms_apart() -> None:
    model = "scatnet (dim=128, heads=4, layers=4), standardised"
    arms = [f"{model}, no guidance", f"{model}, HG + TG"]
    assert headings(arms) == ["no guidance", "HG + TG"]
    assert headings(["abmil, HG", "scatnet, HG"]) == ["abmil, HG", "scatnet, HG"]
    assert headings(["abmil, HG", "abmil, HG"]) == ["HG", "HG"]
    assert headings(arms[:1]) == ["scatnet (dim=128, heads=4, layers=4), …"]


def some_slides(count: int = 60) -> list[SlideJudgement]:
    """Slides of two classes, two to a patient, with scores that tie."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, count)
    second = (0.3 * labels + 0.7 * rng.random(count)).round(1)
    nowhere = AttentionScores(None, None, None, None, None, None, None)
    return [
        SlideJudgement(f"s{i:02}", f"p{i // 2}", int(label), np.array([1 - p, p]), nowhere)
        for i, (label, p) in enumerate(zip(labels, second, strict=True))
    ]


def texts(svg: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_curves_have_what_was_trained_and_are_the_same_again(runs: list[Path]) -> None:
    plain, guided = (draw_curves(run).read_text() for run in runs)
    assert "Heuristic guidance, Eq. 4" in texts(guided)
    assert "Weights of the terms, Eq. 6" in texts(guided)
    assert "Heuristic guidance, Eq. 4" not in texts(plain)
    assert "2 seeds; the dots are the epochs that were kept" in texts(plain)
    assert draw_curves(runs[1]).read_text() == guided
    lines = list(ElementTree.fromstring(guided).iter(f"{SVG}polyline"))
    assert len(lines) == 3 * (2 + 2 + 1 + 1 + 3)  # two seeds and their mean of each series


def test_a_roc_curve_is_scikit_learn_s() -> None:
    slides = some_slides()
    scores = np.array([slide.probabilities[1] for slide in slides])
    labels = np.array([slide.label == 1 for slide in slides])
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    found = true_positive_rates(scores, labels, np.ones((1, len(slides))))[:, 0]
    np.testing.assert_allclose(found, np.interp(RATES, false, true))


def test_the_band_holds_the_curve_and_is_wide_with_few_patients() -> None:
    widths = []
    for count in (30, 60):
        curve = roc_of(panel([some_slides(count)]), 1)
        assert curve is not None
        assert curve.auc is not None
        assert (curve.low <= curve.mean + 1e-9).all()
        assert (curve.mean <= curve.high + 1e-9).all()
        assert curve.auc.low < curve.auc.value < curve.auc.high
        widths.append((curve.high - curve.low).mean())
    assert widths[0] > widths[1] > 0.1


def test_a_class_without_slides_has_no_curve() -> None:
    benign = [slide for slide in some_slides() if slide.label == 0]
    assert roc_of(panel([benign]), 1) is None


def test_reliability_has_the_bins_of_the_calibration_error() -> None:
    slides = some_slides()
    found = reliability_of([slides])
    probabilities = np.stack([slide.probabilities for slide in slides])
    labels = np.array([slide.label for slide in slides])
    share = found.share[found.share > 0]
    ece = (share * np.abs(found.accuracy - found.confidence)).sum()
    assert ece == pytest.approx(diagnosis_scores(probabilities, labels).ece)
    assert found.share.sum() == pytest.approx(1)
    assert (found.low < found.accuracy + 1e-9).all()


def test_evaluation_s_drawings_give_its_numbers(runs: list[Path], tmp_path: Path) -> None:
    evaluation = read_evaluation(runs[0])
    draw_roc(runs[:1], tmp_path / "roc.svg")
    draw_reliability(runs[0], tmp_path / "reliability.svg")
    area = evaluation.intervals["auc"]
    legend = f"AUC {area.value:.3f} ({area.low:.3f} to {area.high:.3f})"
    assert legend in texts((tmp_path / "roc.svg").read_text())
    note = " ".join(texts((tmp_path / "reliability.svg").read_text()))
    assert f"expected calibration error {evaluation.mean['ece']:.3f}" in note


def test_a_comparison_is_written_in_three_forms_with_its_pictures(
    runs: list[Path], tmp_path: Path
) -> None:
    found = compare(runs, resamples=50)
    write_comparison(found, runs, tmp_path)
    rows = list(csv.DictReader(csv_of(found).splitlines()))
    guided = {row["metric"]: row for row in rows if row["row"] == found.rows[1].arm}
    difference = found.rows[1].differences["auc"]
    assert float(guided["auc"]["difference"]) == difference.value
    assert guided["auc"]["verdict"] == difference.verdict
    assert {row["row"] for row in rows} >= set(found.baselines)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "roc.svg", "table1.csv", "table1.html", "table1.md",
    ]  # fmt: skip
    assert found.markdown() in (tmp_path / "table1.md").read_text()


def test_the_page_is_whole_asks_for_nothing_and_escapes() -> None:
    page = html_of("| Arm | Acc |\n|---|---|\n| a<b | 1.0 |\n| *map* | n/a |\n\nSay *this*.", [])
    assert "<td>a&lt;b</td><td>1.0</td>" in page
    assert "<td><em>map</em></td>" in page
    assert "<p>Say <em>this</em>.</p>" in page
    assert not re.search(r"https?://|<script|@import", page)
    opened: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag != "meta":
                opened.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

    Tags().feed(page)
    assert opened == []
