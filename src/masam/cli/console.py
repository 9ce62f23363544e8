"""Output of the commands: tables, lines, JSON, and progress on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from masam.progress import Progress, Silent

_LINE_INTERVAL_S = 30.0
"""Interval between progress lines if stderr is not a terminal."""


def visible(text: str) -> str:
    """Escape control characters: a file name may contain line breaks or terminal control sequences."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def print_error(line: str) -> None:
    """Print a line on stderr, or nothing if it is empty."""
    if line:
        sys.stderr.write(visible(line) + "\n")


def print_json(record: Any) -> None:
    """Print a record as JSON, in ASCII so that it does not depend on the locale."""
    sys.stdout.write(json.dumps(record, indent=2, allow_nan=False) + "\n")


def print_line(line: str) -> None:
    """Print a line on stdout."""
    Console(highlight=False, soft_wrap=True).print(visible(line), markup=False)


def print_table(rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Print a table; the first row is the header, the first column is text, the other columns are numbers."""
    table = Table(title=title)
    for column, heading in enumerate(rows[0]):
        table.add_column(escape(heading), justify="left" if column == 0 else "right")
    for row in rows[1:]:
        table.add_row(*(escape(visible(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        # The default of 80 columns would truncate numbers.
        console = Console(width=160)
    console.print(table)


def plural(count: int, noun: str) -> str:
    """Format a count with its noun, for example "1 case" or "3 cases"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration(seconds: float) -> str:
    """Format a duration, for example "40 s", "3 min" or "5 h 20 min"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class _Bars:
    """Progress bars on stderr."""

    def __init__(self, progress: RichProgress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def start(self, task: str, total: int) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(escape(task), total=total, note="")

    def advance(self, note: str = "") -> None:
        if self._task is not None:
            self._progress.update(self._task, advance=1, note=escape(visible(note)))

    def log(self, line: str) -> None:
        self._progress.console.print(visible(line), markup=False, highlight=False)


class _Lines:
    """Occasional progress lines on stderr."""

    def __init__(self) -> None:
        self._task, self._total, self._done = "", 0, 0
        self._started = self._last_line = time.monotonic()

    def start(self, task: str, total: int) -> None:
        self._task, self._total, self._done = task, total, 0
        self._started = time.monotonic()

    def advance(self, note: str = "") -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._last_line > _LINE_INTERVAL_S:
            self._last_line = now
            remaining = (now - self._started) / self._done * max(0, self._total - self._done)
            self.log(f"{self._task} {self._done}/{self._total}, {duration(remaining)} left {note}".rstrip())

    def log(self, line: str) -> None:
        print_error(line)


@contextmanager
def show_progress(quiet: bool = False) -> Iterator[Progress]:
    """Show progress in this context: bars on a terminal, occasional lines elsewhere, nothing if ``quiet``."""
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
        with RichProgress(*columns, console=console, transient=True) as progress:
            yield _Bars(progress)
