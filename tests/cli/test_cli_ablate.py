"""``masam ablate`` as a user types it."""

import json
import signal
import time

import pytest
from masam_cli import finish, start

from masam.ablation import run
from masam.errors import DivergedError

ABLATION = """
dataset: {dataset}
settings:
  model.size: vit_t
  model.adapter_channels: 8
  model.fact_rank: 4
  epochs: 1
  batch_windows: 9
  validate_every: 0
  device: cpu
seeds: [1]
rows:
  three slices: {{plan.window: 3}}
  one slice: {{plan.window: 1}}
stride: 1
"""


@pytest.fixture
def table(dataset, tmp_path):
    file = tmp_path / "ablation.yaml"
    file.write_text(ABLATION.format(dataset=dataset))
    return file


def test_a_table_from_outside(masam, table, tmp_path):
    out = tmp_path / "out"
    listed = masam("ablate", table, "--out", out, "--dry-run", "--json")
    assert listed.code == 0, listed.err
    assert [(c["row"], c["seed"], c["fold"], c["state"], c["steps"]) for c in listed.json] == [
        ("three slices", 1, None, "not begun", 2),
        ("one slice", 1, None, "not begun", 2),
    ]
    assert all(cell["peak_bytes"] > 350 * 2**20 for cell in listed.json)
    assert not out.exists(), "a dry run writes nothing"
    done = masam("ablate", table, "--out", out, "--quiet")
    assert (done.code, done.err) == (0, "")
    assert "Dice on 2 labelled test cases" in done.out
    for word in ("three slices", "one slice", "minus three slices", "1 of 1"):
        assert word in done.out
    assert {"table.md", "table.csv", "table.json"} <= {path.name for path in out.iterdir()}
    again = masam("ablate", table, "--out", out, "--json")
    assert again.json == json.loads((out / "table.json").read_text())
    assert "2 cells, 2 of them done by an earlier run" in again.err


def test_a_failed_cell_ends_with_code_4_and_the_table(masam, table, tmp_path, monkeypatch):
    real = run.train

    def train(root, out, config, **options):
        if options["plan"].window == 3:
            raise DivergedError("the loss is not finite")
        return real(root, out, config, **options)

    monkeypatch.setattr(run, "train", train)
    result = masam("ablate", table, "--out", tmp_path / "out")
    assert result.code == 4
    assert result.error == (
        "error[BATCH]: 1 of 2 cells failed (three slices, seed 1: the loss is not finite); "
        "the others are done; the same command repeats these"
    )
    assert "0 of 1, 1 diverged" in result.out
    assert "1 of 1" in result.out


def test_a_typo_in_the_last_row_is_found_before_any_step(masam, table, tmp_path):
    table.write_text(table.read_text().replace("{plan.window: 1}", "{plan.windw: 1}"))
    result = masam("ablate", table, "--out", tmp_path / "out")
    assert result.code == 2
    assert result.error == (f"error[CONFIG]: {table}, row one slice: plan: windw: unknown key; did you mean 'window'?")
    assert not (tmp_path / "out").exists()


def test_ctrl_c_exits_with_130_and_the_same_command_resumes(table, tmp_path):
    table.write_text(table.read_text().replace("epochs: 1\n", "epochs: 400\n"))
    out = tmp_path / "out"
    process = start("ablate", table, "--out", out)
    assert process.stderr is not None
    for line in process.stderr:
        if "three slices, seed 1: training" in line:
            break
    while not list(out.glob("runs/*/last/state.json")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    result = finish(process)
    assert result.code == 130, result.err
    assert result.error.startswith("error[STOPPED]: ")
    assert not (out / "run.lock").exists()
    (cell,) = out.glob("runs/*/cell.json")
    assert json.loads(cell.read_text())["state"] == "unfinished"
