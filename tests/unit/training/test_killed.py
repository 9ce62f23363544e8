"""Runs that are killed at random moments and go on; `make test-slow` runs them."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import write_dataset
from training_runs import PLAN, SETTINGS, TINY, assert_same_run

import masam
from masam.errors import InputError
from masam.model.sizes import SIZES
from masam.runs.metrics import read_rows
from masam.training.checkpoint import find_checkpoint
from masam.training.config import TrainConfig
from masam.training.run import train
from masam.training.run_folder import RunFolder

KILLED_RUNS = 24
CHANGES = {"epochs": 6, "model": {**SETTINGS["model"], "fact_dropout": 0.1}}

# Writing is slowed down, so that many of the kills meet it; every second run reads its samples in workers.
CHILD = """
import sys, time
sys.path[:0] = [sys.argv[3], sys.argv[4]]
import os
from pathlib import Path
import torch
from training_runs import PLAN, SETTINGS, TINY
from test_killed import CHANGES
from masam.errors import MasamError
from masam.model.sizes import SIZES
from masam.training.config import TrainConfig
from masam.training.run import train
from masam.training.run_folder import RunFolder

torch.set_num_threads(1)
SIZES["vit_t"] = TINY
replace, fsync = os.replace, os.fsync

def slow(call):
    def later(*arguments, **options):
        time.sleep(0.02)
        return call(*arguments, **options)
    return later

os.replace, os.fsync = slow(replace), slow(fsync)
out = Path(sys.argv[2])
resume = RunFolder(out).has_state
config = TrainConfig.from_mapping({**SETTINGS, **CHANGES, "workers": int(sys.argv[5])}, where="test")
print("ready", flush=True)
try:
    train(Path(sys.argv[1]), out, None if resume else config, plan=None if resume else PLAN, resume=resume)
except MasamError as error:
    print(error.line(), flush=True)
    sys.exit(error.exit_code)
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "vit_t", TINY)
        config = TrainConfig.from_mapping({**SETTINGS, **CHANGES}, where="test")
        return train(dataset, tmp_path_factory.mktemp("whole") / "run", config, plan=PLAN).folder


def start(dataset, out, workers):
    here = Path(__file__).parent
    command = [sys.executable, "-c", CHILD, str(dataset), str(out), str(here), str(here.parents[1]), str(workers)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(masam.__file__).parent.parent)}
    return subprocess.Popen(
        command, env={**environment, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def timed(folder):
    return [{k: v for k, v in row.items() if "second" not in k} for row in read_rows(folder.metrics)]


@pytest.fixture(scope="module")
def seconds(dataset, tmp_path_factory):
    """How long a run takes from where it is ready."""
    with start(dataset, tmp_path_factory.mktemp("timed") / "run", 0) as child:
        child.stdout.readline()
        began = time.monotonic()
        assert child.wait(timeout=300) == 0
    return time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("number", range(KILLED_RUNS))
def test_a_killed_run_has_the_same_result_bit_for_bit(dataset, undisturbed, seconds, tmp_path, number):
    chance, out, workers = random.Random(number), tmp_path / "run", number % 2
    for _ in range(2):
        with start(dataset, out, workers) as child:
            child.stdout.readline()
            time.sleep(chance.uniform(0, seconds))
            child.kill()
        # Whatever moment that was, what lies there can be read or is not there.
        if RunFolder(out).has_state:
            for name in ("weights", "optimizer"):
                load_file(find_checkpoint(out) / f"{name}.safetensors")
    with start(dataset, out, workers) as child:
        _, said = child.communicate(timeout=300)
    assert child.returncode == 0, said
    for name in ("last/weights.safetensors", "last/optimizer.safetensors", "model.safetensors"):
        ours, theirs = load_file(out / name), load_file(undisturbed.root / name)
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    assert timed(RunFolder(out)) == timed(undisturbed)
    left = {path.name for path in out.rglob("*") if ".partial" in path.name or path.name in ("last.new", "last.old")}
    assert not left


def test_ctrl_c_stops_in_good_order_and_the_run_resumes(dataset, undisturbed, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run")
    with start(dataset, run.root, 1) as child:
        assert child.stdout.readline() == "ready\n"
        while not run.metrics.exists() and child.poll() is None:
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        line, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    message = r"error\[STOPPED\]: stopped after step \d+ of 18, the state is in .*; continue with --resume\n"
    assert re.fullmatch(message, line)
    assert run.has_state
    with pytest.raises(InputError, match="the folder holds a run already"):
        run.require_free()
    monkeypatch.setitem(SIZES, "vit_t", TINY)
    assert_same_run(train(dataset, run.root, resume=True).folder, undisturbed)
