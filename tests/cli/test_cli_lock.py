"""A run folder is locked by one process, and released when that process ends, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from masam.errors import ResourceError
from masam.runs.lock import LOCK_FILE, locked

HOLD = """
import sys, time
from pathlib import Path
from masam.runs.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_a_killed_one_holds_nothing(tmp_path):
    run = tmp_path / "run"
    with hold(run) as holder:
        for _ in range(10):
            with pytest.raises(ResourceError, match=f"another process is writing to this folder .pid {holder.pid} on "):
                locked(run).__enter__()
        assert (run / LOCK_FILE).exists(), "refused processes do not change the file"
        holder.send_signal(signal.SIGKILL)
    assert (run / LOCK_FILE).exists(), "a killed process removes nothing"
    with locked(run):
        assert (run / LOCK_FILE).read_text().startswith(f"pid {os.getpid()} on ")
    assert list(run.iterdir()) == []


def test_a_stale_lock_file_of_another_process_is_taken_over(tmp_path):
    (tmp_path / LOCK_FILE).write_text("pid 999999999 on elsewhere\n" * 3)
    with locked(tmp_path):
        assert (tmp_path / LOCK_FILE).read_text().count("\n") == 1


def test_created_folders_are_removed_if_they_stay_empty(tmp_path):
    with pytest.raises(ResourceError, match="inner"), locked(tmp_path / "a" / "b"):
        raise ResourceError("inner")
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "config.yaml").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["config.yaml"]


def test_an_existing_empty_folder_is_kept(tmp_path):
    with locked(tmp_path):
        pass
    assert tmp_path.is_dir()


def test_folders_that_cannot_be_written_to(tmp_path, unwritable):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", unwritable / "run"):
        with pytest.raises(ResourceError, match=r"cannot write to the folder \("):
            locked(folder).__enter__()
