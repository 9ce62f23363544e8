"""The command line: thin doors. A command parses, calls one library function, writes, and ends with an exit code.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
import traceback

import typer

from masam.cli import demo, evaluate, info, plan, predict, report, train
from masam.cli.console import print_error
from masam.errors import MasamError

app = typer.Typer(
    name="masam",
    help="Segment medical volumes with MA-SAM: SAM adapted to the third dimension.",
    epilog="Exit codes: 0 done, 2 usage or config, 3 input refused, 4 a batch partly failed, 5 disk, memory or device, "
    "6 corrupt or incompatible model, 7 training diverged, 130 and 143 stopped by a signal, 1 our own bug.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (demo, plan, train, predict, evaluate, report, info):
    command.register(app)

# Typer's own usage errors; recent Typer carries its own copy of click, so the class is found, not imported.
_UsageFault = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: The command's words; those of the process by default.
    """
    try:
        code = app(arguments, standalone_mode=False)
    except MasamError as error:
        print_error(error.line())
        code = error.exit_code
    except _UsageFault as error:
        print_error(f"error[USAGE]: {error.format_message()}; see masam --help")
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        print_error("error[STOPPED]: stopped by Ctrl-C")
        code = 130
    except BrokenPipeError:
        # The reader of our output has gone (masam info | head); nothing is left to say, not even by the interpreter.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:  # noqa: BLE001 - the last line of defence: our own bug, still without a traceback
        print_error(f"error[BUG]: {type(error).__name__}: {error}; please report it, with MASAM_DEBUG=1 set")
        if os.environ.get("MASAM_DEBUG"):
            traceback.print_exc()
        code = 1
    return code if isinstance(code, int) else 0


def run() -> None:
    """Run the process's command and end the process with its exit code."""
    sys.exit(main())
