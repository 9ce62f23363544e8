"""``masam convert``: each data set from a download to a folder that the other commands take, and a kill in between."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
from downloads import hashes, labels_of, write_amos, write_btcv, write_endovis, write_msd, write_nifti, write_prostate
from masam_cli import finish, no_half_files, start, wait_for

from masam.cases.folder import read_dataset
from masam.convert.endovis18 import COLOURS
from masam.convert.products import RECORD
from masam.io.nifti.file import read_labels


def test_btcv(masam, tmp_path):
    download = write_btcv(tmp_path / "RawData")
    before = hashes(download)
    result = masam("convert", "btcv", download, tmp_path / "set", "--link", "--json", "--quiet")
    assert (result.code, result.err) == (0, "")
    (record,) = result.json
    assert record == {
        "dataset": str(tmp_path / "set"),
        **{"training": 24, "validation": 0, "test": 6, "made": 60, "kept": 0, "missing": [], "surplus": []},
    }
    again = masam("convert", "btcv", download, tmp_path / "set", "--link")
    counts = "24 training cases, 6 held out; 0 files made, 60 kept from an earlier run"
    assert again.out == f"{tmp_path / 'set'}: {counts}\n"
    assert hashes(download) == before
    planned = masam("plan", tmp_path / "set", "--out", tmp_path / "plan.yaml", "--preset", "paper-ct", "--quiet")
    assert planned.out == f"wrote {tmp_path / 'plan.yaml'}: CT, axial slices of 512 pixels\n"


def test_amos22(masam, tmp_path):
    download = write_amos(tmp_path / "amos22")
    words = ("--modality", "mr", "--labels", "btcv", "--held-out", "test")
    result = masam("convert", "amos22", download, tmp_path / "set", *words)
    counts = "3 training cases (1 of them for validation), 1 held out; 7 files made, 0 kept from an earlier run"
    assert result.out == f"{tmp_path / 'set'}: {counts}\n"
    assert json.loads((tmp_path / "set/dataset.json").read_text())["masam_convert"] == {
        "version": "0.1.0",
        **{"data_set": "amos22", "modality": "mr", "labels": "btcv", "held_out": "test"},
    }


@pytest.mark.parametrize(("form", "folders"), [("six", 6), ("one", 1)])
def test_prostate(masam, tmp_path, form, folders):
    download = write_prostate(tmp_path / "SAML")
    result = masam("convert", "prostate", download, tmp_path / "p", "--as", form, "--link", "--json", "--quiet")
    assert len(result.json) == folders
    assert sum(one["training"] for one in result.json) == 91
    assert all(read_dataset(path.parent).test for path in (tmp_path / "p").rglob("dataset.json"))


def test_endovis18(masam, tmp_path):
    colours = np.array([[colours[-1] for colours in COLOURS.values()]], np.uint8)
    download = write_endovis(tmp_path / "EndoVis18", colours, frames=1)
    result = masam("convert", "endovis18", download, tmp_path / "set", "--link")
    counts = "15 training cases, 4 held out; 38 files made, 0 kept from an earlier run"
    assert result.out == f"{tmp_path / 'set'}: {counts}\n"


def test_msd_in_part(masam, tmp_path):
    download = write_msd(tmp_path / "Task09_Spleen", "spleen", [2, 3], [1], ["background", "spleen"])
    (download / "labelsTr/spleen_003.nii.gz").unlink()
    refused = masam("convert", "msd", download, tmp_path / "set")
    assert (refused.code, refused.out) == (3, "")
    assert "1 missing (labelsTr/spleen_003.nii.gz)" in refused.error
    assert not (tmp_path / "set").exists()
    result = masam("convert", "msd", download, tmp_path / "set", "--partial")
    assert result.out == (
        f"{tmp_path / 'set'}: 1 training case, 1 held out; 3 files made, 0 kept from an earlier run\n"
        "  missing: labelsTr/spleen_003.nii.gz\n"
    )
    assert masam("convert", "msd", download, tmp_path / "s", "--labels", "tumour", "--partial").code == 2


def test_relabel(masam, tmp_path):
    write_nifti(tmp_path / "masks/a.nii.gz", labels_of([0, 9, 10]))
    words = ("convert", "relabel", tmp_path / "masks", tmp_path / "new", "--map", "10=0", "--map", "9=1")
    assert masam(*words).out == f"{tmp_path / 'new'}: 1 relabelled\n"
    assert masam(*words, "--json", "--quiet").json == {"written": [str(tmp_path / "new/a.nii.gz")]}
    assert set(np.unique(read_labels(tmp_path / "new/a.nii.gz").array)) == {0, 1}
    for change in ("10", "a=0", "10=", "-1=0"):
        refused = masam("convert", "relabel", tmp_path / "masks", tmp_path / "new", "--map", change)
        assert (refused.code, refused.out) == (2, "")
        assert refused.error.startswith(f"error[CONFIG]: --map: expected OLD=NEW with two label values, got '{change}'")


def test_refusals(masam, tmp_path):
    assert "no-such: expected the folder of the download" in masam("convert", "btcv", "no-such", tmp_path / "x").error
    nothing = masam("convert", "prostate", tmp_path, tmp_path / "x")
    assert nothing.code == 3
    assert "expected folders RUNMC, BMC, I2CVB, UCL, BIDMC and HK with CaseNN.nii.gz" in nothing.error
    usage = masam("convert", "brain", tmp_path, tmp_path / "x")
    assert (usage.code, usage.error[:12]) == (2, "error[USAGE]")


def test_a_killed_conversion_resumes(masam, tmp_path):
    """The first cases take a while, so that the kill falls between the first and the last file."""
    download = write_btcv(tmp_path / "RawData")
    noise = np.random.default_rng(0).integers(0, 14, (180, 180, 40)).astype(np.uint8)
    for number in range(1, 9):
        write_nifti(download / f"Training/label/label{number:04d}.nii.gz", noise)
    before = hashes(download)
    root = tmp_path / "set"
    process = start("convert", "btcv", download, root)
    wait_for(lambda: (root / RECORD).exists() and (root / RECORD).read_text().count("\n") > 2, process)
    process.send_signal(signal.SIGKILL)
    assert finish(process).code == -signal.SIGKILL
    assert not (root / "dataset.json").exists()
    finished = [path for path in root.glob("*T[rs]/*") if not path.name.startswith(".")]
    assert 2 < len(finished) < 60
    for path in finished:
        if path.parent.name.startswith("labels"):
            np.testing.assert_array_equal(read_labels(path).array, np.minimum(noise, 12))
    (record,) = masam("convert", "btcv", download, root, "--json", "--quiet").json
    # A file may have been finished and not yet noted.
    assert len(finished) - 1 <= record["kept"] <= len(finished)
    assert record["made"] + record["kept"] == 60
    assert no_half_files(root)
    assert len(read_dataset(root).training) == 24
    assert hashes(download) == before
