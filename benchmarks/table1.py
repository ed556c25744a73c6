"""The paper's Table 1 on cohorts of our own: models x guidance x seeds, and a figure like Fig. 4.

    python benchmarks/table1.py OUT --cohort painted,painted-shortcut --models abmil --seeds 3

Cohorts: `painted` in two classes and `painted-4` in four; `painted-shortcut` and
`painted-4-shortcut`, where pen marks beside the tissue tell the class in training and validation
slides, but not in test slides; `painted-touching-shortcut`, where they lie in
the crops that ScAtNet sees; `composed` of real H&E fields, evaluated in folds by field. What
exists in OUT is kept: the same command goes on where it stopped, and another one adds its rows.
"""

import argparse
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from composed import compose_cohort

from sagdeploy.bags.cohort import Cohort, read_cohort
from sagdeploy.config import GuidanceSettings, ModelSettings, OptimSettings, TrainSettings
from sagdeploy.errors import BatchError, ConfigError, SagError
from sagdeploy.export.extractor import ExtractorSource, local_extraction
from sagdeploy.files import write_bytes, write_json
from sagdeploy.pipeline.extract import extract_cohort
from sagdeploy.pipeline.guide import guide_cohort
from sagdeploy.pipeline.outcome import SlideOutcome
from sagdeploy.pipeline.synth import CohortSpec, paint_cohort
from sagdeploy.slides.tiling import TilePlan
from sagdeploy.training.comparison import Comparison, compare
from sagdeploy.training.evaluate import Split, evaluate_run, read_evaluation
from sagdeploy.training.experiment import train_seeds
from sagdeploy.training.figure import draw_figure

PAINTED = {
    "painted": CohortSpec(),
    "painted-shortcut": CohortSpec(shortcut=1.0),
    "painted-touching-shortcut": CohortSpec(shortcut=1.0, pens_touch=True),
    "painted-4": CohortSpec(classes=4, slides=120),
    "painted-4-shortcut": CohortSpec(classes=4, slides=120, shortcut=1.0),
}
COHORTS = (*PAINTED, "composed")
FOLDS = {"composed": 5}
"""Where a test split of its own would hold too few patients."""

ARMS = {
    "none": GuidanceSettings(),
    "hg": GuidanceSettings(terms=("hg",)),
    "hg-tg": GuidanceSettings(terms=("hg", "tg")),
}
CONTROLS = {
    "hg-shuffled": GuidanceSettings(terms=("hg",), control="shuffled"),
    "hg-uniform": GuidanceSettings(terms=("hg",), control="uniform"),
    "hg-quarter": GuidanceSettings(terms=("hg",), share=0.25),
    "hg-weight-0": GuidanceSettings(terms=("hg",), weight=0.0),
}
"""What HG gains that these gain too, it does not gain by its meaning."""

FIELDS = Path(__file__).parents[2] / "shared" / "data" / "tiles" / "brecahad"


@dataclass(frozen=True, slots=True)
class Setup:
    """A model with the tiles and the optimiser that belong to it."""

    plan: TilePlan
    model: ModelSettings
    optim: OptimSettings

    def settings(self, guidance: GuidanceSettings, epochs: int | None) -> TrainSettings:
        """Settings of one arm."""
        optim = self.optim.model_copy(update={"epochs": epochs} if epochs else {})
        return TrainSettings(model=self.model, guidance=guidance, optim=optim)


SCATNET = ModelSettings(
    name="scatnet",
    standardise=True,
    options={"dim": 128, "layers": 4, "heads": 4, "dropout": 0.2, "scale_layers": 2},
)
SCATNET_OPTIM = OptimSettings(
    epochs=100, lr=5e-4, betas=(0.9, 0.999), eps=1e-9, weight_decay=4e-5, bag_batch=4
)
MODELS = {
    "abmil": Setup(
        TilePlan(min_tissue=0.0),  # background kept, as on the paper's melanoma slides
        ModelSettings(standardise=True),
        OptimSettings(epochs=60, lr=5e-3, betas=(0.9, 0.999), weight_decay=1e-3, bag_batch=4),
    ),
    "scatnet-sc": Setup(TilePlan("grid", (1.0,), grid=(7,)), SCATNET, SCATNET_OPTIM),
    "scatnet-mc": Setup(
        TilePlan("grid", (4 / 3, 1.0, 0.8), grid=(5, 7, 9)), SCATNET, SCATNET_OPTIM
    ),
}
"""Sizes of ScAtNet and its tiles as in the paper; batches fit cohorts of some dozens of slides.

Features are standardised: on raw ones ABMIL without guidance hardly leaves a loss of ln 2, so that
guidance would be compared with a baseline that has not been trained."""

COMPOSED_TILE_PX = 112
"""Of ABMIL: composed slides are a quarter as wide in microns as the painted ones."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What is run, and where it goes."""

    out: Path
    fields: Path
    extractor: ExtractorSource
    seeds: int
    epochs: int | None
    jobs: int
    arms: dict[str, GuidanceSettings]

    def run(self, cohort: str, model: str, arm: str) -> Path:
        """Folder of one arm."""
        return self.out / cohort / f"run-{model}-{arm}"

    def bags(self, cohort: str, model: str) -> Path:
        """Folder of the bags of one model's tiles."""
        return self.out / cohort / f"bags-{model}"

    def table(self, cohort: str, model: str) -> Path:
        """File of a comparison that is done."""
        return self.out / cohort / f"comparison-{model}.json"

    def cohort(self, name: str) -> Cohort:
        """A cohort, made unless it is there."""
        folder = self.out / name
        if not (folder / "cohort.csv").is_file():
            if name in PAINTED:
                paint_cohort(folder, PAINTED[name])
            else:
                compose_cohort(self.fields, folder)
        return read_cohort(folder / "cohort.csv")

    def measure(self, name: str, model: str) -> None:
        """Train, evaluate and compare all arms of a model on a cohort."""
        cohort, bags = self.cohort(name), self.bags(name, model)
        setup, folds = MODELS[model], FOLDS.get(name)
        self._bag(cohort, bags, _plan(name, setup))
        split: Split = "folds" if folds else "test"
        for arm, guidance in self.arms.items():
            run = self.run(name, model, arm)
            print(f"{name}, {model}, {arm}", flush=True)
            settings = setup.settings(guidance, self.epochs)
            seeds = range(self.seeds)
            train_seeds(cohort, bags, run, settings, seeds, folds=folds, jobs=self.jobs)
            if _seeds_evaluated(run, split) < self.seeds:
                evaluate_run(run, cohort, bags, split)
        found = compare([self.run(name, model, arm) for arm in self.arms], split=split)
        write_json(self.table(name, model), found.model_dump(mode="json"))

    def _bag(self, cohort: Cohort, bags: Path, plan: TilePlan) -> None:
        extraction = local_extraction(self.extractor, bags, plan)
        _all_done(extract_cohort(cohort, bags, extraction))
        _all_done(guide_cohort(cohort, bags, tissue=True, heuristic="annotations"))

    def write(self) -> None:
        """Write the tables and the figure of all that is done, in this run or before."""
        done = [(c, m) for c in COHORTS for m in MODELS if self.table(c, m).is_file()]
        tables = {
            (c, m): Comparison.model_validate_json(self.table(c, m).read_bytes()) for c, m in done
        }
        text = "\n".join(f"## {c}, {m}\n\n{table.markdown()}" for (c, m), table in tables.items())
        write_bytes(self.out / "table1.md", text.encode())
        values = {f"{c}/{m}": table.model_dump(mode="json") for (c, m), table in tables.items()}
        write_json(self.out / "table1.json", values)
        for c, m in done:
            runs = [self.run(c, m, arm) for arm in ("none", "hg-tg")]
            draw_figure(
                self.cohort(c), self.bags(c, m), runs, self.out / f"figure4-{c}-{m}.svg", slides=2
            )
        print(text)


def _plan(cohort: str, setup: Setup) -> TilePlan:
    if cohort == "composed" and setup.plan.kind == "dense":
        return TilePlan(tile_px=COMPOSED_TILE_PX, min_tissue=setup.plan.min_tissue)
    return setup.plan


def _seeds_evaluated(run: Path, split: Split) -> int:
    try:
        return len({scores.seed for scores in read_evaluation(run, split).seeds})
    except ConfigError:  # not evaluated yet
        return 0


def _all_done(outcomes: Iterable[SlideOutcome]) -> None:
    for outcome in outcomes:
        if outcome.status != "done":
            raise BatchError(f"{outcome.slide_id}: {outcome.message}")


def main() -> None:
    """Measure what is asked for, and write the tables and the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--cohort", default=",".join(COHORTS))
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seeds", type=int, default=15)
    parser.add_argument("--controls", action="store_true", help="arms of control of HG as well")
    parser.add_argument("--epochs", type=int, help="of every model, in place of its own")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--extractor", default="stain_texture")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--fields", type=Path, default=FIELDS)
    options = parser.parse_args()
    cohorts, models = options.cohort.split(","), options.models.split(",")
    unknown = sorted({*cohorts} - {*COHORTS} | {*models} - {*MODELS})
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    source = ExtractorSource(options.extractor, options.weights)
    bench = Bench(
        out=options.out,
        fields=options.fields,
        extractor=source,
        seeds=options.seeds,
        epochs=options.epochs,
        jobs=options.jobs,
        arms=ARMS | (CONTROLS if options.controls else {}),
    )
    try:
        for cohort in cohorts:
            for model in models:
                bench.measure(cohort, model)
        bench.write()
    except SagError as error:
        sys.exit(f"{error}\n{error.hint}")


if __name__ == "__main__":
    main()
