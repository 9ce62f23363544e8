"""Several DICOM series: their list, and the one that masam predict uses."""

from __future__ import annotations

import nibabel as nib
import pytest
from dicom_maker import CANARIES, make, save
from masam_cli import arrays


def series(folder, depth, number, description, modality="MR", study="1.2.3"):
    datasets = make(arrays((24, 20, depth))[0], spacing=(1.5, 1.5, 4.0), number=number)
    for dataset in datasets:
        dataset.StudyInstanceUID, dataset.Modality, dataset.SeriesDescription = study, modality, description
    return save(folder, datasets)


@pytest.fixture
def study(tmp_path):
    """One folder per series, the usual layout on disk."""
    series(tmp_path / "study/a", 1, 1, "localizer")
    series(tmp_path / "study/b", 6, 2, "T1 ax CANARYNAME^A")
    series(tmp_path / "study/c", 4, 3, "T2 ax", "CT")
    return tmp_path / "study"


def predicted(masam, trained, *words):
    out = words[words.index("--out") + 1]
    result = masam("predict", *words, "--model", trained, "--json")
    assert result.code == 0, result.err
    return {case: nib.load(out / f"{case}.nii.gz").shape[2] for case in result.json["done"]}, result


@pytest.mark.parametrize(
    ("words", "cases"),
    [
        (("--series", "1"), {"a": 1}),
        (("--series", "3"), {"c": 4}),
        (("--series-description", "t1 AX"), {"b": 6}),
        (("--modality", "ct"), {"c": 4}),
        ((), {"a": 1, "b": 6, "c": 4}),
    ],
)
def test_a_study_with_one_folder_per_series(masam, trained, study, tmp_path, words, cases):
    found, result = predicted(masam, trained, study, "--out", tmp_path / "out", *words)
    assert found == cases
    for name in "abc":
        assert (f"warning: {study / name}: passed over\n" in result.err) == (name not in cases)


def test_a_series_that_no_folder_has(masam, trained, study, tmp_path):
    result = masam("predict", study, "--out", tmp_path / "out", "--model", trained, "--series", "9")
    assert result.code == 2
    for folder in "abc":
        assert f"folder {folder}, number " in result.error
    assert "b, number 2, MR, 6 images, 24 x 20 x 6 voxels of 1.5 x 1.5 x 4 mm)" in result.error


@pytest.fixture
def patients(tmp_path):
    for number, name in enumerate(("p1", "p2")):
        series(tmp_path / f"all/{name}/s1", 1, 1, "localizer", study=f"1.{number}")
        series(tmp_path / f"all/{name}/s2", 6, 2, "T1", study=f"1.{number}")
        series(tmp_path / f"all/{name}/s3", 4, 3, "T2", study=f"1.{number}")
    return tmp_path / "all"


@pytest.mark.parametrize(
    ("words", "depth", "why"),
    [
        ((), 6, "the largest of 3"),
        (("--series-description", "T2"), 4, "as --series-description T2 requires"),
        (("--modality", "MR"), 6, "the largest of 3 as --modality MR requires"),
        (("--series", "3"), 4, "as --series 3 requires"),
    ],
)
def test_a_folder_of_patients_with_several_series_each(masam, trained, patients, tmp_path, words, depth, why):
    found, result = predicted(masam, trained, patients, "--out", tmp_path / "out", *words)
    assert found == {"p1": depth, "p2": depth}
    for name in ("p1", "p2"):
        lines = [line for line in result.err.splitlines() if line.startswith(f"warning: {patients / name}: ")]
        assert [line.split(": ")[2].split()[0] for line in lines] == ["used", "not", "not"]
        assert lines[0].endswith(f", {why}")
        assert [f"warning: {note}" for note in result.json["done"][name]["notes"]] == lines
    assert not any(word in result.err for word in CANARIES)


def test_a_patient_without_the_series_or_with_two_of_one_size(masam, trained, patients, tmp_path):
    series(patients / "p2/s4", 6, 4, "T1 again", study="1.1")
    series(patients / "p3/s1", 6, 1, "FLAIR", study="1.3")
    words = ("predict", patients, "--model", trained, "--out", tmp_path / "out", "--series-description", "T1")
    result = masam(*words)
    assert result.code == 4
    assert "2 of 3 scans failed" in result.error
    assert f"{patients / 'p2'}: no series is the largest of 2: " in result.error
    assert f"{patients / 'p3'}: --series-description T1: expected one of the series " in result.error
    assert "masam info shows their descriptions" in result.error


def test_info_lists_the_series_of_a_tree(masam, study):
    (study / "c/002.dcm").unlink()
    result = masam("info", study, "--json")
    assert result.code == 0, result.err
    a, b, c = result.json["series"]
    assert {key: b[key] for key in b if key not in ("key", "refused")} == {
        "folder": "b", "number": "2", "description": "T1 ax ^", "modality": "MR", "images": 6,
        "matrix": [24, 20, 6], "spacing_mm": pytest.approx([1.5, 1.5, 4.0]),
    }  # fmt: skip
    assert (a["images"], c["matrix"]) == (1, None)
    assert "the distances between slices are irregular" in c["refused"]
    text = masam("info", study).out
    for word in (b["key"], "localizer", "T2 ax", "24 x 20 x 6", "1.5 x 1.5 x 4", "not a volume"):
        assert word in text
    assert not any(word in text for word in CANARIES)
