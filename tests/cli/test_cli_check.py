"""``masam check``: all faults of a data set in one call."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from masam_cli import SPACING, arrays, save, write_msd_dataset


def edit(root: Path, **changes: object) -> None:
    content = json.loads((root / "dataset.json").read_text()) | changes
    (root / "dataset.json").write_text(json.dumps(content))


def test_a_good_data_set(masam, dataset, tmp_path):
    result = masam("check", dataset)
    assert (result.code, result.out, result.err) == (0, "5 cases, no problems found\n", "")
    assert masam("check", dataset, "--json").json == {"cases": 5, "errors": 0, "findings": []}
    assert masam("check", write_msd_dataset(tmp_path / "Task09_Spleen")).code == 0


def test_all_faults_come_at_once(masam, broken):
    image, labels = arrays(seed=5)
    nan = image.astype(np.float32)
    nan[3, 4, 2] = np.nan
    save(broken / "imagesTr/nan_0000.nii.gz", nan)
    save(broken / "labelsTr/nan.nii.gz", labels)
    save(broken / "imagesTr/far_0000.nii.gz", image + 1)
    save(broken / "labelsTr/far.nii.gz", labels, SPACING + np.array([[0, 0, 0, 2.0]] + [[0, 0, 0, 0]] * 3))
    save(broken / "imagesTr/seven_0000.nii.gz", image + 2)
    save(broken / "labelsTr/seven.nii.gz", labels * 7)
    save(broken / "imagesTr/empty_0000.nii.gz", image + 3)
    save(broken / "labelsTr/empty.nii.gz", labels * 0)
    save(broken / "imagesTr/twin_0000.nii.gz", arrays(seed=0)[0])
    save(broken / "labelsTr/twin.nii.gz", arrays(seed=0)[1])
    save(broken / "imagesTr/wide_0000.nii.gz", image + 4, SPACING @ np.diag([1, 1, 10.0, 1]))
    save(broken / "labelsTr/wide.nii.gz", labels, SPACING @ np.diag([1, 1, 10.0, 1]))
    save(broken / "imagesTr/flat_0000.nii.gz", np.full_like(image, 9))
    save(broken / "labelsTr/flat.nii.gz", labels)
    save(broken / "imagesTr/cut_0000.nii.gz", image + 5)
    save(broken / "labelsTr/cut.nii.gz", labels)
    whole = (broken / "imagesTr/cut_0000.nii.gz").read_bytes()
    (broken / "imagesTr/cut_0000.nii.gz").write_bytes(whole[:-20])
    save(broken / "imagesTr/alone_0000.nii.gz", image + 6)
    save(broken / "labelsTr/orphan.nii.gz", labels)
    save(broken / "imagesTr/noname.nii.gz", image)
    save(broken / "imagesTr/more_0000.nii.gz", image + 7)
    save(broken / "imagesTr/more_0001.nii.gz", image)
    save(broken / "labelsTr/more.nii.gz", labels)
    edit(broken, numTraining=3)
    result = masam("check", broken, "--json", "--quiet")
    assert result.code == 3
    errors = {(f["case"], f["what"]) for f in result.json["findings"] if f["severity"] == "error"}
    warnings = {(f["case"], f["what"]) for f in result.json["findings"] if f["severity"] == "warning"}

    def reported(findings, case, *words):
        return any(who == case and all(word in what for word in words) for who, what in findings)

    assert reported(errors, None, "no label for image alone")
    assert reported(errors, None, "orphan.nii.gz: no image for this label")
    assert reported(errors, None, "noname.nii.gz: expected a name such as CASE_0000.nii.gz")
    assert reported(errors, None, "more_0001.nii.gz: unexpected channel 0001 of case more, dataset.json defines 1")
    assert reported(errors, None, "numTraining is 3, found 12 training cases")
    assert reported(errors, "nan", "nan_0000.nii.gz: 1 of 2880 voxels are not finite")
    assert reported(errors, "far", "the label's affine")
    assert reported(errors, "cut", "the gzip data is cut off")
    assert reported(errors, "seven", "label value 7 (432 voxels), 14 (216 voxels) is not in dataset.json")
    assert len(errors) == 9
    assert reported(warnings, "empty", "the label contains no foreground voxels")
    assert reported(warnings, "twin", "has the same image as Tr0")
    assert reported(warnings, "wide", "the spacing along axis 2 is 40 mm, the median is 4 mm")
    assert reported(warnings, "flat", "all values of flat_0000.nii.gz are 9")
    assert result.error.startswith("error[INPUT]: 9 errors in 14 cases, listed above")
    lines = masam("check", broken, "--quiet").out.splitlines()
    assert len(lines) == len(errors) + len(warnings)
    assert lines[0].startswith("error: ")
    assert lines[-1].startswith("warning: wide: ")


def test_a_class_that_no_case_has(masam, broken):
    edit(broken, labels={"background": 0, "organ": 1, "vessel": 2, "tumour": 3})
    result = masam("check", broken)
    assert result.code == 0
    assert result.out == "warning: no case contains voxels of tumour\n5 cases, no errors, 1 warning\n"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": {"background": 0, "a": 0}}, "labels: value 0 is assigned to"),
        ({"file_ending": ".png"}, "channel_names: file_ending .png requires the channels"),
        ({"channel_names": ["CT"]}, "expected channel names such as"),
        ({"dataset": {}}, "file lists under the key 'dataset' are not supported"),
    ],
)
def test_faults_of_the_dataset_json(masam, broken, changes, words):
    edit(broken, **changes)
    result = masam("check", broken)
    assert result.code == 3
    assert words in result.out


def test_other_folders_are_refused(masam, tmp_path):
    assert masam("check", tmp_path).code == 3
    assert "expected a data set folder with a dataset.json" in masam("check", tmp_path / "nothing").error
    (tmp_path / "dataset.json").write_text("[")
    assert "not valid JSON" in masam("check", tmp_path).error


def test_the_same_findings_on_any_number_of_cores(masam, broken):
    save(broken / "labelsTr/Tr1.nii.gz", arrays(seed=1)[1] * 9)
    one, four = (masam("check", broken, "--json", "--workers", n).json for n in (1, 4))
    assert one == four
