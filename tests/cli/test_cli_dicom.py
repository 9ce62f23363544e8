"""masam predict on DICOM: the same labels as on NIfTI, as NIfTI and as SEG, and no word of the patient's."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from dicom_maker import CANARIES, make, save
from masam_cli import TINY, arrays

from masam.io.dicom.file import DicomFile, read_header
from masam.io.dicom.seg_read import read_seg
from masam.io.dicom.seg_write import write_seg
from masam.io.dicom.series import read_stack
from masam.io.images import read_image
from masam.io.nifti.file import write_volume
from masam.labels import LabelScheme
from masam.predict.predictor import Predictor
from masam.volume import Volume

SCHEME = LabelScheme.from_mapping({"background": 0, "organ": 1, "vessel": 2})


def scan(folder: Path, seed: int = 0, **options: object) -> Path:
    return save(folder, make(arrays(seed=seed)[0], spacing=(1.5, 1.5, 4.0), zero=0, **options))


def values(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture(autouse=True)
def all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """After two steps of training all is background; against its own mean, each class is somewhere most probable."""

    def most_probable(probabilities: torch.Tensor) -> np.ndarray:
        relative = probabilities / probabilities.mean(dim=(1, 2), keepdim=True)
        return relative.argmax(dim=0).cpu().numpy().astype(np.uint8)

    monkeypatch.setattr("masam.predict.predictor.most_probable", most_probable)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dicom")
    scan(root / "one")
    write_volume(root / "same.nii.gz", read_image(root / "one"))
    return root


def test_the_labels_are_those_of_the_same_scan_as_nifti(masam, trained, folders, tmp_path):
    result = masam("predict", folders / "one", "--model", trained, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert masam("predict", folders / "same.nii.gz", "--model", trained, "--out", tmp_path / "b.nii.gz").code == 0
    found = tmp_path / "out/one.nii.gz"
    np.testing.assert_array_equal(values(found), values(tmp_path / "b.nii.gz"))
    np.testing.assert_allclose(nib.load(found).affine, read_stack(folders / "one").geometry.affine, atol=1e-4)
    assert set(np.unique(values(found))) == {0, 1, 2}
    np.testing.assert_array_equal(Predictor(trained, device="cpu").predict(folders / "one").array, values(found))


@pytest.mark.parametrize("reverse", [False, True])
def test_the_seg_holds_the_labels_of_the_nifti(masam, trained, tmp_path, reverse):
    folder = scan(tmp_path / "scan")
    if reverse:
        names = sorted(folder.iterdir())
        for n, path in enumerate(names):
            path.rename(folder / f"z{len(names) - n}")
    words = ("predict", folder, "--model", trained)
    assert masam(*words, "--out", tmp_path / "a.nii.gz").code == 0
    assert masam(*words, "--out", tmp_path / "a.dcm").code == 0
    result = masam(*words, "--out", tmp_path / "segs", "--format", "dicom-seg", "--json")
    assert result.code == 0, result.err
    expected = values(tmp_path / "a.nii.gz")
    stack = read_stack(folder)
    for path in (tmp_path / "a.dcm", tmp_path / "segs/scan.dcm"):
        np.testing.assert_array_equal(read_seg(path, stack, SCHEME).array, expected)
    assert set(np.unique(expected)) == {0, 1, 2}
    assert result.json["done"]["scan"]["empty_classes"] == []
    assert pydicom.dcmread(tmp_path / "a.dcm").Modality == "SEG"


@pytest.mark.parametrize("file_format", ["nifti", "dicom-seg"])
def test_a_rerun_keeps_what_is_done(masam, trained, folders, tmp_path, file_format):
    shutil.copytree(folders / "one", tmp_path / "scans/one")
    words = ("predict", tmp_path / "scans", "--model", trained, "--out", tmp_path / "out", "--format", file_format)
    assert masam(*words, "--json").json["kept"] == []
    assert masam(*words, "--json").json["kept"] == ["one"]
    # Other names for the same files are the same scan; another byte is not.
    (tmp_path / "scans/one/000.dcm").rename(tmp_path / "scans/one/zzz")
    assert masam(*words, "--json").json["kept"] == ["one"]
    scan(tmp_path / "scans/one", seed=1)
    (tmp_path / "scans/one/zzz").unlink()
    assert masam(*words, "--json").json["kept"] == []
    for path in (tmp_path / "out").glob("one.*"):
        path.write_bytes(gzip.compress(b""))
    assert masam(*words, "--json").json["kept"] == []


def test_a_bad_scan_beside_a_good_one(masam, trained, folders, tmp_path):
    shutil.copytree(folders / "one", tmp_path / "scans/good")
    shutil.copytree(folders / "one", tmp_path / "scans/gap")
    (tmp_path / "scans/gap/002.dcm").unlink()
    result = masam("predict", tmp_path / "scans", "--model", trained, "--out", tmp_path / "out")
    assert result.code == 4
    assert "1 of 2 scans failed" in result.error
    assert "1 slice is missing, of 6: there is a gap of 8 mm" in result.error
    assert (tmp_path / "out/good.nii.gz").exists()


def test_a_scan_without_a_decoder_does_not_stop_the_others(masam, trained, folders, tmp_path):
    shutil.copytree(folders / "one", tmp_path / "scans/good")
    datasets = make(arrays()[0])
    for dataset in datasets:
        dataset.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.106"
    save(tmp_path / "scans/first", datasets)
    result = masam("predict", tmp_path / "scans", "--model", trained, "--out", tmp_path / "out")
    assert result.code == 4
    assert "no decoder is installed for transfer syntax 1.2.840.10008.1.2.4.106" in result.error
    assert (tmp_path / "out/good.nii.gz").exists()


def test_several_series_are_cases_or_one_is_chosen(masam, trained, tmp_path):
    scan(tmp_path / "scans", number=4)
    save(tmp_path / "scans", make(arrays(seed=1)[0], number=9, zero=0), "b{}".format)
    words = ("predict", tmp_path / "scans", "--model", trained)
    done = masam(*words, "--out", tmp_path / "all", "--json").json["done"]
    assert [case.split("_")[0] for case in sorted(done)] == ["series4", "series9"]
    assert list(masam(*words, "--out", tmp_path / "nine", "--series", "9", "--json").json["done"]) == ["scans"]
    assert masam(*words, "--out", tmp_path / "nine.nii.gz").code == 2
    assert masam(*words, "--out", tmp_path / "nine.nii.gz", "--series", "9").code == 0
    np.testing.assert_array_equal(values(tmp_path / "nine.nii.gz"), values(tmp_path / f"all/{sorted(done)[1]}.nii.gz"))
    result = masam(*words, "--out", tmp_path / "nine", "--series", "5")
    assert result.code == 2
    assert "expected one of the series" in result.error


@pytest.mark.parametrize("inside", ["one", "."])
def test_each_file_is_opened_once_for_its_header(masam, trained, folders, tmp_path, monkeypatch, inside):
    """Finding, hashing, reading and writing a SEG share one reading of the headers."""
    shutil.copytree(folders / "one", tmp_path / "scans/one")
    opened = []

    def counting(path: Path) -> DicomFile:
        opened.append(path.name)
        return read_header(path)

    monkeypatch.setattr("masam.io.dicom.series.read_header", counting)
    words = ("--model", trained, "--out", tmp_path / "out", "--format", "dicom-seg")
    result = masam("predict", tmp_path / "scans" / inside, *words)
    assert result.code == 0, result.err
    assert sorted(opened) == [f"{n:03d}.dcm" for n in range(6)]


def test_a_note_about_a_single_slice(masam, trained, tmp_path):
    save(tmp_path / "scan", make(arrays(shape=(24, 20, 1))[0]))
    result = masam("predict", tmp_path / "scan", "--model", trained, "--out", tmp_path / "a.nii.gz")
    assert result.code == 0
    assert "one slice: its thickness, 2 mm" in result.err


def test_refusals_before_prediction(masam, trained, folders, tmp_path):
    words = ("--model", trained, "--format", "dicom-seg")
    result = masam("predict", folders / "same.nii.gz", *words, "--out", tmp_path / "out")
    assert result.code == 2
    assert "a DICOM SEG refers to DICOM images, same.nii.gz is not DICOM" in result.error
    result = masam("predict", folders / "one", *words, "--out", tmp_path / "a.nii.gz")
    assert (result.code, "expected a name that ends in .dcm" in result.error) == (2, True)
    for out in (folders, folders / "one", folders / "one/masks", folders / "one/000.dcm"):
        result = masam("predict", folders / "one", *words, "--out", out)
        assert result.code in (2, 5), out
    assert len(list((folders / "one").iterdir())) == 6


def test_nothing_but_the_seg_names_the_patient(masam, trained, tmp_path, caplog):
    """R41: output, errors, records and label files, of good scans and of bad ones."""
    scan(tmp_path / "scans/good")
    for name, change in {
        "gap": lambda folder: (folder / "002.dcm").unlink(),
        "two": lambda folder: save(folder, make(arrays()[0]), "b{}.dcm".format),
        "cut": lambda folder: (folder / "001.dcm").write_bytes((folder / "001.dcm").read_bytes()[:900]),
    }.items():
        change(scan(tmp_path / "scans" / name))
    texts = []
    for file_format in ("nifti", "dicom-seg"):
        out = tmp_path / file_format
        result = masam("predict", tmp_path / "scans", "--model", trained, "--out", out, "--format", file_format)
        assert result.code == 4
        texts += [result.out, result.err, (out / "predictions.json").read_text()]
        assert set(json.loads(texts[-1])["failed"]) == {"gap", "two", "cut"}
    texts += [gzip.decompress((tmp_path / "nifti/good.nii.gz").read_bytes()).decode("latin1"), caplog.text]
    for word in CANARIES:
        assert not any(word in text for text in texts), word
    assert b"CANARYNAME" in (tmp_path / "dicom-seg/good.dcm").read_bytes()


def test_a_data_set_of_series_and_segs_is_planned_and_trained_on(masam, tmp_path):
    root = tmp_path / "set"
    training = []
    for seed in range(2):
        stack = read_stack(scan(root / f"imagesTr/case{seed}", seed))
        write_seg(root / f"labelsTr/case{seed}.dcm", Volume(arrays(seed=seed)[1], stack.geometry), stack, SCHEME)
        training.append({"image": f"./imagesTr/case{seed}", "label": f"./labelsTr/case{seed}.dcm"})
    content = {"modality": {"0": "CT"}, "labels": SCHEME.to_mapping(), "training": training}
    (root / "dataset.json").write_text(json.dumps(content))
    result = masam("train", root, "--out", tmp_path / "run", "--epochs", "1", *TINY)
    assert result.code == 0, result.err
    for file in tmp_path.rglob("*"):
        if file.is_file() and root not in file.parents:
            assert not any(word.encode() in file.read_bytes() for word in CANARIES), file


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in nnU-Net's layout: three series to train on, with SEG or NIfTI as labels, and two held out."""
    root = tmp_path_factory.mktemp("raw") / "Dataset007"
    for split, count in (("Tr", 3), ("Ts", 2)):
        for number in range(count):
            seed = number + 10 * (split == "Ts")
            folder = scan(root / f"images{split}/case{seed}{'_0000' if number else ''}", seed)
            stack = read_stack(folder)
            truth = Volume(arrays(seed=seed)[1], stack.geometry)
            if number % 2:
                write_volume(root / f"labels{split}/case{seed}.nii.gz", truth)
            else:
                write_seg(root / f"labels{split}/case{seed}.dcm", truth, stack, SCHEME)
    content = {"channel_names": {"0": "CT"}, "labels": SCHEME.to_mapping(), "numTraining": 3, "file_ending": ".dcm"}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def test_nnunets_layout_of_series_from_check_to_masks(masam, raw, tmp_path):
    checked = masam("check", raw, "--json")
    assert (checked.code, checked.json["cases"], checked.json["findings"]) == (0, 5, []), checked.err
    assert masam("plan", raw, "--out", tmp_path / "plan.yaml").code == 0
    run = tmp_path / "run"
    words = ("--out", run, "--plan", tmp_path / "plan.yaml", "--epochs", "1", *TINY)
    trained = masam("train", raw, *words)
    assert trained.code == 0, trained.err
    predicted = masam("predict", raw / "imagesTs", "--model", run, "--out", tmp_path / "masks", "--json")
    assert sorted(predicted.json["done"]) == ["case10", "case11"], predicted.err
    series = read_stack(raw / "imagesTs/case11_0000")
    mask = nib.load(tmp_path / "masks/case11.nii.gz")
    assert mask.shape == series.shape
    np.testing.assert_allclose(mask.affine, series.geometry.affine, atol=1e-4)


def test_what_check_says_of_a_layout_of_series(masam, raw, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(raw, root)
    (root / "labelsTr/case2.dcm").unlink()
    (root / "imagesTr/case0/003.dcm").unlink()
    shutil.copy(root / "labelsTr/case1.nii.gz", root / "labelsTr/case9.nii.gz")
    result = masam("check", root)
    assert result.code == 3
    assert f"{root / 'labelsTr'}: no label for image case2; add the label, or remove the image" in result.out
    assert f"no image for this label; add {root / 'imagesTr/case9'}_0000\n" in result.out
    assert "imagesTr/case0: 1 slice is missing, of 6" in result.out


def test_a_report_on_series(masam, folders, tmp_path):
    shutil.copytree(folders / "one", tmp_path / "scans/one")
    volume = read_image(folders / "one")
    for name in ("masks", "truth"):
        write_volume(tmp_path / name / "one.nii.gz", volume.with_array(arrays()[1]))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": SCHEME.to_mapping()}))
    words = ("--images", tmp_path / "scans", "--predictions", tmp_path / "masks", "--references", tmp_path / "truth")
    result = masam("report", *words, "--labels", tmp_path / "dataset.json", "--out", tmp_path / "page.html")
    assert result.code == 0, result.err
    page = (tmp_path / "page.html").read_text()
    assert "one" in page
    assert not any(word in page for word in CANARIES)
