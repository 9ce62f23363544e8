"""The manifest says how, and not who."""

import getpass
import json
import math
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np

import masam
from masam.runs import manifest
from masam.runs.manifest import build_manifest, write_manifest


def test_facts_become_plain_values():
    facts = build_manifest(
        "train",
        started=datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2))),
        seed=np.int64(3),
        loss=math.nan,
        rate=np.float32(0.5),
        folder=Path("/data/hospital/Dataset001"),
        classes=("liver", {"spleen": np.array(2)[()]}),
        when=datetime(2030, 1, 1, tzinfo=UTC),
    )
    assert facts["kind"] == "train"
    assert facts["masam"] == masam.__version__
    assert facts["started_utc"] == "2030-01-02T01:04:05Z"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", facts["finished_utc"])
    assert facts["libraries"]["numpy"] == np.__version__
    assert (facts["seed"], facts["loss"], facts["rate"], facts["folder"]) == (3, None, 0.5, "Dataset001")
    assert facts["classes"] == ["liver", {"spleen": 2}]
    assert facts["when"] == "2030-01-01T00:00:00Z"


def test_no_user_host_or_folder(monkeypatch):
    home = Path.home()
    monkeypatch.setattr(
        sys,
        "argv",
        [str(home / "bin" / "masam"), "evaluate", "--out=/home/alice/x/out.json", str(home), "C:\\Users\\bob\\p"],
    )
    facts = build_manifest("evaluate", root=home)
    assert facts["command"] == ["masam", "evaluate", "--out=out.json", "~", "p"]
    assert facts["root"] == "~"
    text = json.dumps({name: facts[name] for name in ("command", "platform", "root")})
    assert platform.node() not in text
    assert f"/{getpass.getuser()}" not in text


def test_git_is_never_needed(monkeypatch):
    def no_git(*_args, **_kwargs):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    assert build_manifest("train")["git"] is None


def test_git_commit_of_the_tree_masam_runs_from(monkeypatch):
    answers = {"ls-files": "manifest.py", "rev-parse": "f" * 40, "status": " M x"}
    monkeypatch.setattr(manifest, "_run_git", lambda _folder, *arguments: answers[arguments[0]])
    assert build_manifest("train")["git"] == {"commit": "f" * 40, "changed": True}


def test_written_file_reads_back(tmp_path):
    facts = build_manifest("demo", name="é", low=math.inf)
    write_manifest(tmp_path / "manifest.json", {**facts, "added": math.nan})
    assert json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8")) == {**facts, "added": None}
