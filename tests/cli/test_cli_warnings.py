"""Input that is odd but accepted: one warning on stderr, and the same text in predictions.json."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from dicom_maker import make
from dicom_maker import save as save_series
from masam_cli import SPACING, arrays, save


def nan_slope(path):
    save(path, arrays()[0])
    content = bytearray(path.read_bytes())
    content[112:116] = np.float32("nan").tobytes()
    path.write_bytes(content)


ODD = {
    "constant": (lambda path: save(path, np.full((24, 20, 6), 7, np.int16)), "all values of scan.nii are 7"),
    "slope": (nan_slope, "scan.nii: the scaling slope is NaN, so the stored values are used"),
    "tiny": (
        lambda path: save(path, arrays()[0], np.diag([0.0015, 0.0015, 0.004, 1])),
        "scan.nii: the voxel spacing is 0.0015 x 0.0015 x 0.004 mm, below 10 micrometres; check the unit of the header",
    ),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_scan_is_predicted_with_a_warning(masam, trained, tmp_path, kind, recwarn):
    write, note = ODD[kind]
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/scan.nii")
    result = masam("predict", tmp_path / "in", "--model", trained, "--out", tmp_path / "out", "--json")
    assert result.code == 0, result.err
    (line,) = (line for line in result.err.splitlines() if line.startswith("warning: "))
    assert line.endswith(note)
    (recorded,) = json.loads((tmp_path / "out/predictions.json").read_text())["done"]["scan"]["notes"]
    assert f"warning: {recorded}" == line
    assert not recwarn.list


def test_other_files_beside_nifti_are_named(masam, trained, tmp_path):
    save(tmp_path / "in/scan.nii", arrays()[0])
    save_series(tmp_path / "in/series", make(arrays()[0]))
    (tmp_path / "in/b.nrrd").touch()
    result = masam("predict", tmp_path / "in", "--model", trained, "--out", tmp_path / "out", "--json")
    note = f"{tmp_path / 'in'}: passed over 2 that are not NIfTI: b.nrrd, series/"
    assert f"warning: {note}\n" in result.err
    assert result.json["notes"] == [note]
    assert json.loads((tmp_path / "out/predictions.json").read_text())["notes"] == [note]


def test_a_passed_over_file_of_a_series_is_recorded(masam, trained, tmp_path):
    folder = save_series(tmp_path / "scan", make(arrays()[0]))
    (folder / "README").touch()
    result = masam("predict", folder, "--model", trained, "--out", tmp_path / "out", "--json")
    note = f"{folder}: passed over 1 file that is not an image: README"
    assert result.json["done"]["scan"]["notes"] == [note]
    assert f"warning: {note}\n" in result.err


def test_check_plan_and_train_report_odd_cases(masam, broken, tmp_path):
    path = broken / "imagesTr/Tr1_0000.nii.gz"
    nib.save(nib.Nifti1Image(np.full((24, 20, 6), 7, np.int16), SPACING), path)
    note = "all values of Tr1_0000.nii.gz are 7"
    assert f"warning: Tr1: {note}\n" in masam("check", broken).out
    assert f"warning: {note}\n" in masam("plan", broken, "--out", tmp_path / "plan.yaml").err


def test_files_of_one_case_with_different_endings(masam, broken):
    label = broken / "labelsTr/Tr1.nii.gz"
    nib.save(nib.load(label), broken / "labelsTr/Tr1.nii")
    label.unlink()
    pairs = [(f"Tr{n}_0000.nii.gz", f"Tr{n}.nii{'.gz' * (n != 1)}") for n in range(3)]
    content = json.loads((broken / "dataset.json").read_text())
    training = [{"image": f"./imagesTr/{image}", "label": f"./labelsTr/{label}"} for image, label in pairs]
    del content["channel_names"], content["file_ending"]
    (broken / "dataset.json").write_text(json.dumps(content | {"modality": {"0": "CT"}, "training": training}))
    shutil.rmtree(broken / "imagesTs")
    result = masam("check", broken)
    assert "have different endings: Tr1_0000.nii.gz, Tr1.nii\n" in result.out, result.out + result.err


def test_a_failed_prediction_leaves_no_record(masam, trained, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.nii.gz").write_bytes(b"x")
    words = ("predict", tmp_path / "in", "--model", trained, "--out", tmp_path / "out")
    assert masam(*words).code == 3
    assert not (tmp_path / "out").exists()
    save(tmp_path / "in/b.nii.gz", arrays()[0])
    result = masam(*words)
    assert result.code == 4
    assert list(json.loads((tmp_path / "out/predictions.json").read_text())["failed"]) == ["a"]
