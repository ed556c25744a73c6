"""The command line: parse, make one call, show the result; turn errors into one line."""

import logging
import signal
import sys
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
SOON_S = 0.02
ANYWHERE = ("--debug", "--quiet")
"""Options of all commands, which may stand before or after a command's own."""

INTERRUPTED, TERMINATED, USAGE, BUG = 130, 143, 2, 1

WAY = {
    "demo": "Go the whole way on painted slides, offline.",
    "synth": "Paint slides to try things on.",
    "info": "Show what the reader says of a slide.",
    "extract": "Turn slides into bags of features.",
    "guide": "Write into the bags where attention should go.",
    "train": "Train a diagnosis model, guided or not.",
    "evaluate": "Measure diagnosis and attention of a run.",
    "compare": "Put evaluated runs side by side.",
    "export": "Publish a run's model in a Triton model repository.",
    "serve": "Serve the repository with a real Triton, for development.",
    "predict": "Diagnose slides.",
    "view": "Look at results in a browser on this machine.",
    "verify": "Hash results again, and name what changed.",
    "doctor": "Check installation, repository and server.",
}
"""What each command does, in the order in which they are come to."""

RESUMING = {"extract", "train", "predict"}
"""Commands that keep what they have done, and go on with the rest."""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: at once on the screen, and the same in the documentation
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (learning.app, slides.app, serving.app):
    app.registered_commands += commands.registered_commands
for command in app.registered_commands:
    command.short_help = WAY.get(getattr(command.callback, "__name__", ""))
app.registered_commands.sort(key=lambda command: [*WAY.values(), None].index(command.short_help))


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"sagdeploy {version('sagdeploy')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug logs.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Show results and errors, no progress and messages.")
    ] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Diagnose whole-slide images with attention that looks where a pathologist looks.

    For research use only. --debug and --quiet may stand after a command, too.

    Example: sagdeploy demo --out demo
    """
    if quiet:
        from sagdeploy.cli.output import stderr

        stderr.quiet = True
        context.call_on_close(lambda: setattr(stderr, "quiet", False))


def main() -> NoReturn:
    """Run the command that the command line names, and exit with its code."""
    arguments = sys.argv[1:]
    signal.signal(signal.SIGTERM, _terminate)
    sys.unraisablehook = _send_again
    logging.basicConfig(
        level=logging.DEBUG if "--debug" in arguments else logging.ERROR,
        format="%(name)s: %(message)s",
    )
    sys.exit(run(arguments))


def run(arguments: list[str]) -> int:
    """Exit code of a command line; an error becomes one line on stderr, unless it has --debug."""
    debug = "--debug" in arguments
    arguments = sorted(arguments, key=lambda argument: argument not in ANYWHERE)  # a stable sort
    try:
        code: int = app(arguments, prog_name="sagdeploy", standalone_mode=False) or 0
        if code == INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        return code
    except SagError as error:
        return _fail(error, debug)
    except ModuleNotFoundError as error:
        return _fail(_missing(error), debug)
    except typer.TyperException as error:
        return _fail_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return _say(f"interrupted{_way_on(arguments)}", INTERRUPTED)
    except _TerminatedError:
        return _say(f"terminated{_way_on(arguments)}", TERMINATED)
    except Exception as error:
        return _fail(error, debug)


def _way_on(arguments: list[str]) -> str:
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    return "; the same command resumes" if command in RESUMING else ""


def _fail(error: Exception, debug: bool) -> int:
    from sagdeploy.pipeline.outcome import bug_line, one_line

    if debug:
        logging.getLogger("sagdeploy").error("traceback", exc_info=error)
    if isinstance(error, SagError):
        return _say(one_line(error), error.exit_code)
    return _say(bug_line(error), BUG)


def _fail_usage(error: typer.TyperException) -> int:
    message = getattr(error, "format_message", error.__str__)()
    if not message:  # a command line without a command: the help is shown already
        return USAGE
    if message.startswith("Usage:"):  # the help of a command line that names no command
        typer.echo(message, err=True)
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


def _send_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """Python drops what is raised while an object is destroyed; a signal must not be lost so."""
    dropped = {KeyboardInterrupt: signal.SIGINT, _TerminatedError: signal.SIGTERM}
    if unraisable.exc_type not in dropped:
        sys.__unraisablehook__(unraisable)
        return
    again = dropped[unraisable.exc_type]
    signal.signal(signal.SIGALRM, lambda number, frame: signal.raise_signal(again))
    signal.setitimer(signal.ITIMER_REAL, SOON_S)
