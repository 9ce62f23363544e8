"""``masam pretrain`` as a user types it."""

import json
import signal
import time

import pytest
from masam_cli import finish, start

from masam.pretraining.config import PretrainConfig
from masam.pretraining.run import pretrain
from masam.runs.metrics import read_rows

SMALL = [
    *("--image-size", 160, "--batch", 1, "--device", "cpu", "--set", "objects=2", "--set", "rounds=1"),
    *("--set", "validation_pictures=1"),
]


def test_stopped_resumed_and_used(masam, tmp_path):
    out = tmp_path / "run"
    running = start("pretrain", "--out", out, "--steps", 100000, *SMALL)
    state = out / "last" / "state.json"
    deadline = time.monotonic() + 90
    while not (out / "tensorboard").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    stopped = finish(running)
    assert stopped.code == 128 + signal.SIGTERM, stopped.err
    assert "of 100000, the state is in" in stopped.error
    assert state.is_file()
    refused = masam("pretrain", "--out", out, "--steps", 2, *SMALL)
    assert refused.code == 3
    assert refused.error.endswith("the folder holds a run already; use --resume, or another --out")
    # The same run, but shorter.
    config, last_step = out / "config.yaml", json.loads(state.read_text())["step"] + 2
    config.write_text(config.read_text().replace("steps: 100000", f"steps: {last_step}"))
    done = masam("pretrain", "--out", out, "--resume", "--json")
    assert done.code == 0, done.err
    assert done.json["steps"] == last_step
    assert done.json["weights"] == str(out / "model.safetensors")
    assert {"miou_box", "miou_click", "miou_3_clicks"} <= set(done.json)
    assert read_rows(out / "metrics.csv")[-1]["step"] == str(last_step)
    assert sorted(path.name for path in out.iterdir()) == [
        "config.yaml", "last", "manifest.json", "metrics.csv", "model.safetensors", "tensorboard"
    ]  # fmt: skip
    # The same run from Python.
    result = pretrain(tmp_path / "python", PretrainConfig.from_yaml(config))
    assert {path.name for path in result.folder.root.iterdir()} == {path.name for path in out.iterdir()}
    ours, theirs = (json.loads((root / "manifest.json").read_text()) for root in (result.folder.root, out))
    assert list(ours) == list(theirs)
    assert (ours["kind"], ours["steps"]) == (theirs["kind"], theirs["steps"]) == ("pretrain", last_step)
    told = masam("info", out / "model.safetensors", "--json")
    assert told.json["size"] == "vit_t"
    assert told.json["image_size"] == 160


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--set", "round=2"], 2, "error[CONFIG]: options: round: unknown key"),
        (["--image-size", 100], 2, "error[CONFIG]: options: image_size: expected a multiple of 32 from 64"),
        (
            ["--image-size", 128],
            2,
            "error[CONFIG]: image_size: at 128 pixels an attention window of vit_t covers the whole picture",
        ),
        (["--resume", "--steps", 3], 2, "error[CONFIG]: --resume: a resumed run keeps its settings; give none"),
        (["--device", "tpu"], 2, "error[CONFIG]: device: expected auto, cpu, cuda or cuda:N, got 'tpu'"),
    ],
)
def test_what_makes_no_sense_is_refused(masam, tmp_path, words, code, message):
    done = masam("pretrain", "--out", tmp_path / "run", *words)
    assert done.code == code
    assert done.error.startswith(message)
    assert not (tmp_path / "run").exists()
