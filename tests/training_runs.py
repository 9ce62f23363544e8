"""A tiny training run: settings, plan and what to compare of two runs."""

import signal
from dataclasses import replace

import torch
from safetensors.torch import load_file
from tiny import LABELS, SAM

from masam.preprocess.intensity import Window
from masam.preprocess.plan import Plan
from masam.progress import Silent
from masam.runs.metrics import read_rows
from masam.training.config import TrainConfig

TINY = replace(SAM, name="vit_t", decoder_heads=8)


PLAN = Plan(
    name="tiny", modality="CT", slice_axis="axial", intensity=Window(low=-50, high=200), window=3, image_size=32,
    labels=LABELS,
)  # fmt: skip


MODEL = {"size": "vit_t", "fact_rank": 2, "adapter_channels": 4}


# Two cases of six windows train: 12 windows, 3 steps an epoch; rows of metrics.csv at steps 3 and 6.
SETTINGS = {
    "epochs": 2, "batch_windows": 4, "micro_batch_windows": 2, "warmup_steps": 1, "validate_every": 1, "device": "cpu",
    "model": MODEL,
}  # fmt: skip


def config(**changes):
    return TrainConfig.from_mapping({**SETTINGS, **changes}, where="test")


class StopAt(Silent):
    """Sends this process a signal after so many training steps."""

    def __init__(self, step, number=signal.SIGINT):
        self.left = step
        self.number = number
        self.task = ""

    def start(self, task, total):
        self.task = task

    def advance(self, note=""):
        if self.task == "training":
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(self.number)


def rows(folder):
    timed = ("seconds_per_step", "windows_per_second")
    return [{k: v for k, v in row.items() if k not in timed} for row in read_rows(folder.metrics)]


def assert_same_run(one, other):
    for name in ("last/weights.safetensors", "last/optimizer.safetensors", "model.safetensors"):
        ours, theirs = load_file(one.root / name), load_file(other.root / name)
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[n], theirs[n]) for n in ours), name
    assert rows(one) == rows(other)
