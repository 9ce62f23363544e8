"""nnU-Net's layout with DICOM: one folder of slices per channel, labels as NIfTI or SEG."""

import json

import numpy as np
import pytest
from dicom_maker import affine_of, make, make_enhanced, save, voxels, write

from masam.cases.folder import find_images, load_case, read_dataset, take_inventory
from masam.errors import InputError
from masam.io.dicom.seg_write import write_seg
from masam.io.dicom.series import read_stack
from masam.io.nifti.file import write_volume
from masam.labels import LabelScheme
from masam.volume import Geometry, Volume

SCHEME = LabelScheme.from_mapping({"background": 0, "liver": 1, "tumour": 4})
SHAPE = (12, 10, 8)


def describe(root, *channels, **changes):
    content = {
        "channel_names": {str(n): name for n, name in enumerate(channels or ("CT",))},
        "labels": SCHEME.to_mapping(),
        "file_ending": ".dcm",
        **changes,
    }
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))


def drawn(seed=0):
    labels = np.random.default_rng(seed).choice([0, 1, 4], SHAPE).astype(np.uint8)
    labels[..., 2] = 0
    return labels


def nifti_label(path, **geometry):
    write_volume(path, Volume(drawn(), Geometry(affine_of(**geometry))))
    return path


def seg_label(path, folder):
    stack = read_stack(folder)
    write_seg(path, Volume(drawn(), stack.geometry), stack, SCHEME)
    return path


def test_one_folder_per_case_with_nifti_or_seg_labels(tmp_path):
    describe(tmp_path, numTraining=3)
    images, labels = tmp_path / "imagesTr", tmp_path / "labelsTr"
    save(images / "a_0000", make(voxels(seed=1)))
    nifti_label(labels / "a.nii.gz")
    seg_label(labels / "b.dcm", save(images / "b/study/series", make(voxels(seed=2))))
    write(images / "c.dcm", make_enhanced(voxels(seed=3)))
    seg_label(labels / "c.dcm", images / "c.dcm")
    save(tmp_path / "imagesTs/d", make(voxels(seed=4)))
    for hidden in (images / ".cache", images / ".DS_Store", images / "notes.txt", labels / "._a.nii.gz"):
        hidden.mkdir() if hidden.name == ".cache" else hidden.write_text("x")
    found = read_dataset(tmp_path)
    assert [(case.id, case.images[0].name, case.label.name) for case in found.training] == [
        ("a", "a_0000", "a.nii.gz"), ("b", "b", "b.dcm"), ("c", "c.dcm", "c.dcm"),
    ]  # fmt: skip
    assert [(case.id, case.label) for case in found.test] == [("d", None)]
    for seed, case in enumerate(found.training, start=1):
        image, label = load_case(case)
        np.testing.assert_array_equal(image.array, voxels(seed=seed) - 1024.0)
        np.testing.assert_array_equal(label.array, drawn())
        assert image.geometry.matches(label.geometry, SHAPE)
    assert take_inventory(tmp_path).faults == ()


def test_one_folder_per_channel_with_a_seg_of_any_channel(tmp_path):
    describe(tmp_path, "T1", "T2")
    for channel in (0, 1):
        save(tmp_path / f"imagesTr/a_000{channel}", make(voxels(seed=channel)))
    for drawn_on in (0, 1):
        label = seg_label(tmp_path / "labelsTr/a.dcm", tmp_path / f"imagesTr/a_000{drawn_on}")
        (case,) = read_dataset(tmp_path).training
        image, labels = load_case(case)
        assert image.channels == 2
        for channel in (0, 1):
            np.testing.assert_array_equal(image.channel(channel), voxels(seed=channel) - 1024.0)
        np.testing.assert_array_equal(labels.array, drawn())
    save(tmp_path / "elsewhere", make())
    label.unlink()
    seg_label(label, tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"a\.dcm: the SEG was drawn on another series than .* or .*; use the SEG"):
        load_case(case)
    label.unlink()
    save(tmp_path / "imagesTr/a_0001", make(spacing=(0.8, 0.7, 2.5)))
    nifti_label(tmp_path / "labelsTr/a.nii.gz")
    with pytest.raises(InputError, match=r"a_0001: the channel's affine .* is not .*, the affine of .*a_0000"):
        load_case(read_dataset(tmp_path).training[0])


@pytest.mark.parametrize(
    ("channels", "folders", "labels", "message"),
    [
        (["CT"], ["a"], [], "labelsTr: no label for image a"),
        (["CT"], ["a"], ["a.nii.gz", "b.dcm"], r"labelsTr/b\.dcm: no image for this label; add .*imagesTr/b_0000$"),
        (["CT"], ["a", "a_0000"], ["a.nii.gz"], "a and a_0000 have the same case id"),
        (["CT"], ["a", "A"], ["a.nii.gz"], "A and a have the same case id|a and A have the same case id"),
        (["CT"], ["a"], ["a.nii.gz", "a.dcm"], r"a\.(dcm|nii\.gz) and a\.(dcm|nii\.gz) have the same case id"),
        (["CT"], ["a_0000", "a_0001"], ["a.nii.gz"], "a_0001: unexpected channel 0001 of case a, dataset.json"),
        (["T1", "T2"], ["a"], ["a.nii.gz"], "imagesTr/a: expected a name such as CASE_0000; rename the file"),
        (["T1", "T2"], ["a_0000"], ["a.nii.gz"], "case a has no channel 0001"),
        (["CT"], ["a", "b.nii.gz/"], ["a.nii.gz", "b.nii.gz"], None),
    ],
)
def test_what_does_not_pair_up(tmp_path, channels, folders, labels, message):
    describe(tmp_path, *channels)
    for name in folders:
        (tmp_path / "imagesTr" / name).mkdir(parents=True)
    (tmp_path / "labelsTr").mkdir()
    for name in labels:
        (tmp_path / "labelsTr" / name).write_bytes(b"x")
    if message is None:
        read_dataset(tmp_path)
        return
    with pytest.raises(InputError, match=message):
        read_dataset(tmp_path)
    assert take_inventory(tmp_path).faults


def test_nifti_images_in_a_dicom_data_set_are_refused(tmp_path):
    describe(tmp_path)
    save(tmp_path / "imagesTr/a", make())
    nifti_label(tmp_path / "labelsTr/a.nii.gz")
    nifti_label(tmp_path / "imagesTr/b.nii.gz")
    nifti_label(tmp_path / "labelsTr/b.nii.gz")
    with pytest.raises(InputError, match=r"imagesTr/b\.nii\.gz: expected the file_ending \.dcm of dataset\.json"):
        read_dataset(tmp_path)
    assert any("b.nii.gz: expected the file_ending .dcm" in fault for fault in take_inventory(tmp_path).faults)


def test_a_label_of_another_grid_and_a_folder_without_slices(tmp_path):
    describe(tmp_path)
    save(tmp_path / "imagesTr/a", make())
    nifti_label(tmp_path / "labelsTr/a.nii.gz", origin=(-30.0, -40.0, 52.0))
    (tmp_path / "imagesTr/b").mkdir()
    nifti_label(tmp_path / "labelsTr/b.nii.gz")
    one, other = read_dataset(tmp_path).training
    with pytest.raises(InputError, match=r"a\.nii\.gz: the label's affine .* is not .*, the affine of the image .*/a;"):
        load_case(one)
    with pytest.raises(InputError, match="imagesTr/b: expected a series of DICOM images, found none"):
        load_case(other)


def test_folders_to_predict_on_are_named_like_files(tmp_path):
    for name in ("a_0000", "a_0001", "b_0007", "c"):
        save(tmp_path / name, make(voxels(seed=ord(name[-1]))))
    cases = find_images(tmp_path)
    assert [(case.id, [path.name for path in case.images]) for case in cases] == [
        ("a", ["a_0000", "a_0001"]), ("b_0007", ["b_0007"]), ("c", ["c"]),
    ]  # fmt: skip
    image, _ = load_case(cases[0])
    np.testing.assert_array_equal(image.channel(1), voxels(seed=ord("1")) - 1024.0)
    assert [case.id for case in find_images(tmp_path / "a_0000")] == ["a"]
