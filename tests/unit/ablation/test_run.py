"""Whole tables of tiny runs: what they write, what is kept, what goes on, what fails."""

import json
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from clips import write_video_dataset
from safetensors.torch import load_file
from tiny import SAM, write_dataset

from masam.ablation import run as run_module
from masam.ablation.cell import training_seconds
from masam.ablation.run import prepare_ablation, run_ablation
from masam.errors import BatchError, DivergedError, InputError, ResourceError, StoppedError
from masam.evaluation import Evaluation, evaluate
from masam.evaluation.statistics import paired_difference
from masam.model.sizes import SIZES
from masam.progress import Silent
from masam.runs.metrics import read_rows
from masam.training.run_folder import RunFolder

TINY = replace(SAM, name="vit_t", decoder_heads=8)
SETTINGS = {
    "model.size": "vit_t", "model.fact_rank": 2, "model.adapter_channels": 4, "epochs": 2, "batch_windows": 6,
    "micro_batch_windows": 3, "validate_every": 0, "device": "cpu", "plan.image_size": 32, "plan.window": 3,
}  # fmt: skip
ROWS = {"wide": {}, "narrow": {"model.adapter_channels": 2, "plan.window": 1}}


@pytest.fixture(autouse=True)
def tiny_size(monkeypatch):
    monkeypatch.setitem(SIZES, "vit_t", TINY)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two cases to train on, two to test on."""
    root = write_dataset(tmp_path_factory.mktemp("data") / "set", cases=4)
    for kind, ending in (("images", "_0000.nii.gz"), ("labels", ".nii.gz")):
        (root / f"{kind}Ts").mkdir()
        for number in (2, 3):
            name = f"case{number}{ending}"
            (root / f"{kind}Tr" / name).rename(root / f"{kind}Ts" / name)
    return root


class Notes(Silent):
    """Remembers what it is told; sends this process a signal after so many training steps."""

    def __init__(self, stop_after=None):
        self.lines, self.tasks, self.left = [], [], stop_after

    def start(self, task, total):
        self.tasks.append(task)

    def advance(self, note=""):
        if self.tasks[-1:] == ["training"] and self.left is not None:
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)

    def log(self, line):
        self.lines.append(line)


def write_table(folder, dataset, **changes):
    content = {"dataset": str(dataset), "settings": SETTINGS, "seeds": [1, 2], "rows": ROWS, "stride": 1, **changes}
    file = folder / "ablation.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def run(file, out, notes=None):
    notes = notes or Notes()
    return run_ablation(prepare_ablation(file, out, notes), out, notes)


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """A table that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "vit_t", TINY)
        result = run(write_table(folder, dataset), folder / "out")
    result.raise_failures()
    return folder / "out", result


@pytest.fixture
def copied(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "out")
    return tmp_path / "out"


def folders(out):
    """Run folder by row and seed."""
    found = {}
    for path in (out / "runs").glob("*/cell.json"):
        record = json.loads(path.read_text())
        found.setdefault((record["row"], record["seed"]), []).append(path.parent)
    assert all(len(paths) == 1 for paths in found.values()), found
    return {key: paths[0] for key, paths in found.items()}


def weights(out):
    return {key: load_file(folder / "model.safetensors") for key, folder in folders(out).items()}


def assert_same_weights(one, other):
    ours, theirs = weights(one), weights(other)
    for key, tensors in ours.items():
        assert all(torch.equal(tensors[name], theirs[key][name]) for name in tensors), key


def test_files_of_a_table(whole, dataset):
    out, _ = whole
    names = {path.name for path in out.iterdir()}
    (plan,) = (name for name in names if name.startswith("plan."))
    assert names == {"ablation.yaml", plan, "runs", "table.md", "table.csv", "table.json"}
    assert set(folders(out)) == {("wide", 1), ("wide", 2), ("narrow", 1), ("narrow", 2)}
    for (row, seed), folder in folders(out).items():
        own, config = RunFolder(folder).read_settings()
        assert (config.seed, config.model.adapter_channels) == (seed, 4 if row == "wide" else 2)
        assert (own.window, own.image_size) == (3 if row == "wide" else 1, 32)
        assert {path.name for path in (folder / "predictions").glob("*.nii.gz")} == {
            "case2.nii.gz",
            "case3.nii.gz",
        }
        assert json.loads((folder / "manifest.json").read_text())["kind"] == "ablate"
        assert training_seconds(folder) == pytest.approx(
            sum(float(r["seconds_per_step"]) for r in read_rows(folder / "metrics.csv")) * 2, rel=0.5
        )


def test_the_table_summarises_its_cells(whole):
    out, result = whole
    dice = {key: Evaluation.from_json(folder / "scores.json").values("dice") for key, folder in folders(out).items()}
    wide, narrow = result.table.rows
    for row in (wide, narrow):
        # Each holds both classes in every case, so all means are plain ones.
        assert row.dice == pytest.approx(sum(dice[row.name, seed].mean() for seed in (1, 2)) / 2)
        assert row.cells == "2 of 2"
    stacks = {name: np.stack([dice[name, seed] for seed in (1, 2)]) for name in ("wide", "narrow")}
    expected = paired_difference(stacks["narrow"], stacks["wide"])
    assert (narrow.difference, narrow.difference_low, narrow.difference_high) == expected
    assert wide.trained_parameters > narrow.trained_parameters
    assert result.table.caption == "tiny: Dice on 2 labelled test cases"
    assert json.loads((out / "table.json").read_text()) == result.table.record()


def test_a_rerun_keeps_everything(copied, dataset, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (copied / "runs").rglob("*") if path.is_file()}
    table = (copied / "table.json").read_text()
    notes = Notes()
    run(write_table(tmp_path, dataset), copied, notes).raise_failures()
    assert {path: path.stat().st_mtime_ns for path in (copied / "runs").rglob("*") if path.is_file()} == before
    assert (copied / "table.json").read_text() == table
    assert "4 cells, 4 of them done by an earlier run" in notes.lines
    assert not {"reading cases", "training", "windows"} & set(notes.tasks)


def test_the_number_of_workers_changes_no_cell(copied, dataset, tmp_path):
    notes = Notes()
    run(write_table(tmp_path, dataset, settings={**SETTINGS, "workers": 3}), copied, notes)
    assert "4 cells, 4 of them done by an earlier run" in notes.lines


def test_only_a_changed_row_is_repeated(copied, dataset, tmp_path):
    old = folders(copied)
    rows = {**ROWS, "narrow": {**ROWS["narrow"], "model.adapter_channels": 3}}
    notes = Notes()
    run(write_table(tmp_path, dataset, rows=rows, seeds=[1]), copied, notes).raise_failures()
    earlier = old["narrow", 1]
    change = "model.adapter_channels: 2 -> 3"
    line = f"cell 2 of 2, narrow, seed 1: repeated because of {change}; the earlier run stays in {earlier}"
    assert line in notes.lines
    assert [line for line in notes.lines if line.startswith("cell 1")] == []
    new = [folder for folder in (copied / "runs").glob("narrow.seed1.*") if folder != earlier]
    assert RunFolder(new[0]).read_settings()[1].model.adapter_channels == 3
    # Back to the old settings: its cells are there still.
    again = Notes()
    run(write_table(tmp_path, dataset), copied, again)
    assert "4 cells, 4 of them done by an earlier run" in again.lines


def test_other_data_repeat_all_cells(copied, dataset, tmp_path):
    changed = tmp_path / "set"
    shutil.copytree(dataset, changed)
    shutil.copy(changed / "imagesTs/case2_0000.nii.gz", changed / "imagesTr/case0_0000.nii.gz")
    notes = Notes()
    run(write_table(tmp_path, changed, rows={"wide": {}}, seeds=[1]), copied, notes).raise_failures()
    assert any(line.startswith("cell 1 of 1, wide, seed 1: repeated because of data") for line in notes.lines)


def test_another_rule_of_scoring_trains_nothing(copied, dataset, tmp_path):
    models = weights(copied)
    notes = Notes()
    result = run(write_table(tmp_path, dataset, stride=3, rows={"wide": {}}, seeds=[1]), copied, notes)
    result.raise_failures()
    assert "cell 1 of 1, wide, seed 1: scoring, it was trained" in notes.lines
    assert "training" not in notes.tasks
    assert all(torch.equal(t, models["wide", 1][n]) for n, t in weights(copied)["wide", 1].items())


def test_an_interrupted_table_resumes_to_the_same_weights(whole, dataset, tmp_path):
    file, out = write_table(tmp_path, dataset, seeds=[1]), tmp_path / "out"
    first = run(file, out, Notes(stop_after=6))  # four steps a run: in the middle of the second cell
    with pytest.raises(StoppedError, match=r"the same command resumes from there$") as caught:
        first.raise_failures()
    assert caught.value.exit_code == 130
    assert first.table.caption.endswith("; not all cells are done")
    assert json.loads((out / "table.json").read_text()) == first.table.record()
    run(file, out).raise_failures()
    assert_same_weights(out, whole[0])
    record = json.loads((out / "table.json").read_text())
    assert [row["seeds"] for row in record["rows"]] == [{"1": row.seeds[1]} for row in whole[1].table.rows]


def test_failed_cells_are_listed_and_the_others_are_run(dataset, tmp_path, monkeypatch):
    real = run_module.train

    def train(root, out, config, **options):
        if config.seed == 2:
            raise ResourceError("memory ran out", where="training", fix="take less")
        return real(root, out, config, **options)

    monkeypatch.setattr(run_module, "train", train)
    rows = {"calm": {}, "wild": {"learning_rate": 1e30, "epochs": 11}}
    file, out = write_table(tmp_path, dataset, rows=rows), tmp_path / "out"
    result = run(file, out)
    with pytest.raises(BatchError) as caught:
        result.raise_failures()
    message = str(caught.value)
    assert message.startswith("3 of 4 cells failed (wild, seed 1: ")
    assert "calm, seed 2: training: memory ran out; take less" in message
    assert [row.cells for row in result.table.rows] == ["1 of 2, 1 failed", "0 of 2, 1 failed, 1 diverged"]
    assert "- wild, seed 1: diverged: " in (out / "table.md").read_text()
    # The cause is gone: the same command makes what is missing.
    monkeypatch.setattr(run_module, "train", real)
    again = run(write_table(tmp_path, dataset, rows={"calm": {}}), out)
    assert [row.cells for row in again.table.rows] == ["2 of 2"]


def test_the_only_cell_fails_with_its_own_reason(dataset, tmp_path, monkeypatch):
    def train(*arguments, **options):
        raise DivergedError("the loss is not finite")

    monkeypatch.setattr(run_module, "train", train)
    with pytest.raises(DivergedError, match=r"^the loss is not finite$"):
        run(write_table(tmp_path, dataset, rows={"one": {}}, seeds=[1]), tmp_path / "out").raise_failures()


def test_without_test_cases_each_fold_is_scored_on_what_it_holds_out(tmp_path):
    root = write_dataset(tmp_path / "set", cases=4)
    settings = {**SETTINGS, "validate_every": 1, "epochs": 1, "folds": 2}
    file = write_table(tmp_path, root, settings=settings, rows={"wide": {}}, seeds=[1], folds=[0, 1])
    result = run(file, tmp_path / "out")
    result.raise_failures()
    assert result.table.caption == "tiny: Dice on 4 validation cases"
    (row,) = result.table.rows
    scored = [one.evaluation.cases for one in row.results]
    assert sorted(case for cases in scored for case in cases) == ["case0", "case1", "case2", "case3"]
    for one in row.results:
        held_out = json.loads((one.root / "splits.json").read_text())[one.cell.fold]["val"]
        assert list(one.evaluation.cases) == sorted(held_out)


def test_a_folder_that_was_tampered_with_is_refused(copied, dataset, tmp_path):
    file, folder = write_table(tmp_path, dataset), folders(copied)["wide", 1]
    config = folder / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace("epochs: 2", "epochs: 3"))
    with pytest.raises(InputError, match=r"config.yaml or plan.yaml were changed after the run.*remove the folder"):
        run(file, copied)
    config.write_text(text)
    cell = json.loads((folder / "cell.json").read_text())
    for change, message in (
        ({"identity": {}}, "the folder holds a run of other settings"),
        ({"version": 2}, "expected format 'masam-ablation-cell', version 1"),
    ):
        (folder / "cell.json").write_text(json.dumps({**cell, **change}))
        with pytest.raises(InputError, match=message):
            run(file, copied)
    del cell["scoring"]
    (folder / "cell.json").write_text(json.dumps(cell))
    with pytest.raises(InputError, match="the keys scoring are missing"):
        run(file, copied)


def test_videos_are_scored_by_dice_pooled_over_their_frames(tmp_path):
    root = write_video_dataset(tmp_path / "set", cases=3)
    for kind in ("images", "labels"):
        (root / f"{kind}Ts").mkdir()
        video = sorted((root / f"{kind}Tr").iterdir())[2]
        video.rename(root / f"{kind}Ts" / video.name)
    content = json.loads((root / "dataset.json").read_text()) | {"numTraining": 2}
    (root / "dataset.json").write_text(json.dumps(content))
    file = write_table(tmp_path, root, seeds=[1])
    result = run(file, tmp_path / "out")
    result.raise_failures()
    assert result.table.caption.endswith("Dice on 1 labelled test cases")
    for row in result.table.rows:
        (cell,) = row.results
        (predicted,) = (path for path in (cell.root / "predictions").iterdir() if path.is_dir())
        reference = root / "labelsTs" / predicted.name
        again = evaluate({"one": predicted}, {"one": reference}, root / "dataset.json")
        assert row.dice == again.mean_dice
    # Nothing is made twice.
    notes = Notes()
    run(file, tmp_path / "out", notes)
    assert "2 cells, 2 of them done by an earlier run" in notes.lines
