"""Commands of the lab: train, evaluate, compare, export, demo."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

import typer

from sagdeploy.cli.options import Bags, Cohort, Json

app = typer.Typer()

Run = Annotated[Path, typer.Argument(help="Folder of a training run.")]
Splits = Annotated[
    Path | None, typer.Option(help="CLAM's splits_0.csv, or Camelyon16's reference.csv.")
]
SlideTable = Annotated[
    Path | None, typer.Option(help="STAMP's slide table; COHORT is its clini table then.")
]
Label = Annotated[str, typer.Option(help="Column of the labels.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demo.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of the slides and of the first training.")] = 0,
    json: Json = False,
) -> None:
    """Go the whole way on painted slides, offline.

    Paint a cohort, extract features, train with and without guidance, export, predict, report.

    Example: sagdeploy demo --out demo
    """
    from dataclasses import asdict

    from sagdeploy.cli.output import show_demo, show_json
    from sagdeploy.cli.progress import DemoProgress
    from sagdeploy.demo import run_demo

    with DemoProgress() as progress:
        result = run_demo(out, seed, progress)
    if json:
        show_json(asdict(result))
    else:
        show_demo(result)


@app.command()
def train(
    cohort: Cohort,
    bags: Bags,
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    config: Annotated[
        Path | None, typer.Option(help="Settings as TOML, or a recipe: camelyon16-abmil, ...")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="abmil, scatnet, or package.module:Class.")
    ] = None,
    guidance: Annotated[
        str | None, typer.Option(help="none, hg, tg, or hg,tg; needs sagdeploy guide.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many trainings.")] = 1,
    folds: Annotated[int | None, typer.Option(min=2, help="Folds by patient.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Overrides the settings.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Trainings at once.")] = None,
    splits: Splits = None,
    slide_table: SlideTable = None,
    label: Label = "label",
    json: Json = False,
) -> None:
    """Train a diagnosis model, guided or not; the same command resumes.

    Example: sagdeploy train cohort.csv --bags bags --out run --guidance hg,tg --seeds 3
    """
    from sagdeploy.bags.tables import read_tables
    from sagdeploy.cli.output import say, say_left_out, show_json
    from sagdeploy.cli.progress import TrainingProgress
    from sagdeploy.config import override, read_settings
    from sagdeploy.training.curves import draw_curves
    from sagdeploy.training.experiment import train_seeds

    table = read_tables(cohort, slide_table=slide_table, splits=splits, label=label)
    say_left_out(table)
    settings = override(read_settings(config), model=model, guidance=guidance, epochs=epochs)
    with TrainingProgress(seeds * (folds or 1)) as progress:
        record = train_seeds(
            table,
            bags,
            out,
            settings,
            range(seeds),
            folds=folds,
            jobs=jobs,
            progress=progress.epoch,
        )
    curves = draw_curves(out)
    if json:
        show_json(record.model_dump(mode="json"))
    say(f"{record.arm}: {seeds} seeds in {out}, how they learned in {curves}")


@app.command()
def evaluate(
    run: Run,
    cohort: Cohort,
    bags: Bags,
    split: Annotated[
        Literal["train", "val", "test", "folds"], typer.Option(help="Which slides.")
    ] = "test",
    faithful_seeds: Annotated[
        int, typer.Option(min=0, help="Seeds that have tiles taken away; slow on large bags.")
    ] = 3,
    splits: Splits = None,
    slide_table: SlideTable = None,
    label: Label = "label",
    json: Json = False,
) -> None:
    """Measure diagnosis and attention of a run on a split, with confidence intervals.

    Its ROC curve and reliability diagram are drawn into the run's folder.

    Example: sagdeploy evaluate run cohort.csv --bags bags --split test
    """
    from sagdeploy.bags.tables import read_tables
    from sagdeploy.cli.output import say, say_left_out, show_evaluation, show_json
    from sagdeploy.training.evaluate import evaluate_run
    from sagdeploy.training.reliability import draw_reliability
    from sagdeploy.training.roc import draw_roc

    table = read_tables(cohort, slide_table=slide_table, splits=splits, label=label)
    say_left_out(table)
    evaluation = evaluate_run(run, table, bags, split, faithful_seeds=faithful_seeds)
    drawings = run / f"roc_{split}.svg", run / f"reliability_{split}.svg"
    draw_roc([run], drawings[0], split=split)
    draw_reliability(run, drawings[1], split=split)
    if json:
        show_json(evaluation.model_dump(mode="json"))
    else:
        show_evaluation(evaluation)
    say(f"drawn in {drawings[0]} and {drawings[1]}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Runs, the baseline first.")],
    split: Annotated[
        Literal["train", "val", "test", "folds"], typer.Option(help="Which slides.")
    ] = "test",
    out: Annotated[
        Path | None, typer.Option(help="Folder for Table 1 as Markdown, CSV, HTML, and pictures.")
    ] = None,
    cohort: Annotated[
        Path | None, typer.Option(help="Table of slides: with --bags, --out has Fig. 4 as well.")
    ] = None,
    bags: Annotated[Path | None, typer.Option(help="Folder of the bags.")] = None,
    json: Json = False,
) -> None:
    """Put evaluated runs side by side, and say which differences hold for new patients.

    Example: sagdeploy compare run-baseline run-hg run-hg-tg --out comparison
    """
    from sagdeploy.bags.cohort import read_cohort
    from sagdeploy.cli.output import say, show_json, show_markdown
    from sagdeploy.errors import ConfigError
    from sagdeploy.training.comparison import compare
    from sagdeploy.training.table import write_comparison

    if (cohort is None) != (bags is None) or (cohort and not out):
        raise ConfigError("Fig. 4 needs --cohort, --bags and --out together")
    result = compare(runs, split=split)
    if out:
        table = read_cohort(cohort) if cohort else None
        write_comparison(result, runs, out, cohort=table, bags=bags)
        say(f"written to {out}; open {out / 'table1.html'}")
    if json:
        show_json(result.model_dump(mode="json"))
    else:
        show_markdown(result.markdown())


@app.command()
def export(
    run: Run,
    repository: Annotated[Path, typer.Option(help="Triton model repository.")] = Path(
        "model_repository"
    ),
    name: Annotated[str, typer.Option(help="The model's name in it.")] = "sag",
    version: Annotated[int | None, typer.Option(min=1, help="Instead of the next one.")] = None,
    extractor: Annotated[
        Path | None, typer.Option(help="ONNX file of the extractor, where the run lacks it.")
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"],
        typer.Option(help="Of the extractor: int8 is fast on a CPU, fp16 on a GPU."),
    ] = "fp32",
    cohort: Annotated[
        Path | None,
        typer.Option(help="Table that the run was trained with: other precisions are measured."),
    ] = None,
    splits: Splits = None,
    slide_table: SlideTable = None,
    label: Label = "label",
    json: Json = False,
) -> None:
    """Publish a run's best model as a new version in a Triton model repository.

    In another precision than fp32 its extractor is tried on the run's validation slides; it is
    refused where features, attention or probabilities change too much, and else the manifest
    says by how much.

    Example: sagdeploy export run --repository model_repository
    """
    from sagdeploy.bags.tables import read_tables
    from sagdeploy.cli.output import say, show_json
    from sagdeploy.cli.progress import SlideProgress
    from sagdeploy.errors import ConfigError
    from sagdeploy.export.reduction import Reduction
    from sagdeploy.export.run import export_run

    if precision != "fp32" and cohort is None:
        raise ConfigError(
            f"{precision} is tried on the run's validation slides",
            hint="pass --cohort COHORT.csv, the table that the run was trained with",
        )
    reduction, progress = None, SlideProgress("validation slides", 0)
    if precision != "fp32" and cohort is not None:
        table = read_tables(cohort, slide_table=slide_table, splits=splits, label=label)
        reduction = Reduction(precision, table, progress.count)
    with progress if reduction else nullcontext():
        manifest = export_run(
            run, repository, name, version=version, extractor=extractor, reduction=reduction
        )
    number = manifest.version
    told = manifest.margin.model_dump(mode="json") if manifest.margin else {}
    if json:
        show_json({"name": name, "version": number, "precision": precision, "margin": told})
    for figure, value in told.items():
        say(f"{precision} against fp32: {figure} {value}")
    say(f"{name} version {number} in {repository}")
