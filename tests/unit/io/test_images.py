"""The format of a path, and the scans of a folder."""

import json

import numpy as np
import pytest
from dicom_maker import affine_of, make, save, voxels

from masam.cases.folder import Case, find_images, load_case, read_dataset
from masam.errors import ConfigError, InputError
from masam.io import gate
from masam.io.dicom.seg_write import write_seg
from masam.io.dicom.series import SeriesRule, find_series, read_stack
from masam.io.images import find_dicom, image_sha256, is_dicom_image, read_image
from masam.io.nifti.file import write_volume
from masam.labels import LabelScheme
from masam.volume import Geometry, Volume

CLASSES = {"background": 0, "liver": 4, "spleen": 9}


def labels(shape=(12, 10, 8)):
    return np.random.default_rng(2).choice([0, 4, 9], shape).astype(np.uint8)


def test_nifti_and_dicom_of_one_scan_are_the_same(tmp_path):
    folder = save(tmp_path / "series", make())
    write_volume(tmp_path / "a.nii.gz", Volume(voxels() - np.int16(1024), Geometry(affine_of())))
    one, other = read_image(folder), read_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(one.array, other.array)
    np.testing.assert_allclose(one.geometry.affine, other.geometry.affine, atol=1e-4)


def test_what_is_dicom(tmp_path):
    folder = save(tmp_path / "series", make(), "IM{}".format)
    (tmp_path / "text").write_text("x")
    assert is_dicom_image(folder)
    assert is_dicom_image(folder / "IM0")
    assert not is_dicom_image(tmp_path / "text")
    assert not is_dicom_image(tmp_path / "missing.nii.gz")
    with pytest.raises(InputError, match=r"text: expected a \.nii or \.nii\.gz file"):
        read_image(tmp_path / "text")


def test_notes_are_reported(tmp_path):
    folder = save(tmp_path / "series", make(voxels((12, 10, 1))))
    said = []
    read_image(folder, on_note=said.append)
    assert said == [f"{folder}: one slice: its thickness, 2 mm, is used as the slice spacing"]


def test_hashes_depend_on_content_only(tmp_path):
    datasets = make()
    one, other = save(tmp_path / "a", datasets), save(tmp_path / "b", datasets[::-1], "x{}".format)
    assert image_sha256(one) == image_sha256(other)
    datasets[0].RescaleIntercept = 1
    assert image_sha256(save(tmp_path / "c", datasets)) != image_sha256(one)
    path = tmp_path / "a.nii"
    path.write_bytes(b"x")
    assert image_sha256(path) == gate.sha256(path)


def test_a_folder_of_one_series_is_a_case(tmp_path):
    folder = save(tmp_path / "scan 7", make(), "IM{}".format)
    assert find_images(folder) == (Case("scan 7", (folder,)),)
    assert find_images(folder / "IM3") == (Case("IM3", (folder / "IM3",)),)
    save(tmp_path / "other", make())
    assert find_images(tmp_path / "other" / "000.dcm")[0].id == "000"


def test_each_series_of_a_folder_is_a_case(tmp_path):
    save(tmp_path, make(number=12))
    save(tmp_path, make(voxels(seed=1), number=2), "b{}.dcm".format)
    keys = {series.number: series.key for series in find_series(tmp_path)}
    cases = find_images(tmp_path)
    assert [case.id for case in cases] == [f"series12_{keys['12']}", f"series2_{keys['2']}"]
    np.testing.assert_array_equal(load_case(cases[1])[0].array, voxels(seed=1) - 1024.0)
    (case,) = find_images(tmp_path, SeriesRule("12"))
    np.testing.assert_array_equal(load_case(case)[0].array, voxels() - 1024.0)
    with pytest.raises(ConfigError, match="got 0 of that name"):
        find_images(tmp_path, SeriesRule("5"))


def test_each_sub_folder_is_a_case(tmp_path):
    for name in ("b", "a"):
        save(tmp_path / name / "below", make())
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "note.txt").write_text("x")
    (tmp_path / ".hidden").mkdir()
    assert find_images(tmp_path) == (Case("a", (tmp_path / "a",)), Case("b", (tmp_path / "b",)))
    assert load_case(find_images(tmp_path)[0])[0].shape == (12, 10, 8)


def test_a_damaged_sub_folder_is_a_case_that_is_refused(tmp_path):
    save(tmp_path / "a", make())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.dcm").write_bytes(bytes(300))
    one, other = find_images(tmp_path)
    load_case(one)
    with pytest.raises(InputError, match=r"1\.dcm: the name ends in \.dcm but the content is not DICOM"):
        load_case(other)


def test_nifti_comes_first(tmp_path):
    save(tmp_path, make())
    write_volume(tmp_path / "a.nii.gz", Volume(voxels()))
    assert find_images(tmp_path) == (Case("a", (tmp_path / "a.nii.gz",)),)


def test_no_dicom(tmp_path):
    assert find_dicom(tmp_path, SeriesRule()) == ()


# ---- data sets ----


def data_set(root):
    """An MSD data set of a DICOM series with a SEG, one with a NIfTI label, and a NIfTI scan with a SEG."""
    scheme = LabelScheme.from_mapping(CLASSES)
    folder = save(root / "imagesTr/a", make())
    stack = read_stack(folder)
    truth = Volume(labels(), stack.geometry)
    write_seg(root / "labelsTr/a.dcm", truth, stack, scheme)
    save(root / "imagesTr/b", make())
    write_volume(root / "labelsTr/b.nii.gz", truth)
    write_volume(root / "imagesTr/c.nii.gz", Volume(voxels(), stack.geometry))
    pairs = [("a", "a.dcm"), ("b", "b.nii.gz"), ("c.nii.gz", "a.dcm")]
    training = [{"image": f"./imagesTr/{image}", "label": f"./labelsTr/{label}"} for image, label in pairs]
    content = {"modality": {"0": "CT"}, "labels": CLASSES, "training": training}
    (root / "dataset.json").write_text(json.dumps(content))
    return read_dataset(root)


def test_segs_are_labels_of_a_data_set(tmp_path):
    found = data_set(tmp_path)
    assert [case.id for case in found.training] == ["a", "b", "c"]
    for case in found.training:
        image, label = load_case(case)
        assert image.shape == label.shape
        np.testing.assert_array_equal(label.array, labels())
        assert label.array.dtype == np.int32


def test_a_seg_of_another_series_is_refused(tmp_path):
    save(tmp_path / "imagesTr/a", make())
    found = data_set(tmp_path)
    save(tmp_path / "imagesTr/a", make())
    with pytest.raises(InputError, match="the SEG was drawn on another series"):
        load_case(found.training[0])


def test_listed_paths_must_be_images_inside_the_data_set(tmp_path):
    data_set(tmp_path)
    content = json.loads((tmp_path / "dataset.json").read_text())
    for name in ("./imagesTr/none", ".", ""):
        content["training"][0]["image"] = name
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"expected (the path of a \.nii or \.nii\.gz file|a path inside)"):
            read_dataset(tmp_path)
