"""Commands about slides and bags: info, synth, extract, guide."""

from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

import typer

from sagdeploy.cli.options import Bags, Cohort, FailFast, Json, Scheduler, TrustMpp, Workers
from sagdeploy.errors import ConfigError
from sagdeploy.pipeline.outcome import SlideOutcome

app = typer.Typer()


@app.command()
def info(
    slide: Annotated[Path, typer.Argument(help="A slide that OpenSlide reads.")],
    mpp: Annotated[float | None, typer.Option(help="Force microns per pixel.")] = None,
    trust_mpp: TrustMpp = False,
    json: Json = False,
) -> None:
    """Show what the reader says of a slide: size, scale and its source, levels, tissue.

    Example: sagdeploy info slide.svs
    """
    from sagdeploy.cli.output import show_json, show_table
    from sagdeploy.pipeline.describe import describe_slide

    facts = describe_slide(slide, mpp=mpp, trust_mpp=trust_mpp)
    if json:
        show_json(facts)
    else:
        show_table(("property", "value"), facts.items(), title=slide.name)


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="Folder to paint into.")],
    slides: Annotated[int, typer.Option(min=6, help="How many slides.")] = 60,
    classes: Annotated[int, typer.Option(help="2 or 4.")] = 2,
    seed: Annotated[int, typer.Option(help="The same seed paints the same bytes.")] = 0,
    shortcut: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="How well background artefacts tell the class in training slides."
        ),
    ] = 0.0,
) -> None:
    """Paint a cohort: pyramidal slides, annotations, cells, and cohort.csv.

    Example: sagdeploy synth painted --slides 60 --shortcut 0.9
    """
    from sagdeploy.cli.output import say
    from sagdeploy.cli.progress import SlideProgress
    from sagdeploy.pipeline.synth import CohortSpec, paint_cohort

    spec = CohortSpec(slides=slides, classes=classes, seed=seed, shortcut=shortcut)
    with SlideProgress("slides", slides) as progress:
        table = paint_cohort(out, spec, progress=progress.count)
    say(f"cohort in {table}")


@app.command()
def extract(
    slides: Annotated[
        list[Path], typer.Argument(help="cohort.csv; or slides, folders of them, patterns.")
    ],
    out: Bags,
    extractor: Annotated[
        str,
        typer.Option(
            help="mobilenet_v2, resnet18_instancenorm, stain_texture or FILE.onnx; "
            "with --server a model there."
        ),
    ] = "mobilenet_v2",
    server: Annotated[
        str | None, typer.Option(help="Triton's address: its extractor is asked.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Their file, or imagenet to download.")
    ] = None,
    plan: Annotated[Literal["dense", "grid"], typer.Option(help="How slides are cut.")] = "dense",
    mpp: Annotated[
        list[float] | None, typer.Option(help="Microns per pixel of the tiles; may be repeated.")
    ] = None,
    tile_px: Annotated[int, typer.Option(min=16, help="Side of a dense tile.")] = 224,
    grid: Annotated[
        list[int] | None, typer.Option(help="Crops a side of a grid, one for each --mpp.")
    ] = None,
    min_tissue: Annotated[
        float, typer.Option(min=0, max=1, help="Least tissue of a dense tile; 0 keeps all.")
    ] = 0.1,
    mean: Annotated[
        tuple[float, float, float], typer.Option(help="RGB mean that FILE.onnx expects.")
    ] = (0.485, 0.456, 0.406),
    std: Annotated[
        tuple[float, float, float], typer.Option(help="RGB deviation that FILE.onnx expects.")
    ] = (0.229, 0.224, 0.225),
    trust_mpp: TrustMpp = False,
    fail_fast: FailFast = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    json: Json = False,
) -> None:
    """Turn a cohort's slides into bags of features; the same command resumes.

    Example: sagdeploy extract cohort.csv --out bags --extractor stain_texture
    """
    from sagdeploy.cli.output import say
    from sagdeploy.cli.progress import SlideProgress
    from sagdeploy.pipeline.cluster import spread_over
    from sagdeploy.pipeline.extract import extract_cohort, served_extraction
    from sagdeploy.pipeline.inputs import named_cohort
    from sagdeploy.pipeline.journal import sole_writer
    from sagdeploy.slides.tiling import TilePlan

    if scheduler:  # its workers have other working folders
        slides, out = [path.absolute() for path in slides], out.absolute()
    table = named_cohort(slides)
    tiles = TilePlan(plan, tuple(mpp or (0.5,)), tile_px, min_tissue, tuple(grid or ()))
    if server and weights:
        raise ConfigError("--weights are for an extractor in this process, not for a --server's")
    with sole_writer(out):  # of two that begin at once, one would leave its extractor, one its card
        if server:
            work = served_extraction(server, extractor, out, tiles, trust_mpp=trust_mpp)
        else:
            from sagdeploy.export.extractor import ExtractorSource, local_extraction  # needs torch

            source = ExtractorSource(extractor, weights, mean, std, tile_px)
            work = local_extraction(source, out, tiles, trust_mpp=trust_mpp)
    say(f"extractor {work.card.name}: {work.card.weights}")
    with (
        closing(work.engine),
        spread_over(workers, scheduler) as spread,
        SlideProgress("slides", len(table.slides)) as progress,
    ):
        extracted = extract_cohort(
            table, out, work, progress.tiles, fail_fast=fail_fast, spread=spread
        )
        outcomes = [progress.slide(outcome) for outcome in extracted]
    _end(outcomes, len(table.slides), json)


@app.command()
def guide(
    cohort: Cohort,
    bags: Bags,
    tissue: Annotated[
        Literal["otsu", "none"], typer.Option(help="Where tissue guidance comes from.")
    ] = "otsu",
    heuristic: Annotated[
        Literal["annotations", "mask", "cells", "detected-cells", "none"],
        typer.Option(help="Where heuristic guidance comes from; detected-cells needs no file."),
    ] = "annotations",
    json: Json = False,
) -> None:
    """Write guidance into the bags: where the attention of a model in training should go.

    Example: sagdeploy guide cohort.csv --bags bags --heuristic annotations
    """
    from sagdeploy.bags.cohort import read_cohort
    from sagdeploy.cli.progress import SlideProgress
    from sagdeploy.pipeline.guide import guide_cohort

    table = read_cohort(cohort, need_labels=False)
    source = None if heuristic == "none" else heuristic
    with SlideProgress("slides", len(table.slides)) as progress:
        outcomes = [
            progress.slide(outcome)
            for outcome in guide_cohort(table, bags, tissue=tissue == "otsu", heuristic=source)
        ]
    _end(outcomes, len(table.slides), json)


def _end(outcomes: list[SlideOutcome], slides: int, json: bool) -> None:
    from dataclasses import asdict

    from sagdeploy.cli.output import say, show_failures, show_json
    from sagdeploy.pipeline.outcome import exit_code

    if json:
        show_json([asdict(outcome) for outcome in outcomes])
    show_failures(outcomes)
    done = sum(outcome.status == "done" for outcome in outcomes)
    say(f"{done} slides done, {slides - done} not")
    raise typer.Exit(exit_code(outcomes, slides))
