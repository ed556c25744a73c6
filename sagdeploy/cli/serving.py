"""Commands of the hospital: predict, view, verify, serve, doctor."""

import os
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated

import typer

from sagdeploy.cli.options import FailFast, Json, Scheduler, TrustMpp, Workers

app = typer.Typer()

Repository = Annotated[Path, typer.Option(help="Model repository that `export` wrote.")]
Server = Annotated[str | None, typer.Option(help="Triton's address, such as localhost:8000.")]
MODELS = Path("model_repository")


@app.command()
def predict(
    slide: Annotated[
        list[Path],
        typer.Argument(help="Slides, folders of them, patterns such as 'a/**/*.svs', cohort.csv."),
    ],
    server: Annotated[
        str | None,
        typer.Option(
            help="Triton's address. Without it $SAGDEPLOY_SERVER, then one on localhost:8000."
        ),
    ] = None,
    repository: Annotated[
        Path | None,
        typer.Option(help="Model repository to run in this process, whatever server is there."),
    ] = None,
    model: Annotated[str, typer.Option(help="The model's name.")] = "sag",
    model_version: Annotated[int | None, typer.Option(help="Pin a version.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("out"),
    mpp: Annotated[float | None, typer.Option(help="Force microns per pixel.")] = None,
    trust_mpp: TrustMpp = False,
    slide_id: Annotated[str | None, typer.Option(help="A pseudonym for a single slide.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what another model made in --out.")
    ] = False,
    fail_fast: FailFast = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    json: Json = False,
) -> None:
    """Diagnose slides: class, probabilities and attention maps; the same command resumes.

    Example: sagdeploy predict slide.svs --out out
    """
    from sagdeploy.batch import Batch, predict_batch
    from sagdeploy.cli.output import say, show_failures, show_json
    from sagdeploy.cli.progress import SlideProgress
    from sagdeploy.pipeline.cluster import spread_over
    from sagdeploy.pipeline.inputs import collect_slides
    from sagdeploy.pipeline.predict import PredictOptions
    from sagdeploy.pipeline.versions import ModelChoice
    from sagdeploy.serving.connect import connect

    if scheduler:  # its workers have other working folders
        slide, out = [path.absolute() for path in slide], out.absolute()
    slides = collect_slides(slide, slide_id)
    address = server or (None if repository else os.environ.get("SAGDEPLOY_SERVER"))
    with closing(connect(address, repository, model)) as engine:
        choice = ModelChoice(model, model_version)
        version = choice.manifest(engine).version
        say(f"{model} version {version}, {engine.description}; research use only")
        options = PredictOptions(mpp, trust_mpp=trust_mpp)
        batch = Batch(engine, choice, out, options, overwrite, fail_fast)
        with (
            spread_over(workers, scheduler) as spread,
            SlideProgress("slides", len(slides), results=not json) as progress,
        ):
            result = predict_batch(
                slides,
                batch,
                report=progress.slide,
                progress=progress.tiles,
                spread=spread,
            )
    if json:
        show_json([record.model_dump(mode="json") for record in result.records])
    show_failures(result.outcomes)
    say(f"results in {out}")
    raise typer.Exit(result.exit_code)


@app.command()
def view(
    out: Annotated[Path, typer.Argument(help="Folder that `predict` wrote.")],
    slides: Annotated[
        list[Path] | None,
        typer.Option(help="Where the slides are: results hold their SHA-256, never their place."),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Results of another model, shown side by side.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
) -> None:
    """Look at results in a browser on this machine: slides in deep zoom under their attention.

    Example: sagdeploy view out --slides slides
    """
    from sagdeploy.cli.output import say
    from sagdeploy.view.matching import SlideFinder
    from sagdeploy.view.results import exhibits, read_results
    from sagdeploy.view.server import listening
    from sagdeploy.view.site import OPENSEADRAGON, Site, asset

    asset(OPENSEADRAGON)
    folders = [read_results(folder) for folder in (out, compare) if folder]
    site = Site(exhibits(folders), SlideFinder(slides or []))
    with listening(site, port) as (address, serve_forever):
        say("open this, on this machine and in this session only; Ctrl-C ends it")
        typer.echo(address)
        with suppress(KeyboardInterrupt):
            serve_forever()


@app.command()
def verify(
    out: Annotated[Path, typer.Argument(help="Folder that `predict` or `extract` wrote.")],
    json: Json = False,
) -> None:
    """Hash all results again, and name what changed, is missing or does not belong there.

    Ends with 0 where all is as it was written, with 7 otherwise.

    Example: sagdeploy verify out
    """
    from dataclasses import asdict

    from sagdeploy.audit import CHANGED
    from sagdeploy.audit import verify as audit
    from sagdeploy.cli.output import say, show_json, show_table

    found = audit(out)
    if json:
        show_json(asdict(found))
    elif found.findings:
        rows = [(finding.kind, finding.name, finding.what) for finding in found.findings]
        show_table(("", "name", ""), rows)
    say(f"{found.files} files, {len(found.findings)} findings")
    raise typer.Exit(CHANGED if found.findings else 0)


@app.command()
def serve(
    repository: Repository = MODELS,
    port: Annotated[int, typer.Option(help="HTTP port.")] = 8000,
    address: Annotated[
        str, typer.Option(help="IPv4 address; another than loopback only inside a container.")
    ] = "127.0.0.1",
) -> None:
    """Serve the model repository with a real Triton on this machine, for development.

    Example: sagdeploy serve --repository model_repository
    """
    from sagdeploy.cli.output import say
    from sagdeploy.serving.environment import RELEASE
    from sagdeploy.serving.server import serve

    def announce(url: str) -> None:
        say(f"Triton {RELEASE} at {url}, for development only; Ctrl-C ends it")

    serve(repository, port, announce=announce, address=address)


@app.command()
def doctor(
    server: Server = None,
    repository: Repository = MODELS,
    json: Json = False,
) -> None:
    """Check this installation, the repository and the server, and say how to mend them.

    Example: sagdeploy doctor --server localhost:8000
    """
    from dataclasses import asdict

    from sagdeploy.cli.output import show_json, show_table
    from sagdeploy.doctor import examine, exit_code

    checks = examine(server or os.environ.get("SAGDEPLOY_SERVER"), repository)
    if json:
        show_json([asdict(check) for check in checks])
    else:
        show_table(
            ("", "check", "found", "fix"), [(c.status, c.name, c.found, c.fix) for c in checks]
        )
    raise typer.Exit(exit_code(checks))
