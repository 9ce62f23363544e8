"""The command line: thin doors. A command parses, calls one library function, writes, and ends with an exit code.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
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
    epilog="Exit codes: 0 done, 2 usage or config, 3 input refused, 4 a batch partly failed, 5 disk, memory or device, "
    "6 corrupt or incompatible model, 7 training diverged, 130 and 143 stopped by a signal, 1 our own bug.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    demo,
    convert,
    make,
    check,
    plan,
    train,
    pretrain,
    ablate,
    predict,
    evaluate,
    report,
    export,
    weights,
    info,
):
    command.register(app)

# Typer's own usage errors; recent Typer carries its own copy of click, so the class is found, not imported.
_UsageFault: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

_BUG = 1
_STOPPED = {signal.SIGINT: "stopped by Ctrl-C", signal.SIGTERM: "stopped by SIGTERM"}


class _Stopped(BaseException):
    """A signal asked to stop; not an Exception, so that nothing on the way takes it for bad input."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _print_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"masam {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def masam(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Segment medical volumes with MA-SAM: SAM adapted to the third dimension."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: The command's words; those of the process by default.
    """
    try:
        code = app(arguments, prog_name="masam", standalone_mode=False)
    except (Exception, KeyboardInterrupt, SystemExit, _Stopped) as error:  # noqa: BLE001 - explained, each in one line
        line, code = _explain(error)
        print_error(line)
        if code == _BUG and os.environ.get("MASAM_DEBUG"):
            traceback.print_exception(error)
        return code
    if code == 128 + signal.SIGINT:
        # Typer makes this of Ctrl-C, and says nothing.
        print_error(f"error[STOPPED]: {_STOPPED[signal.SIGINT]}")
    return code if isinstance(code, int) else 0


def _explain(error: BaseException) -> tuple[str, int]:
    """Return the line that says what went wrong, and the exit code; an empty line where nobody is left to read."""
    match error:
        case MasamError():
            return error.line(), error.exit_code
        case _ if isinstance(error, _UsageFault):
            return _usage_line(error), 2
        case _Stopped(number=number):
            return f"error[STOPPED]: {_STOPPED[signal.Signals(number)]}", 128 + number
        case KeyboardInterrupt() | typer.Abort():
            return f"error[STOPPED]: {_STOPPED[signal.SIGINT]}", 128 + signal.SIGINT
        case BrokenPipeError() | SystemExit():
            # The reader of our output has gone (masam info | head); Typer and Rich make SystemExit of it.
            return "", 0
        case MemoryError():
            return "error[RESOURCE]: memory ran out; free memory, or take a smaller volume, batch or model", 5
        case OSError():
            # What the system refuses is no bug of ours, wherever it comes up.
            where = f"{error.filename}: " if error.filename else ""
            return f"error[RESOURCE]: {where}{error.strerror or error}; check permissions and free space", 5
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"error[BUG]: {what}; please report it, with what MASAM_DEBUG=1 prints", _BUG


def run() -> NoReturn:
    """Run the process's command and end the process with its exit code."""
    for number in _STOPPED:
        signal.signal(number, _stop)
    for stream in (sys.stdout, sys.stderr):
        # A file name may hold what the terminal's encoding has not.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_flush(main()))


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    # A second signal acts at once, should the tidying up after the first one take too long.
    for each in _STOPPED:
        signal.signal(each, signal.SIG_DFL)
    raise _Stopped(number)


def _flush(code: int) -> int:
    """Write what stdout still holds back, while a failure can be said; at the interpreter's end it no more can."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if code == 0 and not isinstance(error, BrokenPipeError):
            print_error(f"error[RESOURCE]: standard output: {error.strerror}; free space, or send it elsewhere")
            return 5
    return code


def _usage_line(error: Any) -> str:
    context = getattr(error, "ctx", None)
    what = error.format_message().strip().rstrip(".") or "expected a command"
    return f"error[USAGE]: {what}; see {context.command_path if context else 'masam'} --help"
