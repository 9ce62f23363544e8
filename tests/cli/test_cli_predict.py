"""Prediction: any grid that NIfTI holds, bad scans beside good ones, reruns, and what is never written over."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from masam_cli import SPACING, TINY, arrays, save
from tiny import randomise

from masam.weights import model_file as weights


def rotated(degrees: tuple[float, float, float]) -> np.ndarray:
    """An oblique grid, its axes in the order S, A, R and spaced unevenly."""
    a, b, c = np.radians(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = (x @ y @ z)[:, [2, 1, 0]] * (4.0, 1.5, -1.25)
    affine[:3, 3] = (-31.5, 12.25, 100.0)
    return affine


@pytest.mark.parametrize(
    ("sform", "qform"), [(1, 1), (2, 1), (4, 0), (0, 1)], ids=["both", "aligned", "sform alone", "qform alone"]
)
def test_the_mask_lies_where_the_scan_lies(masam, trained, tmp_path, sform, qform):
    image, _ = arrays()
    scan = save(tmp_path / "scan.nii.gz", image.transpose(2, 1, 0), rotated((10, -20, 30)), sform=sform, qform=qform)
    assert masam("predict", scan, "--model", trained, "--out", tmp_path / "mask.nii.gz").code == 0
    before, after = nib.load(scan), nib.load(tmp_path / "mask.nii.gz")
    assert after.shape == before.shape == (6, 20, 24)
    np.testing.assert_allclose(after.affine, before.affine, rtol=1e-6, atol=1e-4)
    assert after.header.get_xyzt_units()[0] == "mm"
    if sform:
        assert int(after.header["sform_code"]) == sform
    assert int(after.header["qform_code"]) == qform
    one, other = SimpleITK.ReadImage(str(scan)), SimpleITK.ReadImage(str(tmp_path / "mask.nii.gz"))
    for index in ((0, 0, 0), (5, 19, 23)):
        np.testing.assert_allclose(
            one.TransformIndexToPhysicalPoint(index), other.TransformIndexToPhysicalPoint(index), atol=1e-3
        )
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(other).T, np.asarray(after.dataobj))


@pytest.mark.parametrize("depth", [1, 2])
def test_fewer_slices_than_a_window(masam, trained, tmp_path, depth):
    scan = save(tmp_path / "scan.nii.gz", arrays((24, 20, depth))[0])
    assert masam("predict", scan, "--model", trained, "--out", tmp_path / "mask.nii.gz").code == 0
    assert nib.load(tmp_path / "mask.nii.gz").shape == (24, 20, depth)


def test_a_constant_scan_gives_labels(masam, trained, tmp_path):
    scan = save(tmp_path / "scan.nii.gz", np.zeros((24, 20, 3), np.int16))
    assert masam("predict", scan, "--model", trained, "--out", tmp_path / "mask.nii.gz").code == 0
    assert np.unique(np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj)).max() <= 2


def _missing(path: Path) -> None:
    """Nothing there."""


def _text(path: Path) -> None:
    path.write_text("not an image, but long enough to be one\n" * 100)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _truncated(path: Path) -> None:
    path.write_bytes(gzip.compress(nib.Nifti1Image(arrays()[0], SPACING).to_bytes())[:-200])


def _flipped(path: Path) -> None:
    data = bytearray(gzip.compress(nib.Nifti1Image(arrays()[0], SPACING).to_bytes()))
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def _nan(path: Path) -> None:
    image = arrays()[0].astype(np.float32)
    image[3, 4, 2] = np.nan
    save(path, image)


def _four_axes(path: Path) -> None:
    save(path, np.zeros((8, 8, 4, 3), np.int16))


def _sheared(path: Path) -> None:
    affine = SPACING.copy()
    affine[0, 1] = 0.5
    image = nib.Nifti1Image(arrays()[0], affine)
    image.set_qform(None, 0)
    nib.save(image, path)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


BAD_SCANS = {
    _missing: "expected an image or a folder of images, found nothing",
    _text: "the name ends in .gz but the content is not gzip",
    _empty: "the file is empty",
    _truncated: "the gzip data is cut off",
    _flipped: "gzip data is damaged",
    _nan: "1 of 2880 voxels are not finite",
    _four_axes: "expected 3 axes, got 4 with lengths [8, 8, 4, 3]",
    _sheared: "sheared",
    _fifo: "expected a regular file, got a FIFO",
}


@pytest.mark.parametrize("make", BAD_SCANS, ids=lambda make: make.__name__.strip("_"))
def test_a_bad_scan_is_refused_in_one_line_and_leaves_nothing(masam, trained, tmp_path, make):
    scan = tmp_path / "scan.nii.gz"
    make(scan)
    result = masam("predict", scan, "--model", trained, "--out", tmp_path / "mask.nii.gz")
    assert (result.code, result.out) == (3, "")
    assert result.error.startswith(f"error[INPUT]: {scan}: ")
    assert BAD_SCANS[make] in result.error
    assert [path.name for path in tmp_path.iterdir() if path != scan] == []


def test_other_files_are_not_scans(masam, trained, tmp_path):
    (tmp_path / "scan.png").write_bytes(b"\x89PNG")
    out = ("--model", trained, "--out", tmp_path / "masks")
    named = masam("predict", tmp_path / "scan.png", *out)
    assert named.error.endswith("expected a .nii or .nii.gz file, or DICOM; convert it to NIfTI")
    assert "the model is for CT volumes (set), the input is video" in masam("predict", tmp_path, *out).error
    (tmp_path / "scan.png").rename(tmp_path / "scan.txt")
    assert "the folder contains neither .nii or .nii.gz files nor DICOM" in masam("predict", tmp_path, *out).error
    assert not (tmp_path / "masks").exists()


def test_one_bad_scan_of_several(masam, trained, tmp_path):
    scans, out = tmp_path / "scans", tmp_path / "masks"
    for number in range(3):
        save(scans / f"case{number}_0000.nii.gz", arrays(seed=number)[0])
    _truncated(scans / "case1_0000.nii.gz")
    result = masam("predict", scans, "--model", trained, "--out", out, "--json")
    assert result.code == 4
    assert result.error.startswith("error[BATCH]: 1 of 3 scans failed (")
    assert result.error.endswith("the others are written")
    assert result.err.count("case1") == 1, "named once"
    assert set(result.json["done"]) == {"case0", "case2"}
    assert set(result.json["failed"]) == {"case1"}
    assert sorted(path.name for path in out.iterdir()) == ["case0.nii.gz", "case2.nii.gz", "predictions.json"]

    # Mended, the batch is taken up where it was left.
    save(scans / "case1_0000.nii.gz", arrays(seed=1)[0])
    kept_since = (out / "case0.nii.gz").stat().st_mtime_ns
    mended = masam("predict", scans, "--model", trained, "--out", out)
    assert (mended.code, mended.out) == (0, f"3 of 3 cases in {out} (2 kept from an earlier run)\n")
    assert (out / "case0.nii.gz").stat().st_mtime_ns == kept_since
    assert json.loads((out / "predictions.json").read_text())["failed"] == {}


def test_a_scan_without_permission_is_one_bad_scan(masam, dataset, trained, tmp_path, monkeypatch):
    closed, system_open = dataset / "imagesTs/Ts0_0000.nii.gz", os.open

    def refuse(path, *arguments, **options):
        # A mode of 000 would not do: root, who may run the tests, reads every file.
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return system_open(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    result = masam("predict", dataset / "imagesTs", "--model", trained, "--out", tmp_path / "masks")
    assert result.code == 4
    assert f"{closed}: cannot read the file (Permission denied); check permissions and disk" in result.error
    assert (tmp_path / "masks/Ts1.nii.gz").exists()
    alone = masam("predict", closed, "--model", trained, "--out", tmp_path / "mask.nii.gz")
    assert alone.code == 5
    assert alone.error.startswith(f"error[RESOURCE]: {closed}: ")


def test_all_of_several_bad(masam, trained, tmp_path):
    for number in range(7):
        _empty(tmp_path / f"scan{number}.nii.gz")
    result = masam("predict", tmp_path, "--model", trained, "--out", tmp_path / "masks")
    assert result.code == 3
    assert result.error.startswith("error[INPUT]: 7 of 7 scans failed (")
    assert "and 2 more, see predictions.json" in result.error
    assert len(json.loads((tmp_path / "masks/predictions.json").read_text())["failed"]) == 7


def test_a_rerun_redoes_what_has_changed(masam, dataset, trained, tmp_path):
    out = tmp_path / "masks"
    words = ("predict", dataset / "imagesTs", "--model", trained, "--out", out, "--json")
    first = masam(*words).json["done"]
    assert masam(*words).json["kept"] == ["Ts0", "Ts1"]
    good = (out / "Ts1.nii.gz").read_bytes()
    (out / "Ts1.nii.gz").write_bytes(good[:-1])
    damaged = masam(*words).json
    assert damaged["kept"] == ["Ts0"]
    assert (out / "Ts1.nii.gz").read_bytes() == good
    assert damaged["done"] == first
    (out / "Ts0.nii.gz").unlink()
    assert masam(*words).json["kept"] == ["Ts1"]
    assert masam(*words, "--stride", 2).json["kept"] == []
    (out / "predictions.json").write_text("{ cut off")
    assert masam(*words).json["kept"] == []


def test_scans_and_foreign_labels_are_not_overwritten(masam, dataset, trained, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    shutil.copy(data / "imagesTs/Ts0_0000.nii.gz", data / "scan.nii.gz")
    before = {path: path.read_bytes() for path in data.rglob("*.nii.gz")}
    (tmp_path / "link").symlink_to(data / "imagesTs")
    for images, out, why in (
        (data / "imagesTs", data / "imagesTs", "the folder holds the scans"),
        (data / "imagesTs", tmp_path / "link", "the folder holds the scans"),
        (data / "imagesTs", data / "labelsTs", "the folder holds Ts0.nii.gz, which masam predict did not write"),
        (data / "scan.nii.gz", data / "scan.nii.gz", "the labels would replace the scan"),
        (data / "imagesTs", tmp_path / "masks.nii.gz", "so expected a folder for its labels"),
    ):
        result = masam("predict", images, "--model", trained, "--out", out)
        assert result.code == 2
        assert why in result.error
    assert {path: path.read_bytes() for path in data.rglob("*.nii.gz")} == before


@pytest.mark.parametrize("pair", [("scan.nii", "scan.nii.gz"), ("Scan.nii.gz", "scan.nii.gz")])
def test_two_files_of_one_case_are_refused(masam, trained, tmp_path, pair):
    for name in pair:
        save(tmp_path / name, arrays()[0])
    result = masam("predict", tmp_path, "--model", trained, "--out", tmp_path / "masks")
    assert result.code == 3
    assert f"{pair[0]} and {pair[1]} have the same case id" in result.error


NAMES = [
    "with space",
    "-dash",
    "Übung 日本",
    "line\nbreak",
    "\x1b[31mred",
    "[bold]",
    "a.b",
    os.fsdecode(b"\xff"),
    "n" * 240,
]


def test_odd_names_are_predicted(masam, trained, tmp_path):
    scans, out = tmp_path / "scans", tmp_path / "masks"
    for name in NAMES:
        save(scans / f"{name}.nii.gz", arrays((24, 20, 1))[0])
    result = masam("predict", scans, "--model", trained, "--out", out, "--json")
    assert result.code == 0
    assert {path.name for path in out.glob("*.nii.gz")} == {f"{name}.nii.gz" for name in NAMES}
    assert set(result.json["done"]) == set(NAMES)
    assert "\x1b" not in result.err, "a name must not give the terminal orders"
    assert len(result.err.splitlines()) == len(NAMES), "nor make lines of its own"


@pytest.fixture(scope="module")
def promptable(trained, tmp_path_factory):
    """A model file that says nothing of how it was trained, as those of others, and answers prompts at random."""
    model = weights.load(trained)
    model.card = replace(model.card, training={})
    randomise(model.mask_decoder, scale=0.5)
    path = tmp_path_factory.mktemp("promptable") / "model.safetensors"
    weights.save(path, model, embed_base=True)
    return path


def test_boxes_and_clicks_on_the_command_line(masam, promptable, tmp_path):
    scan = save(tmp_path / "scan.nii.gz", arrays()[0])
    words = ("predict", scan, "--model", promptable, "--json", "--out")
    plain = masam(*words, tmp_path / "plain.nii.gz")
    boxed = ("--box", "4,5,2,11,13,3", "--click", "8,8,2", "--not-click", "1,1,3", "--prompt-class", "organ")
    result = masam(*words, tmp_path / "voxel.nii.gz", *boxed)
    assert (result.code, result.err) == (0, "")
    labels = np.asarray(nib.load(tmp_path / "voxel.nii.gz").dataobj)
    assert (labels[:, :, [0, 1, 4, 5]] != 1).all(), "outside the box's slices there is no organ"
    assert result.json["done"]["scan"]["prompts"] == [
        {"box": [4, 5, 2, 11, 13, 3], "unit": "voxel", "class": "organ"},
        {"click": [8, 8, 2], "unit": "voxel", "class": "organ"},
        {"not_click": [1, 1, 3], "unit": "voxel", "class": "organ"},
    ]
    hashes = {json["done"]["scan"]["settings_sha256"] for json in (plain.json, result.json)}
    assert len(hashes) == 2
    # The same places in millimetres: 1.5, 1.5 and 4 a voxel.
    boxed = ("--box", "6,7.5,8,16.5,19.5,12", "--click", "12,12,8", "--not-click", "1.5,1.5,12")
    in_mm = masam(*words, tmp_path / "mm.nii.gz", *boxed, "--unit", "mm", "--prompt-class", "organ")
    assert in_mm.code == 0, in_mm.err
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "mm.nii.gz").dataobj), labels)


def test_a_file_of_prompts_for_a_folder(masam, promptable, tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "scans" / f"{name}.nii.gz", arrays()[0])
    prompts, out = tmp_path / "prompts.json", tmp_path / "masks"
    words = ("predict", tmp_path / "scans", "--model", promptable, "--out", out, "--prompts", prompts, "--json")

    def ask(last):
        entry = {"class_name": "organ", "box": [0, 0, 0, 23, 19, last]}
        prompts.write_text(json.dumps({"cases": {"b": [entry]}}))
        return masam(*words)

    assert ask(1).json["kept"] == []
    first, second = (np.asarray(nib.load(out / f"{name}.nii.gz").dataobj) for name in "ab")
    assert not np.array_equal(first, second)
    assert (second[:, :, 2:] != 1).all()
    assert ask(1).json["kept"] == ["a", "b"]
    assert ask(3).json["kept"] == ["a"], "prompts are settings of their case"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--box", "1,2,3"), 2, "error[CONFIG]: box: expected 6 numbers x0,y0,z0,x1,y1,z1, got 3"),
        (("--box", "1,2,3,x,5,6"), 2, "--box: expected numbers separated by commas, got '1,2,3,x,5,6'"),
        (("--click", "nan,2,3"), 2, "error[CONFIG]: click: expected finite numbers x,y,z, got nan"),
        (("--click", "1,2,3"), 2, "expected a class for each prompt, as the model has 2 classes (organ, vessel)"),
        (("--click", "1,2,3", "--prompt-class", "lung"), 2, "expected one of the classes organ, vessel, got 'lung'"),
        (
            ("--click", "-1,2,3", "--prompt-class", "organ"), 3,
            "error[INPUT]: the click -1,2,3 (voxel) is outside the scan, which extends from 0,0,0 to 23,19,5",
        ),
        (("--unit", "mm"), 2, "--unit: it requires a box or a click; give --box, --click or --not-click"),
        (("--prompt-class", "organ"), 2, "error[CONFIG]: --prompt-class: it requires a box or a click"),
    ],
)  # fmt: skip
def test_prompts_that_are_refused(masam, promptable, tmp_path, words, code, message):
    scan = save(tmp_path / "scan.nii.gz", arrays()[0])
    result = masam("predict", scan, "--model", promptable, "--out", tmp_path / "mask.nii.gz", *words)
    assert result.code == code
    assert message in result.error
    assert not (tmp_path / "mask.nii.gz").exists()


def test_prompts_of_a_folder_that_are_refused(masam, trained, promptable, tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "scans" / f"{name}.nii.gz", arrays()[0])
    prompts = tmp_path / "prompts.json"
    prompts.write_text('{"cases": {"c": [{"click": [1, 2, 3]}]}}')
    words = ("predict", tmp_path / "scans", "--out", tmp_path / "masks", "--model", promptable)
    result = masam(*words, "--click", "1,2,3")
    assert result.error == (
        "error[CONFIG]: prompts: a box or click is for one scan, and there are 2; give --prompts FILE"
    )
    result = masam(*words, "--prompts", prompts)
    assert result.error.startswith("error[CONFIG]: prompts: there are prompts for c, the cases are a, b; name cases")
    prompts.write_text('{"cases": {"a": [{"click": [1, 2, 3], "class_name": "organ"}]}}')
    result = masam(*words[:-1], trained, "--prompts", prompts)
    assert result.code == 6
    assert "prompts of a: the model was trained without prompts" in result.error
    assert not (tmp_path / "masks").exists()


def test_a_model_trained_with_prompts_predicts_with_and_without(masam, dataset, tmp_path):
    run, scan = tmp_path / "run", save(tmp_path / "scan.nii.gz", arrays()[0])
    trained = masam("train", dataset, "--out", run, "--epochs", 1, *TINY, "--set", "prompt_rate=0.5")
    assert trained.code == 0, trained.err
    assert masam("info", run, "--json").json["training"]["prompt_rate"] == 0.5
    words = ("predict", scan, "--model", run, "--out", tmp_path / "mask.nii.gz")
    assert masam(*words).code == 0
    prompted = masam(*words, "--box", "4,5,2,11,13,3", "--prompt-class", "organ")
    assert prompted.code == 0, prompted.err
