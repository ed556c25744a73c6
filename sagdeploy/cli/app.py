"""The command line: parse, make one call, show the result; turn errors into one line."""

import logging
import signal
import sys
from importlib.metadata import version
from types import FrameType
from typing import Annotated, NoReturn

import typer

from sagdeploy.cli import learning, serving, slides
from sagdeploy.errors import MissingExtraError, SagError

EXTRA_LIBRARIES = {
    "torch": "train",
    "onnx": "train",
    "onnxscript": "train",
    "safetensors": "train",
    "sklearn": "train",
    "platformdirs": "serve",
    "distributed": "cluster",
}
INTERRUPTED, TERMINATED, USAGE, BUG = 130, 143, 2, 1

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (learning.app, slides.app, serving.app):
    app.registered_commands += commands.registered_commands


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sagdeploy {version('sagdeploy')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug logs.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Diagnose whole-slide images with attention that looks where a pathologist looks.

    For research use only.
    """


def main() -> NoReturn:
    """Run the command that the command line names, and exit with its code."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    signal.signal(signal.SIGTERM, _terminate)
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.ERROR, format="%(name)s: %(message)s"
    )
    sys.exit(run([argument for argument in arguments if argument != "--debug"], debug=debug))


def run(arguments: list[str], *, debug: bool = False) -> int:
    """Exit code of a command line; an error becomes one line on stderr, unless `debug`."""
    try:
        return app(arguments, prog_name="sagdeploy", standalone_mode=False) or 0
    except SagError as error:
        return _fail(error, debug)
    except ModuleNotFoundError as error:
        return _fail(_missing(error), debug)
    except typer.TyperException as error:
        return _fail_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted; the same command resumes", INTERRUPTED)
    except _TerminatedError:
        return _say("terminated; the same command resumes", TERMINATED)
    except Exception as error:
        return _fail(error, debug)


def _fail(error: Exception, debug: bool) -> int:
    from sagdeploy.pipeline.outcome import one_line

    if debug:
        logging.getLogger("sagdeploy").error("traceback", exc_info=error)
    if isinstance(error, SagError):
        return _say(one_line(error), error.exit_code)
    bug = SagError(f"a bug in sagdeploy: {type(error).__name__}: {error}", hint="see --debug")
    return _say(one_line(bug), BUG)


def _fail_usage(error: typer.TyperException) -> int:
    message = getattr(error, "format_message", error.__str__)()
    if not message:  # a command line without a command: the help is shown already
        return USAGE
    return _say(f"{' '.join(message.split()).rstrip('.')}; see sagdeploy --help", USAGE)


def _missing(error: ModuleNotFoundError) -> Exception:
    library = (error.name or "").split(".")[0]
    if library not in EXTRA_LIBRARIES:
        return error
    return MissingExtraError(
        f"this command needs {library}, which is not installed",
        hint=f"pip install 'sagdeploy[{EXTRA_LIBRARIES[library]}]'",
    )


def _say(message: str, code: int) -> int:
    typer.secho(f"error: {message}", fg="red", err=True)
    return code


class _TerminatedError(BaseException):
    """SIGTERM came."""


def _terminate(signal_number: int, frame: FrameType | None) -> None:
    raise _TerminatedError
