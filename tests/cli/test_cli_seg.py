"""masam evaluate and report on DICOM SEG: scores equal those of the same labels in NIfTI."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from dicom_maker import CANARIES, make, save
from masam_cli import arrays

from masam.io.dicom.seg_write import write_seg
from masam.io.dicom.series import read_stack
from masam.io.nifti.file import write_volume
from masam.labels import LabelScheme
from masam.volume import Volume

SCHEME = LabelScheme.from_mapping({"background": 0, "organ": 1, "vessel": 2})
KINDS = ("nifti", "seg")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two series with references and predictions in both formats; some slices are empty."""
    root = tmp_path_factory.mktemp("seg")
    (root / "dataset.json").write_text(json.dumps({"labels": SCHEME.to_mapping()}))
    for number in range(2):
        image, truth = arrays(seed=number)
        truth[..., [0, -1]] = 0
        guess = np.roll(truth, 2, axis=0)
        guess[..., 2 + number] = 0
        guess[guess == 2] = 0 if number else 2
        stack = read_stack(save(root / f"images/case{number}", make(image, spacing=(1.5, 1.5, 4.0), zero=0)))
        for name, labels in (("truth", truth), ("guess", guess)):
            volume = Volume(labels, stack.geometry)
            write_volume(root / f"nifti/{name}/case{number}.nii.gz", volume)
            write_seg(root / f"seg/{name}/case{number}.dcm", volume, stack, SCHEME)
    return root


@pytest.mark.parametrize("reference", KINDS)
@pytest.mark.parametrize("prediction", KINDS)
def test_scores_do_not_depend_on_the_format(masam, labelled, prediction, reference):
    words = ("--labels", labelled / "dataset.json", "--json")
    expected = masam("evaluate", labelled / "nifti/guess", labelled / "nifti/truth", *words).json
    found = masam("evaluate", labelled / prediction / "guess", labelled / reference / "truth", *words)
    assert found.code == 0, found.err
    for one, other in zip(found.json["scores"], expected["scores"], strict=True):
        assert one.keys() == other.keys()
        for key, value in other.items():
            assert one[key] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), key


def test_a_single_pair_of_files(masam, labelled):
    words = ("--labels", labelled / "dataset.json", "--json")
    result = masam("evaluate", labelled / "seg/guess/case0.dcm", labelled / "seg/truth/case0.dcm", *words)
    assert [one["case"] for one in result.json["scores"]] == ["case0", "case0"], result.err


@pytest.mark.parametrize("kind", KINDS)
def test_a_report(masam, labelled, tmp_path, kind):
    words = ("--images", labelled / "images", "--predictions", labelled / kind / "guess")
    words += ("--references", labelled / "seg/truth", "--labels", labelled / "dataset.json")
    result = masam("report", *words, "--out", tmp_path / "page.html", "--json")
    assert (result.code, result.json["cases"]) == (0, 2), result.err
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") >= 2
    assert not any(word in page for word in CANARIES)


def test_what_is_refused(masam, labelled, tmp_path):
    words = ("--labels", labelled / "dataset.json")
    other = read_stack(save(tmp_path / "scan", make(arrays()[0], spacing=(1.5, 1.6, 4.0), zero=0)))
    write_seg(tmp_path / "guess/case0.dcm", Volume(arrays()[1], other.geometry), other, SCHEME)
    for kind, where in (
        ("nifti", "is not on the grid of the image (24 x 20 x 6 voxels"),
        ("seg", "expected a PixelSpacing of [1.5, 1.5] mm as in"),
    ):
        reference = next((labelled / kind / "truth").glob("case0*"))
        result = masam("evaluate", tmp_path / "guess/case0.dcm", reference, *words)
        assert (result.code, where in result.error) == (3, True), result.err
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "organ": 1}}))
    result = masam("evaluate", labelled / "seg/guess", labelled / "seg/truth", "--labels", tmp_path / "dataset.json")
    assert result.code == 3
    assert "segment 'vessel' is not a class of the data set, which defines ['organ']; rename the" in result.error
    result = masam("evaluate", labelled / "images/case0/000.dcm", labelled / "seg/truth/case0.dcm", *words)
    assert "expected a DICOM SEG (BINARY, FRACTIONAL, LABELMAP), got another object" in result.error
