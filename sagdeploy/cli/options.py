"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

Bags = Annotated[Path, typer.Option(help="Folder of the bags.")]
Cohort = Annotated[Path, typer.Argument(help="Table of slides: slide_id, slide_path, label, ...")]
FailFast = Annotated[
    bool, typer.Option("--fail-fast", help="Stop at the first slide that is not done.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Scheduler = Annotated[
    str | None, typer.Option(help="Address of a Dask scheduler, whose workers do the slides.")
]
TrustMpp = Annotated[bool, typer.Option("--trust-mpp", help="Take any scale.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Slides at once, each in a process of its own.")
]
