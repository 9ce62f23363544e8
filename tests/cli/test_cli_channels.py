"""Scans of several channels: MR sequences, from the data set folder to masks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from masam_cli import TINY, arrays, save
from safetensors.numpy import load_file

from masam.cli import main
from masam.predict.predictor import Predictor


@pytest.fixture(scope="module", params=[2, 3, 4])
def sequences(request, tmp_path_factory) -> Path:
    """A data set with 2 to 4 sequences; only the last one shows the classes."""
    root = tmp_path_factory.mktemp("mr") / f"Dataset{request.param}"
    for number in range(3):
        image, labels = arrays(seed=number)
        for channel in range(request.param):
            shown = image if channel == request.param - 1 else np.full_like(image, 7) + (image % 3)
            save(root / f"imagesTr/case{number}_{channel:04d}.nii.gz", shown)
        save(root / f"labelsTr/case{number}.nii.gz", labels)
    names = ["T1", "T2", "FLAIR", "ADC"][: request.param]
    facts = {
        "channel_names": {str(n): name for n, name in enumerate(names)},
        "labels": {"background": 0, "organ": 1, "vessel": 2},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


@pytest.fixture(scope="module")
def run(sequences, tmp_path_factory) -> Path:
    """A model trained on the sequences."""
    folder = tmp_path_factory.mktemp("run") / "run"
    assert main(["train", str(sequences), "--out", str(folder), "--epochs", "1", *TINY]) == 0
    return folder


def test_train_and_predict(masam, sequences, run, tmp_path):
    channels = len(json.loads((sequences / "dataset.json").read_text())["channel_names"])
    masks = tmp_path / "masks"
    facts = masam("info", run, "--json").json
    assert facts["image_channels"] == channels
    assert facts["plan"]["channels"] == ["T1", "T2", "FLAIR", "ADC"][:channels]
    assert facts["plan"]["modality"] == "MR"
    predicted = masam("predict", sequences / "imagesTr", "--model", run, "--out", masks, "--device", "cpu", "--json")
    assert predicted.code == 0, predicted.err
    assert sorted(predicted.json["done"]) == ["case0", "case1", "case2"]
    mask, scan = nib.load(masks / "case0.nii.gz"), nib.load(sequences / "imagesTr/case0_0000.nii.gz")
    assert mask.shape == scan.shape
    np.testing.assert_array_equal(mask.affine, scan.affine)
    # A change of any channel is predicted again.
    again = tmp_path / "again"
    shutil.copytree(sequences / "imagesTr", again)
    rerun = masam("predict", again, "--model", run, "--out", masks, "--device", "cpu", "--json").json
    assert len(rerun["kept"]) == 3
    shutil.copy(again / "case1_0000.nii.gz", again / f"case0_{channels - 1:04d}.nii.gz")
    rerun = masam("predict", again, "--model", run, "--out", masks, "--device", "cpu", "--json").json
    assert sorted(rerun["kept"]) == ["case1", "case2"]


def test_a_missing_sequence_is_named(masam, sequences, run, tmp_path):
    names = list(json.loads((sequences / "dataset.json").read_text())["channel_names"].values())
    scans = tmp_path / "scans"
    shutil.copytree(sequences / "imagesTr", scans)
    for case in ("case0", "case1"):
        (scans / f"{case}_{len(names) - 1:04d}.nii.gz").unlink()
    result = masam("predict", scans, "--model", run, "--out", tmp_path / "masks", "--device", "cpu")
    assert result.code == 4
    wanted = f"expected {len(names)} channels ({', '.join(names)}), got {len(names) - 1}"
    assert f"case0: {wanted}; give one file per channel, CASE_0000.nii.gz, CASE_0001.nii.gz and so on" in result.error
    assert [path.name for path in (tmp_path / "masks").glob("*.nii.gz")] == ["case2.nii.gz"]
    (sequences / "imagesTr" / "case0_0000.nii.gz").rename(tmp_path / "away.nii.gz")
    try:
        refused = masam("train", sequences, "--out", tmp_path / "other", *TINY)
        assert (refused.code, "case case0 has no channel 0000" in refused.error) == (3, True)
    finally:
        (tmp_path / "away.nii.gz").rename(sequences / "imagesTr" / "case0_0000.nii.gz")


@pytest.fixture(scope="module")
def stacked(sequences, tmp_path_factory) -> Path:
    """The same sequences in MSD's layout: one file per case, channels along the fourth axis."""
    facts = json.loads((sequences / "dataset.json").read_text())
    root = tmp_path_factory.mktemp("msd") / "Task01"
    names = [f"case{number}.nii.gz" for number in range(3)]
    for name in names:
        files = sorted(sequences.glob(f"imagesTr/{name.removesuffix('.nii.gz')}_*"))
        save(root / "imagesTr" / name, np.stack([np.asarray(nib.load(file).dataobj) for file in files], axis=3))
        (root / "labelsTr").mkdir(exist_ok=True)
        shutil.copy(sequences / "labelsTr" / name, root / "labelsTr" / name)
    listed = {
        "modality": facts["channel_names"],
        "labels": {str(value): name for name, value in facts["labels"].items()},
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
        "test": [],
    }
    (root / "dataset.json").write_text(json.dumps(listed))
    return root


@pytest.mark.parametrize("sequences", [3], indirect=True)
def test_sequences_in_one_file_make_the_same_model_and_the_same_masks(masam, sequences, run, stacked, tmp_path):
    checked = masam("check", stacked)
    assert (checked.code, "channel 0 of case0.nii.gz" in checked.out) == (0, False), checked.err
    assert masam("plan", stacked, "--out", tmp_path / "plan.yaml").code == 0
    assert "- FLAIR" in (tmp_path / "plan.yaml").read_text()
    runs = {sequences: run, stacked: tmp_path / "stacked"}
    trained = masam("train", stacked, "--out", runs[stacked], "--epochs", 1, *TINY)
    assert trained.code == 0, trained.err
    one, other = (load_file(run / "model.safetensors") for run in runs.values())
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
    words = ("--model", runs[stacked], "--device", "cpu", "--json")
    for root in (sequences, stacked):
        predicted = masam("predict", root / "imagesTr", "--out", tmp_path / f"masks{root.name}", *words)
        assert sorted(predicted.json["done"]) == ["case0", "case1", "case2"], predicted.err
    for number in range(3):
        first, second = (nib.load(tmp_path / f"masks{root.name}/case{number}.nii.gz") for root in runs)
        np.testing.assert_array_equal(first.get_fdata(), second.get_fdata())
        np.testing.assert_array_equal(second.affine, nib.load(stacked / "imagesTr/case0.nii.gz").affine)
    alone = masam("predict", stacked / "imagesTr/case1.nii.gz", "--out", tmp_path / "one.nii.gz", *words)
    assert alone.code == 0, alone.err
    among = nib.load(tmp_path / f"masks{stacked.name}/case1.nii.gz")
    np.testing.assert_array_equal(nib.load(tmp_path / "one.nii.gz").get_fdata(), among.get_fdata())
    directly = Predictor(runs[stacked], device="cpu").predict(stacked / "imagesTr/case1.nii.gz")
    np.testing.assert_array_equal(directly.array, among.get_fdata())
    words = ("--images", stacked / "imagesTr", "--predictions", tmp_path / f"masks{stacked.name}", "--json")
    page = masam(
        "report", *words, "--references", stacked / "labelsTr", "--labels", stacked, "--out", tmp_path / "a.html"
    )
    assert (page.code, page.json["cases"]) == (0, 3), page.err


@pytest.mark.parametrize("sequences", [4], indirect=True)
def test_a_file_of_other_channels_than_dataset_json_says(masam, stacked, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(stacked, root)
    file = root / "imagesTr/case1.nii.gz"
    image = np.asarray(nib.load(file).dataobj)
    count = image.shape[3]
    save(file, np.concatenate([image, image[..., :1]], axis=3))
    result = masam("check", root)
    assert result.code == 3
    wanted = f"{file}: expected {count} channels along the fourth axis, got {count + 1} (axis lengths "
    assert wanted in result.out
    assert wanted in masam("train", root, "--out", tmp_path / "run", *TINY).error
    image = image.copy()
    image[..., 1] = 7
    save(file, image)
    assert "warning: case1: all values of channel 1 of case1.nii.gz are 7" in masam("check", root).out


def test_a_time_series_is_refused_by_a_model_of_one_channel(masam, trained, tmp_path):
    scan = save(tmp_path / "fmri.nii.gz", np.stack([arrays()[0]] * 4, axis=3))
    result = masam("predict", scan, "--model", trained, "--out", tmp_path / "masks")
    assert result.code == 3
    assert "fmri.nii.gz: expected 3 axes, got 4 with lengths [24, 20, 6, 4]; split it into one file per" in result.error
