import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import write_dataset
from training_runs import PLAN, SETTINGS, TINY

import masam
from masam.errors import ConfigError, InputError
from masam.model.sizes import SIZES
from masam.runs.metrics import read_rows
from masam.training.config import TrainConfig
from masam.training.processes import ProcessGroup, ProcessRank, connect_processes, find_process_rank, first_node
from masam.training.run import train

# Three cases of six windows, two of them for training: six steps of four windows, of two or four micro-batches. A job
# that fails prints its error, and the next one starts.
CHILD = """
import json, os, sys, time
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import torch
from pathlib import Path
from training_runs import PLAN, TINY, SETTINGS
from masam.errors import MasamError
from masam.model.sizes import SIZES
from masam.progress import Silent
from masam.training.config import TrainConfig
from masam.training.run import train

class Steps(Silent):
    task, steps = "", 0
    def start(self, task, total):
        self.task = task
    def advance(self, note=""):
        self.steps += self.task == "training"
        if self.steps == 2 and job.get("hold"):
            print("held", flush=True)
            while not Path(job["hold"]).exists():
                time.sleep(0.02)

torch.set_num_threads(1)
SIZES["vit_t"] = TINY
code = 0
for job in json.loads(sys.argv[3]):
    os.environ["MASTER_PORT"] = str(job["port"])
    config = TrainConfig.from_mapping({**SETTINGS, **job["settings"]}, where="test")
    settings = {"resume": True} if job.get("resume") else {"config": config, "plan": PLAN}
    try:
        train(Path(job["dataset"]), Path(job["out"]), progress=Steps(), **settings)
    except MasamError as error:
        print(error.line(), flush=True)
        code = error.exit_code
sys.exit(code)
"""


@pytest.fixture(autouse=True)
def tiny_size(monkeypatch):
    monkeypatch.setitem(SIZES, "vit_t", TINY)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"))


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(jobs, processes=2, names=("RANK", "WORLD_SIZE", "LOCAL_RANK")):
    """Start the processes of a run, as torchrun does; each does all jobs, one after the other."""
    here = Path(__file__).parent
    plain = [{**job, "port": free_port(), "dataset": str(job["dataset"]), "out": str(job["out"])} for job in jobs]
    command = [sys.executable, "-c", CHILD, str(here), str(here.parents[1]), json.dumps(plain)]
    # The worked-on masam, wherever it is installed from.
    base = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(masam.__file__).parent.parent)}
    base |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    places = [dict(zip(names, (str(rank), str(processes), str(rank)), strict=True)) for rank in range(processes)]
    return [
        subprocess.Popen(command, env=base | place, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for place in places
    ]


def finish(children, timeout=120):
    """Return exit code, stdout and stderr of each."""
    try:
        said = [child.communicate(timeout=timeout) for child in children]
    finally:
        for child in children:
            child.kill()
    return [(child.returncode, *texts) for child, texts in zip(children, said, strict=True)]


def alone(dataset, out, **settings):
    config = TrainConfig.from_mapping({**SETTINGS, **settings}, where="test")
    return train(dataset, out, config, plan=PLAN).folder


# Without dropout a run has one order of sums more than with it, and no less of everything else.
VARIANTS = {
    "ddp, pooled over the batch": {"dice_pooling": "batch", "micro_batch_windows": 1},
    "ddp, pooled over micro-batches": {"dice_pooling": "micro_batch", "micro_batch_windows": 1, "clip_norm": 0.5},
    "fsdp": {"dice_pooling": "batch", "micro_batch_windows": 1, "sharing": "fsdp", "clip_norm": 0.5},
    "ddp, prompts": {"dice_pooling": "batch", "micro_batch_windows": 2, "prompt_rate": 0.9, "corrective_clicks": 1},
    "fsdp, prompts": {"micro_batch_windows": 1, "sharing": "fsdp", "prompt_rate": 0.9, "corrective_clicks": 2},
    "fsdp, everything": {
        "sharing": "fsdp", "micro_batch_windows": 2, "model": {**SETTINGS["model"], "trained": "everything"},
    },
}  # fmt: skip


@dataclass
class Runs:
    """What two processes did that executed all variants, a run on broken data, and a run in which the second one dies.

    One start for all, as most of the time goes into importing torch.
    """

    root: Path
    broken: list[list[str]]
    code: int
    lost: str
    seconds: float


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    broken = write_dataset(root / "broken", cases=2)
    (broken / "imagesTr/case1_0000.nii.gz").write_bytes(b"no scan")
    hold = root / "continue"
    jobs = [{"dataset": dataset, "out": root / f"two/{name}", "settings": VARIANTS[name]} for name in VARIANTS]
    jobs.append({"dataset": broken, "out": root / "refused", "settings": {"validate_every": 0}})
    endless = {"epochs": 1000, "validate_every": 0}
    jobs.append({"dataset": dataset, "out": root / "lost", "settings": endless, "hold": str(hold)})
    first, second = start(jobs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "vit_t", TINY)
        for name, settings in VARIANTS.items():
            alone(dataset, root / f"one/{name}", **settings)
    lines = list(iter(first.stdout.readline, "held\n")) if first.poll() is None else []
    second.kill()
    hold.touch()
    killed = time.monotonic()
    (code, lost, errors), (_, other_lines, other_errors) = finish([first, second])
    assert len(lines) == 1, (lines, errors, other_errors)
    return Runs(root, [lines, other_lines.splitlines(keepends=True)], code, lost, time.monotonic() - killed)


@pytest.mark.parametrize("name", VARIANTS)
def test_two_processes_have_the_result_of_one(runs, name):
    one, two = runs.root / f"one/{name}", runs.root / f"two/{name}"
    assert {p.name for p in one.iterdir()} == {p.name for p in two.iterdir()}
    ours, theirs = (read_rows(root / "metrics.csv") for root in (one, two))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == ["3", "6"]
    for a, b in zip(ours, theirs, strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-4)
        assert float(a["validation_dice"]) == pytest.approx(float(b["validation_dice"]), abs=2e-3)
    for file in ("last/weights.safetensors", "model.safetensors"):
        first, second = load_file(one / file), load_file(two / file)
        assert set(first) == set(second)
        for key, value in first.items():
            # Adam's first steps are as long for the smallest gradient, whose sign may be one of rounding.
            torch.testing.assert_close(
                second[key], value, rtol=0, atol=3e-4, msg=lambda text, key=key: f"{key}: {text}"
            )
    # Steps are 8e-4 long: that they are the same is not for want of movement.
    moved = load_file(one / "last/weights.safetensors")["image_encoder.fact.v"]
    assert moved.abs().max() > 1e-3


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
@pytest.mark.slow
def test_a_run_resumes_with_another_number_of_processes(runs, dataset, tmp_path, first, second):
    name = "fsdp"
    out = tmp_path / "run"
    for processes, resume in ((first, False), (second, True)):
        job = {"dataset": dataset, "out": out, "settings": VARIANTS[name], "resume": resume}
        children = start([job if resume else job | {"hold": str(tmp_path / "go on")}], processes)
        if not resume:
            # Held after the second of six steps, told to stop, let go.
            assert children[0].stdout.readline() == "held\n"
            children[-1].send_signal(signal.SIGTERM)
            (tmp_path / "go on").touch()
        done = finish(children)
        assert {code for code, _, _ in done} == {0 if resume else 143}, done
    ours, theirs = (load_file(root / "last/weights.safetensors") for root in (out, runs.root / f"one/{name}"))
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=0, atol=3e-4)


def test_an_error_of_one_process_ends_all_and_is_printed_once(runs):
    [line], other = runs.broken
    assert line.startswith("error[INPUT]: ")
    assert "case1_0000.nii.gz" in line
    assert other == ["\n"]
    assert not (runs.root / "refused").exists()


def test_a_lost_process_ends_the_run_with_one_line(runs):
    assert runs.code == 5
    (line,) = runs.lost.splitlines()
    assert line.startswith("error[RESOURCE]: training: another process of the run was lost (")
    assert line.endswith("); read its error message, then continue with --resume")
    assert runs.seconds < 60
    assert json.loads((runs.root / "lost/last/state.json").read_text())["step"] == 0


@pytest.mark.slow
def test_slurm_starts_a_run_too(dataset, tmp_path):
    names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    done = finish(start([{"dataset": dataset, "out": tmp_path / "run", "settings": {"epochs": 1}}], names=names))
    assert [code for code, _, _ in done] == [0, 0], done
    assert (tmp_path / "run/model.safetensors").is_file()


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, ProcessRank()),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, ProcessRank(3, 8, 1)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0"}, ProcessRank(2, 4, 0)),
        # In a batch script, outside of srun, there is no step.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, ProcessRank()),
        ({"RANK": "0", "WORLD_SIZE": "2", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}, ProcessRank(0, 2, 0)),
    ],
)
def test_the_rank_is_read_from_the_environment(environment, place):
    assert find_process_rank(environment) == place


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RANK": "one", "WORLD_SIZE": "2"}, "^environment: expected an integer, got RANK='one'$"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "^environment: expected RANK below WORLD_SIZE, got 2 of 2$"),
    ],
)
def test_an_invalid_environment_is_refused(environment, message):
    with pytest.raises(ConfigError, match=message):
        find_process_rank(environment)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu7", "gpu7"), ("gpu[03-05,11],login1", "gpu03"), ("a1,b2", "a1"), ("n[7]", "n7"), ("x-[12,14-15]", "x-12")],
)
def test_first_node_of_a_slurm_list(nodes, first):
    assert first_node(nodes) == first


def test_a_missing_master_address_is_refused():
    with (
        pytest.raises(
            ConfigError, match="needs MASTER_ADDR and MASTER_PORT, the address of its first process; start them with"
        ),
        connect_processes(ProcessRank(0, 2), torch.device("cpu"), {"SLURM_JOB_ID": "12"}),
    ):
        pass


def test_a_single_process_is_a_group():
    group = ProcessGroup(ProcessRank())
    results = (group.gather(3), group.run_on_first_process(lambda: 4), group.run_on_all_processes(lambda: 5))
    assert results == ([3], 4, 5)
    assert torch.equal(group.all_reduce(torch.ones(2)), torch.ones(2))
    with pytest.raises(InputError, match="nothing"):
        group.run_on_all_processes(lambda: (_ for _ in ()).throw(InputError("nothing")))
