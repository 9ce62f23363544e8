"""Invalid input of the commands: one error line, the documented exit code, no files left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from masam_cli import SPACING, TINY, arrays, save
from safetensors.torch import save_file

GOLDEN = Path(__file__).parents[1] / "golden"

BLOCKS = "expected all, or a list of different block indices from 0"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected a command; see masam --help"),
        (["segment"], "No such command 'segment'; see masam --help"),
        (["predict"], "Missing argument 'images'; see masam predict --help"),
        (["predict", "x", "--modle", "y"], "No such option: --modle"),
        (["predict", "x", "--model", "y", "--out", "z", "--stride", "two"], "Invalid value for '--stride'"),
        (["evaluate", "x", "y", "--labels", "z", "--missing", "skip"], "Invalid value for '--missing'"),
        (["evaluate", "x", "y", "--labels", "z", "--workers", "0"], "Invalid value for '--workers'"),
    ],
)
def test_usage(masam, words, message):
    result = masam(*words)
    assert result.code == 2
    assert result.error.startswith("error[USAGE]: ")
    assert message in result.error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stride", 9], "expected a stride from 1 to the window's 5 slices, got 9"),
        (["--stride", 0], "expected a stride from 1 to the window's 5 slices, got 0"),
        (["--batch", 0], "batch: expected 1 window or more, got 0"),
        (["--device", "gpu"], "device: expected auto, cpu, cuda or cuda:N, got 'gpu'"),
    ],
)
def test_predict_settings_out_of_range(masam, dataset, trained, tmp_path, words, message):
    result = masam("predict", dataset / "imagesTs", "--model", trained, "--out", tmp_path / "masks", *words)
    assert result.code == 2
    assert f"error[CONFIG]: {message}" in result.error
    assert not (tmp_path / "masks").exists()


def test_a_device_that_is_not_there(masam, dataset, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    words = (dataset / "imagesTs", "--model", trained, "--out", tmp_path / "masks", "--device", "cuda")
    result = masam("predict", *words)
    assert result.code == 5
    assert result.error == "error[RESOURCE]: device: cuda is not available (0 GPUs found); use --device cpu"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "learning_rat=1"], "options: learning_rat: unknown key; did you mean 'learning_rate'?"),
        (["--set", "model.rank=1"], "options: model.rank: unknown key; did you mean 'fact_rank'?"),
        (
            ["--set", "model.adapter_depth_kernel=4"],
            "options: model.adapter_depth_kernel: expected an odd number, got 4",
        ),
        (["--set", "model.fact_blocks=[1, 1]"], f"options: model.fact_blocks: {BLOCKS}, got [1, 1]"),
        (["--set", "model.fact_blocks=none"], f"options: model.fact_blocks: {BLOCKS}, got 'none'"),
        (["--set", "model.adapter_blocks=[-1]"], f"options: model.adapter_blocks: {BLOCKS}, got [-1]"),
        (["--set", "window_depths=[5, 3]"], "options: window_depths: expected the smaller number first, got"),
        (["--set", "window_depths=[0, 3]"], "options: window_depths.0: expected greater than or equal to 1, got 0"),
        (["--set", "model.trained=decoder"], "model.trained: 'decoder' trains no increments and no adapters"),
        (["--set", "frozen_dtype=bf16"], "frozen_dtype: expected frozen layers and precision bf16"),
        (["--set", "epochs=many"], "options: epochs: expected a valid integer, got 'many'"),
        (["--set", "epochs=[1"], "--set: expected a plain value for epochs, got '[1'"),
        (["--set", "epochs"], "--set: expected KEY=VALUE, got 'epochs'"),
        (["--set", "epochs.x=1"], "options: epochs.x: epochs is a single value, not a group"),
        (["--set", "learning_rate=nan"], "options: learning_rate: expected"),
        (["--fold", 3], "fold: expected 0 to 2, got 3"),
        (["--fold", "one"], "options: fold: expected a valid integer, got 'one'"),
        (["--epochs", 0], "options: epochs: expected greater than or equal to 1, got 0"),
        (
            ["--size", "vit_q"],
            "options: model.size: expected 'auto', 'vit_h', 'vit_l', 'vit_b' or 'vit_t', got 'vit_q'",
        ),
        (["--config", "missing.yaml"], "missing.yaml: settings file not found"),
        (["--plan", "missing.yaml"], "missing.yaml: settings file not found"),
        (["--resume", "--epochs", 3], "--resume: a resumed run keeps its settings; give none"),
        (["--resume"], "plan.yaml: settings file not found"),
        (["--device", "cpu:1"], "device: expected auto, cpu, cuda or cuda:N, got 'cpu:1'"),
    ],
)
def test_train_settings(masam, dataset, tmp_path, words, message):
    result = masam("train", dataset, "--out", tmp_path / "run", *words)
    assert result.code == 2
    assert result.error.startswith("error[CONFIG]: ")
    assert message in result.error
    assert list(tmp_path.iterdir()) == []


def test_train_config_file(masam, dataset, tmp_path):
    settings = tmp_path / "settings.yaml"
    for text, message in (
        ("learning_rat: 1", "learning_rat: unknown key; did you mean 'learning_rate'?"),
        ("epochs: '3'", "epochs: expected a valid integer, got '3'"),
        ("model: {sise: vit_t}", "model.sise: unknown key; did you mean 'size'?"),
        ("epochs: 1\nepochs: 2", "line 2: duplicate key 'epochs'"),
        ("- epochs", "expected a mapping of keys to values, got ['epochs']"),
        ("a: [", "line 1: "),
    ):
        settings.write_text(text)
        result = masam("train", dataset, "--out", tmp_path / "run", "--config", settings)
        assert result.code == 2
        assert f"error[CONFIG]: {settings}: {message}" in result.error


def test_train_needs_the_sam_of_the_size(masam, dataset, tmp_path):
    words = ("train", dataset, "--out", tmp_path / "run", *TINY, "--sam-checkpoint")
    wrong = masam(*words, GOLDEN / "sam_tiny_256.pth")
    assert wrong.code == 6
    assert wrong.error.startswith(f"error[MODEL]: {GOLDEN / 'sam_tiny_256.pth'}: ")
    missing = masam(*words, tmp_path / "sam.pth")
    assert missing.code == 3
    assert f"{tmp_path / 'sam.pth'}: expected a file, got none" in missing.error
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_is_taken(masam, dataset, trained):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    result = masam("train", dataset, "--out", trained, *TINY)
    assert result.code == 3
    assert result.error.endswith("the folder holds a run already; use --resume, or another --out")
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path in before} == before


def _edit(**changes):
    def edit(root: Path) -> None:
        content = json.loads((root / "dataset.json").read_text()) | changes
        (root / "dataset.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return edit


def _label(change):
    def edit(root: Path) -> None:
        change(root / "labelsTr/Tr1.nii.gz", arrays(seed=1)[1])

    return edit


def _fractional(path: Path, labels: np.ndarray) -> None:
    save(path, labels * np.float32(0.5))


def _unknown_value(path: Path, labels: np.ndarray) -> None:
    save(path, labels * 4)


def _other_shape(path: Path, labels: np.ndarray) -> None:
    save(path, labels[:-1])


def _other_place(path: Path, labels: np.ndarray) -> None:
    save(path, labels, SPACING + np.array([[0, 0, 0, 2.0]] + [[0, 0, 0, 0]] * 3))


def _nan_label(path: Path, labels: np.ndarray) -> None:
    wrong = labels.astype(np.float32)
    wrong[0, 0, 0] = np.nan
    save(path, wrong)


def _write(name: str, data: bytes):
    def edit(root: Path) -> None:
        (root / name).write_bytes(data)

    return edit


def _remove(name: str):
    def edit(root: Path) -> None:
        (root / name).unlink()

    return edit


BAD_DATA = {
    "no dataset.json": (_remove("dataset.json"), "expected a data set folder with a dataset.json; check the path"),
    "empty dataset.json": (_write("dataset.json", b""), "dataset.json: the file is empty"),
    "bad JSON": (_write("dataset.json", b'{"labels": }'), "dataset.json: not valid JSON: Expecting value in line 1"),
    "no labels": (_edit(labels=None), "dataset.json: the key 'labels' is missing"),
    "no classes": (_edit(labels={"background": 0}), "expected at least one class besides the background"),
    "wrong count": (_edit(numTraining=4), "dataset.json: numTraining is 4, found 3 training cases"),
    "no label": (_remove("labelsTr/Tr1.nii.gz"), "labelsTr: no label for image Tr1; add the label"),
    "cut off": (_write("labelsTr/Tr1.nii.gz", b"\x1f\x8b\x08\x00"), "labelsTr/Tr1.nii.gz: the gzip data is cut off"),
    "fractional": (_label(_fractional), "labelsTr/Tr1.nii.gz: expected labels to be integers"),
    "NaN": (_label(_nan_label), "got nan at voxel (0, 0, 0)"),
    "unknown value": (_label(_unknown_value), "label value 4, 8 is not in dataset.json, which defines [0, 1, 2]"),
    "other shape": (_label(_other_shape), "Tr1.nii.gz: the label's shape (23, 20, 6) is not (24, 20, 6)"),
    "other place": (_label(_other_place), "labelsTr/Tr1.nii.gz: the label's affine"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_train_refuses_bad_data(masam, broken, tmp_path, name):
    spoil, message = BAD_DATA[name]
    spoil(broken)
    result = masam("train", broken, "--out", tmp_path / "run", *TINY)
    assert (result.code, result.out) == (3, "")
    assert result.error.startswith("error[INPUT]: ")
    assert message in result.error
    assert not (tmp_path / "run").exists()


def test_plan_refuses_bad_data_and_an_unknown_preset(masam, broken, tmp_path):
    out = tmp_path / "plan.yaml"
    preset = masam("plan", broken, "--out", out, "--preset", "paper-pet")
    assert preset.code == 2
    assert "preset: expected one of paper-ct, paper-mr, paper-tumor, paper-video, got 'paper-pet'" in preset.error
    _label(_other_shape)(broken)
    assert masam("plan", broken, "--out", out).code == 3
    assert masam("plan", tmp_path / "nowhere", "--out", out).code == 3
    assert not out.exists()


@pytest.fixture
def model(trained, tmp_path) -> Path:
    return Path(shutil.copy(trained / "model.safetensors", tmp_path / "model.safetensors"))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _foreign(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path)


def _junk(path: Path) -> None:
    path.write_bytes(b"junk" * 1000)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_truncate, "cannot be read as a safetensors file"),
        (_flip, "the content does not match its hash: the file is damaged"),
        (_foreign, "expected a model written by masam, its metadata are missing"),
        (_junk, "cannot be read as a safetensors file"),
    ],
)
def test_a_bad_model(masam, dataset, model, tmp_path, spoil, message):
    spoil(model)
    # What a file holds can be said of any tensors; whether they serve as a model is another question.
    commands = [("predict", dataset / "imagesTs", "--model", model, "--out", tmp_path / "masks"), ("info", model)]
    for words in commands[: 1 if spoil is _foreign else 2]:
        result = masam(*words)
        assert (result.code, result.out) == (6, "")
        assert result.error.startswith(f"error[MODEL]: {model}: ")
        assert message in result.error
    assert not (tmp_path / "masks").exists()


def test_a_missing_model(masam, dataset, tmp_path):
    for words in (("predict", dataset / "imagesTs", "--model", tmp_path / "m", "--out", tmp_path / "x"), ("info",)):
        result = masam(*words, *([tmp_path / "m"] if words == ("info",) else []))
        assert result.code == 3
        assert f"{tmp_path / 'm'}: expected a file, got none" in result.error


def test_out_is_a_file(masam, dataset, trained, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for words in (("train", dataset, *TINY), ("predict", dataset / "imagesTs", "--model", trained)):
        result = masam(*words, "--out", taken)
        assert result.code == 5
        assert result.error.startswith(f"error[RESOURCE]: {taken}")
    assert taken.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_out_cannot_be_written(masam, dataset, trained, unwritable):
    scan = dataset / "imagesTs/Ts0_0000.nii.gz"
    for words in (
        ("train", dataset, *TINY, "--out", unwritable / "run"),
        ("plan", dataset, "--out", unwritable / "plan.yaml"),
        ("predict", scan, "--model", trained, "--out", unwritable / "masks"),
        ("predict", scan, "--model", trained, "--out", unwritable / "mask.nii.gz"),
        ("evaluate", scan, scan, "--labels", dataset, "--out", unwritable / "scores.json"),
    ):
        result = masam(*words)
        assert (result.code, result.out) == (5, ""), words
        assert result.error.startswith("error[RESOURCE]: ")
        assert str(unwritable.parent) in result.error


def test_a_file_to_write_is_a_folder(masam, dataset, tmp_path):
    words = ("report", "--images", dataset, "--predictions", dataset, "--references", dataset, "--labels", dataset)
    for command in (("plan", dataset), words):
        result = masam(*command, "--out", tmp_path)
        assert result.code == 5
        assert (
            result.error
            == f"error[RESOURCE]: --out {tmp_path}: expected a file to write, got a folder; add a file name"
        )
