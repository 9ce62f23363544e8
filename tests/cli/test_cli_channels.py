"""Scans of several channels: MR sequences, from the data set folder to masks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from masam_cli import TINY, arrays, save


@pytest.fixture(scope="module", params=[2, 3, 4])
def sequences(request, tmp_path_factory) -> Path:
    """A data set of so many sequences, the first of which shows nothing: what is to be seen is in the last."""
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


def test_from_the_folder_to_masks(masam, sequences, tmp_path):
    channels = len(json.loads((sequences / "dataset.json").read_text())["channel_names"])
    run, masks = tmp_path / "run", tmp_path / "masks"
    trained = masam("train", sequences, "--out", run, "--epochs", 2, *TINY)
    assert trained.code == 0, trained.err
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
    # Any channel's bytes count for what a rerun keeps.
    again = tmp_path / "again"
    shutil.copytree(sequences / "imagesTr", again)
    rerun = masam("predict", again, "--model", run, "--out", masks, "--device", "cpu", "--json").json
    assert len(rerun["kept"]) == 3
    shutil.copy(again / "case1_0000.nii.gz", again / f"case0_{channels - 1:04d}.nii.gz")
    rerun = masam("predict", again, "--model", run, "--out", masks, "--device", "cpu", "--json").json
    assert sorted(rerun["kept"]) == ["case1", "case2"]


def test_a_missing_sequence_is_named(masam, sequences, tmp_path):
    names = list(json.loads((sequences / "dataset.json").read_text())["channel_names"].values())
    run, scans = tmp_path / "run", tmp_path / "scans"
    assert masam("train", sequences, "--out", run, "--epochs", 1, *TINY).code == 0
    shutil.copytree(sequences / "imagesTr", scans)
    for case in ("case0", "case1"):
        (scans / f"{case}_{len(names) - 1:04d}.nii.gz").unlink()
    result = masam("predict", scans, "--model", run, "--out", tmp_path / "masks", "--device", "cpu")
    assert result.code == 4
    wanted = f"expected {len(names)} channels ({', '.join(names)}), got {len(names) - 1}"
    assert f"case0: {wanted}; give one file a channel, CASE_0000.nii.gz, CASE_0001.nii.gz and so on" in result.error
    assert [path.name for path in (tmp_path / "masks").glob("*.nii.gz")] == ["case2.nii.gz"]
    (sequences / "imagesTr" / "case0_0000.nii.gz").rename(tmp_path / "away.nii.gz")
    try:
        refused = masam("train", sequences, "--out", tmp_path / "other", *TINY)
        assert (refused.code, "case case0 has no channel 0000" in refused.error) == (3, True)
    finally:
        (tmp_path / "away.nii.gz").rename(sequences / "imagesTr" / "case0_0000.nii.gz")
