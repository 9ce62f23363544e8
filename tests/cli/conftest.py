from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from masam_cli import TINY, Result, write_dataset

from masam.cli import main

Masam = Callable[..., Result]


@pytest.fixture
def masam(capsys: pytest.CaptureFixture[str]) -> Masam:
    """Run a command in this process: fast, for all that needs no process of its own."""

    def call(*words: object) -> Result:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture
def broken(dataset: Path, tmp_path: Path) -> Path:
    """A data set of one's own, to break."""
    shutil.copytree(dataset, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(scope="session")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of two steps; what the command printed is in ``stdout.txt`` beside it."""
    run = tmp_path_factory.mktemp("train") / "run"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["train", str(dataset), "--out", str(run), "--epochs", "1", "--json", *TINY])
    assert code == 0, err.getvalue()
    (run.parent / "stdout.txt").write_text(out.getvalue())
    return run


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A place where nobody can make a file, whoever runs the tests: root may write to any folder of mode 555."""
    if os.geteuid() == 0:
        return Path("/proc/masam-test")
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o555)
    return folder / "new"
