"""The options that the errors of ambiguous NIfTI files advise: given to predict and check, and recorded."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from masam_cli import SPACING, arrays, save

BAD = {
    "prefer_sform": ("--prefer-sform",),
    "assume_orientation": ("--assume-orientation", "RAS"),
    "nan_fill": ("--nan-fill", "0"),
}
VALUES = {"prefer_sform": True, "assume_orientation": "RAS", "nan_fill": 0.0}


def write(path, option):
    array = arrays()[0].astype(np.float32)
    if option == "nan_fill":
        array[3, 4, 2] = np.nan
    save(path, array, sform=int(option != "assume_orientation"), qform=int(option != "assume_orientation"))
    if option == "prefer_sform":
        image = nib.load(path)
        image.set_qform(np.diag([-1, 1, 1, 1]) @ SPACING, 1)
        nib.save(nib.Nifti1Image(array, None, image.header), path)


@pytest.mark.parametrize("option", BAD)
def test_an_ambiguous_scan_is_predicted_with_the_advised_option(masam, trained, tmp_path, option):
    write(tmp_path / "scan.nii.gz", option)
    words = ("predict", tmp_path / "scan.nii.gz", "--model", trained, "--out", tmp_path / "out")
    refused = masam(*words)
    assert refused.code == 3
    assert BAD[option][0] in refused.error
    result = masam(*words, *BAD[option], "--json")
    assert result.code == 0, result.err
    assert result.json["done"]["scan"]["reading"] == {option: VALUES[option]}
    assert masam(*words, *BAD[option], "--json").json["kept"] == ["scan"]
    if option == "nan_fill":
        assert masam(*words, "--nan-fill", "5", "--json").json["kept"] == []


@pytest.mark.parametrize("option", BAD)
def test_check_takes_the_options(masam, broken, option):
    write(broken / "imagesTs/Ts1_0000.nii.gz", option)
    (broken / "labelsTs/Ts1.nii.gz").unlink()
    assert masam("check", broken).code == 3
    assert masam("check", broken, *BAD[option]).code == 0
