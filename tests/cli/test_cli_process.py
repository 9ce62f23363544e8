"""What only a process of its own can show: signals, full disks, locales, start-up time, stdout and stderr apart."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import pytest
from masam_cli import TINY, arrays, environment, finish, no_half_files, save, start, wait_for

COMMANDS = [
    *("", "demo", "check", "plan", "train", "predict", "evaluate", "report", "export", "info", "weights"),
    *("convert", "convert btcv", "convert amos22", "convert prostate", "convert endovis18", "convert msd"),
    *("convert relabel", "weights list", "weights get", "weights verify", "weights path", "weights import"),
]


def test_help_of_every_command_needs_no_torch():
    # One process for all; that it answers at once is because of what it has not imported.
    code = f"""
import sys
from masam.cli import main
for command in {COMMANDS!r}:
    assert main([*command.split(), "--help"]) == 0
heavy = {{"torch", "numpy", "nibabel", "SimpleITK", "scipy", "matplotlib"}}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert done.stderr == "[]\n"
    assert done.stdout.count("Usage: ") == len(COMMANDS)
    assert done.stdout.count("Example") == len(COMMANDS) - 1


def test_version_and_a_reader_that_has_gone():
    from masam import __version__

    assert finish(start("--version")).out == f"masam {__version__}\n"
    process = start("--help")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_stdout_on_a_full_disk(dataset):
    reference = dataset / "labelsTs/Ts0.nii.gz"
    for words in (["--version"], ["evaluate", reference, reference, "--labels", dataset, "--json"]):
        with Path("/dev/full").open("w") as full:
            command = [sys.executable, "-m", "masam", *map(str, words)]
            done = subprocess.run(
                command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment(), check=False
            )
        assert done.returncode == 5
        assert done.stderr.splitlines()[-1].startswith("error[RESOURCE]: ")
        assert done.stderr.count("No space left on device") == 1
        assert "Exception ignored" not in done.stderr


def test_training_is_stopped_twice_resumed_twice_and_held_alone(masam, dataset, trained, tmp_path):
    run = tmp_path / "run"
    first = start("train", dataset, "--out", run, "--epochs", 6, *TINY)
    wait_for((run / "metrics.csv").exists, first)
    second = masam("train", dataset, "--out", run, *TINY)
    assert second.code == 5
    assert second.error.startswith(
        f"error[RESOURCE]: {run}: another process is writing to this folder (pid {first.pid} on "
    )
    first.send_signal(signal.SIGINT)
    stopped = finish(first)
    assert (stopped.code, stopped.out) == (130, "")
    assert stopped.error.startswith("error[STOPPED]: stopped after step ")
    assert stopped.error.endswith(f"of 12, the state is in {run / 'last'}; continue with --resume")
    assert no_half_files(run)

    again = start("train", dataset, "--out", run, "--resume")
    rows = (run / "metrics.csv").read_text()
    wait_for(lambda: (run / "metrics.csv").read_text().count("\n") > rows.count("\n"), again)
    again.send_signal(signal.SIGTERM)
    ended = finish(again)
    assert ended.code == 143
    assert "continue with --resume" in ended.error
    assert (run / "metrics.csv").read_text().startswith(rows), "what was logged stays"

    last = masam("train", dataset, "--out", run, "--resume", "--json")
    assert last.code == 0
    assert last.json["steps"] == 12
    steps = [int(line.split(",")[0]) for line in (run / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == list(range(2, 13, 2))
    assert not (run / "run.lock").exists()


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_prediction_is_stopped_with_whole_files_only(trained, tmp_path, number, code, word):
    scans, out = tmp_path / "scans", tmp_path / "masks"
    save(scans / "a.nii.gz", arrays((24, 20, 3))[0])
    save(scans / "b.nii.gz", arrays((24, 20, 2000))[0])
    process = start("predict", scans, "--model", trained, "--out", out)
    wait_for((out / "a.nii.gz").exists, process)
    process.send_signal(number)
    stopped = finish(process)
    assert (stopped.code, stopped.out) == (code, "")
    assert stopped.error == f"error[STOPPED]: stopped by {word}"
    assert sorted(path.name for path in out.iterdir()) == ["a.nii.gz", "predictions.json"]
    assert nib.load(out / "a.nii.gz").shape == (24, 20, 3)
    assert json.loads((out / "predictions.json").read_text())["failed"] == {}


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file may grow beyond ``limit`` bytes: as near to a full disk as a test comes without one."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))


@pytest.mark.parametrize("limit", [10, 300, 600])
def test_prediction_on_a_full_disk(masam, trained, tmp_path, limit):
    """The record is written first; then the mask, of more than 600 bytes. Neither is left."""
    scan, out = save(tmp_path / "scan.nii.gz", arrays((300, 300, 5))[0]), tmp_path / "x"
    with full_disk(limit):
        result = masam("predict", scan, "--model", trained, "--out", out)
        named = masam("predict", scan, "--model", trained, "--out", tmp_path / "mask.nii.gz")
    for one in (result, named):
        assert (one.code, one.out) == (5, "")
        assert one.error.endswith("cannot write the file (File too large); free disk space or choose another location")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "scan.nii.gz"]


def test_training_on_a_full_disk(masam, dataset, tmp_path):
    """The settings fit, the first state does not; what is left takes the folder from no later run."""
    run = tmp_path / "run"
    with full_disk(2_000_000):
        result = masam("train", dataset, "--out", run, "--epochs", 1, *TINY)
    assert (result.code, result.out) == (5, "")
    assert result.error.startswith(
        f"error[RESOURCE]: {run / 'last.new' / 'weights.safetensors'}: cannot write the file (File too large)"
    )
    assert not (run / "model.safetensors").exists()
    assert no_half_files(run)
    assert masam("train", dataset, "--out", run, "--epochs", 1, *TINY).code == 0
    assert (run / "model.safetensors").exists()


def test_names_that_the_locale_cannot_print(trained, tmp_path):
    scans, out = tmp_path / "scans", tmp_path / "masks"
    save(scans / "Übung 日本.nii.gz", arrays((24, 20, 1))[0])
    (scans / "leer ß.nii.gz").touch()
    words = ("predict", scans, "--model", trained, "--out", out, "--json")
    env = environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    result = finish(start(*words, env=env))
    assert result.code == 4
    assert result.error.startswith("error[BATCH]: 1 of 2 scans failed (")
    assert len(result.json["done"]) == 1
    assert {path.name for path in out.iterdir()} == {"Übung 日本.nii.gz", "predictions.json"}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_table_that_the_terminal_cannot_print(dataset, tmp_path, encoding):
    labels = save(tmp_path / "Übung 日本.nii.gz", arrays()[1])
    content = (dataset / "dataset.json").read_text().replace("organ", "Leber 肝")
    (tmp_path / "dataset.json").write_text(content, encoding="utf-8")
    words = ("evaluate", labels, labels, "--labels", tmp_path, "--out", tmp_path / "日本.csv")
    result = finish(start(*words, env=environment(PYTHONIOENCODING=encoding)))
    assert result.code == 0
    assert "Leber \\u809d" in result.out
    assert "1.000" in result.out
