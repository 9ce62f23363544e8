"""Console output: progress bars and lines, and escaping of names."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from masam.cli import console
from masam.cli.console import duration, print_json, print_line, print_table, show_progress, visible


def test_visible_escapes_control_characters_only():
    assert visible("Übung 日本 [bold]") == "Übung 日本 [bold]"
    assert visible("a\nb\x1b[31m\udcff") == "a\\x0ab\\x1b[31m\\xdcff"


def test_a_log_gets_occasional_lines(capsys, monkeypatch):
    now = 100.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with show_progress() as progress:
        progress.start("training", 1000)
        for second in range(1000):
            now = 100.0 + second
            progress.advance(f"loss {second}")
        progress.log("done\x1b")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training 32/1000, 16 min left loss 31"
    assert len(lines) == 1000 // 31 + 1
    assert lines[-1] == "done\\x1b"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (29, "29 s"), (31, "1 min"), (3540, "59 min"), (3600, "1 h 0 min"), (19_200, "5 h 20 min")],
)
def test_durations(seconds, text):
    assert duration(float(seconds)) == text


def test_quiet_prints_nothing(capsys):
    with show_progress(quiet=True) as progress:
        progress.start("training", 1)
        progress.advance("note")
        progress.log("line")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_bars(monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(console, "Console", lambda stderr: terminal)
    with show_progress() as progress:
        progress.start("windows", 3)
        progress.advance("loss [bold]0.1")
        time.sleep(0.3)  # the bars are drawn ten times a second
        progress.log("1 of 2: case [red]\x07")
        progress.start("windows", 2)
        progress.advance()
        time.sleep(0.3)
    shown = screen.getvalue()
    assert "1/3" in shown
    assert "loss [bold]0.1" in shown, "a note is no markup"
    assert "case [red]\\x07" in shown
    assert "1/2" in shown


def test_stdout(capsys):
    print_json({"name": "Übung \udcff", "dice": None})
    assert capsys.readouterr().out == '{\n  "name": "\\u00dcbung \\udcff",\n  "dice": null\n}\n'
    with pytest.raises(ValueError, match="Out of range float"):
        print_json({"dice": float("nan")})
    print_line("wrote [bold] " + "x" * 200 + "\x1b")
    assert capsys.readouterr().out == "wrote [bold] " + "x" * 200 + "\\x1b\n"
    print_table([("class", "Dice"), ("[red]", "0.5")], title="1 case")
    assert "[red]" in capsys.readouterr().out
