"""What the commands print: progress on a terminal, plain lines elsewhere, JSON for machines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from masam.progress import Progress as Listener
from masam.progress import Silent

_PLAIN_SECONDS = 30.0
"""Without a terminal (a log file, a cluster), a task says where it is this often."""


def visible(text: str) -> str:
    """Make control characters visible: a file name may hold line breaks, or codes that a terminal would obey."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def print_error(line: str) -> None:
    """Print one line on stderr, none if it is empty."""
    if line:
        sys.stderr.write(visible(line) + "\n")


def print_json(record: Any) -> None:
    """Print a record for a machine: plain ASCII, so that no locale stands in the way."""
    sys.stdout.write(json.dumps(record, indent=2, allow_nan=False) + "\n")


def print_line(line: str) -> None:
    """Print a line for a person."""
    Console(highlight=False, soft_wrap=True).print(visible(line), markup=False)


def print_table(rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Print rows of cells, the first row as the head; the first column is text, the others are figures."""
    table = Table(title=title)
    for n, head in enumerate(rows[0]):
        table.add_column(escape(head), justify="left" if n == 0 else "right")
    for row in rows[1:]:
        table.add_row(*(escape(visible(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        # A pipe has no width; cutting figures off at 80 columns would lose them.
        console = Console(width=160)
    console.print(table)


def duration(seconds: float) -> str:
    """Return a time as people say it: 40 s, 3 min, 5 h 20 min."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class _Bars:
    """Progress bars on stderr."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def start(self, task: str, total: int) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(escape(task), total=total, note="")

    def advance(self, note: str = "") -> None:
        if self._task is not None:
            self._progress.update(self._task, advance=1, note=escape(visible(note)))

    def say(self, line: str) -> None:
        self._progress.console.print(visible(line), markup=False, highlight=False)


class _Lines:
    """Now and then a line on stderr."""

    def __init__(self) -> None:
        self._task, self._total, self._done, self._said = "", 0, 0, time.monotonic()
        self._began = self._said

    def start(self, task: str, total: int) -> None:
        self._task, self._total, self._done = task, total, 0
        self._began = time.monotonic()

    def advance(self, note: str = "") -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._said > _PLAIN_SECONDS:
            self._said = now
            left = (now - self._began) / self._done * max(0, self._total - self._done)
            self.say(f"{self._task} {self._done}/{self._total}, {duration(left)} left {note}".rstrip())

    def say(self, line: str) -> None:
        sys.stderr.write(visible(line) + "\n")
        sys.stderr.flush()


@contextmanager
def listening(quiet: bool = False) -> Iterator[Listener]:
    """Show progress while inside: bars on a terminal, else a line now and then, nothing if ``quiet``."""
    console = Console(stderr=True)
    if quiet:
        yield Silent()
    elif not console.is_terminal:
        yield _Lines()
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            yield _Bars(progress)
