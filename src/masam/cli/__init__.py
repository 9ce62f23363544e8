"""Command line interface.

Each command parses its options, calls one library function and returns an exit code. Commands import heavy packages
when they run, so that ``--help`` is fast.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from masam import __version__
from masam.cli import (
    ablate,
    check,
    convert,
    demo,
    evaluate,
    evaluate_prompts,
    export,
    info,
    make,
    plan,
    predict,
    pretrain,
    report,
    train,
    weights,
)
from masam.cli.console import print_error
from masam.errors import MasamError

app = typer.Typer(
    name="masam",
    epilog="Exit codes: 0 success, 1 bug in masam, 2 invalid usage or configuration, 3 invalid input, 4 some cases of "
    "a batch failed, 5 disk, memory or device error, 6 corrupt or incompatible model, 7 training diverged, 130 or 143 "
    "stopped by a signal.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_PANELS: dict[str, tuple[Callable[..., None] | typer.Typer, ...]] = {
    "Data sets": (make.make, convert.app, check.check, plan.plan),
    "Training": (train.train, pretrain.pretrain, ablate.ablate),
    "Prediction and evaluation": (predict.predict, evaluate.evaluate, evaluate_prompts.evaluate_prompts, report.report),
    "Models": (weights.app, export.export, info.info),
    "Demonstration": (demo.demo,),
}
for panel, commands in _PANELS.items():
    for command in commands:
        if isinstance(command, typer.Typer):
            app.add_typer(command, rich_help_panel=panel)
        else:
            app.command(epilog=vars(command)["epilog"], rich_help_panel=panel)(command)

# Recent Typer versions bundle click, so the base class of usage errors cannot be imported from click.
_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

_BUG = 1
_STOPPED = {signal.SIGINT: "stopped by Ctrl-C", signal.SIGTERM: "stopped by SIGTERM"}


class _Stopped(BaseException):
    """A signal requested termination. Not an Exception, so that no handler mistakes it for invalid input."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _print_version(requested: bool) -> bool:
    if requested:
        typer.echo(f"masam {__version__}")
        raise typer.Exit
    return requested


@app.callback()
def masam(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Segment medical volumes and surgical video with MA-SAM, the Segment Anything Model adapted to 3D."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command, by default that of the process, and return its exit code."""
    try:
        code = app(arguments, prog_name="masam", standalone_mode=False)
    except (Exception, KeyboardInterrupt, SystemExit, _Stopped) as error:  # noqa: BLE001 - each is reported in one line
        line, code = _describe(error)
        print_error(line)
        if code == _BUG and os.environ.get("MASAM_DEBUG"):
            traceback.print_exception(error)
        return code
    if code == 128 + signal.SIGINT:
        # Typer returns this code on Ctrl-C without a message.
        print_error(f"error[STOPPED]: {_STOPPED[signal.SIGINT]}")
    return code if isinstance(code, int) else 0


def _describe(error: BaseException) -> tuple[str, int]:
    """Return the error message in one line, and the exit code; the line is empty if stdout was closed by its reader."""
    match error:
        case MasamError():
            return error.line(), error.exit_code
        case _ if isinstance(error, _UsageError):
            context: Any = getattr(error, "ctx", None)
            what = error.format_message().strip().rstrip(".") or "expected a command"
            return f"error[USAGE]: {what}; see {context.command_path if context else 'masam'} --help", 2
        case _Stopped(number=number):
            return f"error[STOPPED]: {_STOPPED[signal.Signals(number)]}", 128 + number
        case KeyboardInterrupt() | typer.Abort():
            return f"error[STOPPED]: {_STOPPED[signal.SIGINT]}", 128 + signal.SIGINT
        case BrokenPipeError() | SystemExit():
            # The reader of the output has exited (masam info | head); Typer and Rich raise SystemExit.
            return "", 0
        case MemoryError():
            return "error[RESOURCE]: out of memory; free memory, or use a smaller volume, batch or model", 5
        case OSError():
            # An error of the operating system is not a bug in masam, wherever it is raised.
            where = f"{error.filename}: " if error.filename else ""
            return f"error[RESOURCE]: {where}{error.strerror or error}; check permissions and free space", 5
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"error[BUG]: {what}; please report it with the output of MASAM_DEBUG=1", _BUG


def run() -> NoReturn:
    """Run the command of this process and exit with its exit code."""
    for number in _STOPPED:
        signal.signal(number, _stop)
    for stream in (sys.stdout, sys.stderr):
        # A file name may contain characters that the encoding of the terminal lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_flush(main()))


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    # A second signal terminates at once, in case the cleanup after the first one takes too long.
    for other in _STOPPED:
        signal.signal(other, signal.SIG_DFL)
    raise _Stopped(number)


def _flush(code: int) -> int:
    """Flush stdout while a failure can still be reported; at interpreter shutdown it cannot."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if code == 0 and not isinstance(error, BrokenPipeError):
            print_error(f"error[RESOURCE]: standard output: {error.strerror}; free disk space or redirect the output")
            return 5
    return code
