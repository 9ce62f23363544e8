"""A series is read in full or not at all: files that are not slices, promises of the header, and odd slices."""

import os

import numpy as np
import pytest
from dicom_maker import CT, make, make_enhanced, save, voxels, write

from masam.errors import InputError
from masam.io.dicom.pixels import read_dicom
from masam.io.dicom.series import find_series, read_stack

RT_DOSE, SEG = "1.2.840.10008.5.1.4.1.1.481.2", "1.2.840.10008.5.1.4.1.1.66.4"
ENDS = [0, 4, 7]


def damage(path, how):
    content = path.read_bytes()
    if how == "link":
        path.unlink()
        path.symlink_to(path.parent / "gone")
    elif how == "fifo":
        path.unlink()
        os.mkfifo(path)
    else:
        path.write_bytes({"empty": b"", "cut": content[:100], "text": b"x" * 400, "no prefix": bytes(200)}[how])


@pytest.mark.parametrize("how", ["empty", "cut", "text", "no prefix", "link", "fifo"])
@pytest.mark.parametrize("name", ["{:03d}.dcm", "IM{:04d}", "{}", "1.2.840.{}"])
@pytest.mark.parametrize("which", ENDS)
def test_a_file_named_like_the_slices_is_a_slice(tmp_path, how, name, which):
    folder = save(tmp_path, make(voxels((6, 5, 8))), name.format)
    damage(folder / name.format(which), how)
    with pytest.raises(InputError, match=f"{name.format(which)}: .*content is not DICOM"):
        read_dicom(folder)


@pytest.mark.parametrize("how", ["empty", "cut", "text", "link", "fifo"])
def test_other_files_are_named(tmp_path, how):
    folder = save(tmp_path, make(voxels((6, 5, 8))))
    (folder / "slice.bak").write_bytes(b"x" * 300)
    damage(folder / "slice.bak", how)
    (folder / "below").mkdir()
    (folder / "below/README").write_text("text")
    assert read_stack(folder).notes == ("passed over 2 files that are not images: below/README, slice.bak",)


@pytest.mark.parametrize("which", ENDS)
@pytest.mark.parametrize("sop_class", [RT_DOSE, SEG, "1.2.3"])
@pytest.mark.parametrize("where", ["meta", "dataset", "both"])
def test_a_slice_with_a_damaged_sop_class_is_read_or_refused(tmp_path, which, sop_class, where):
    datasets = make(voxels((6, 5, 8)))
    if where != "dataset":
        datasets[which].file_meta.MediaStorageSOPClassUID = sop_class
    if where != "meta":
        datasets[which].SOPClassUID = sop_class
    for n, dataset in enumerate(datasets):
        dataset.save_as(tmp_path / f"{n}.dcm", enforce_file_format=False)
    if where == "both" and sop_class != "1.2.3":
        with pytest.raises(InputError, match=rf"{which}\.dcm: the SOP class is not that of an image"):
            read_dicom(tmp_path)
    else:
        np.testing.assert_array_equal(read_dicom(tmp_path).array, voxels((6, 5, 8)) - 1024.0)


def test_objects_that_are_not_images_are_named(tmp_path):
    folder = save(tmp_path, make(voxels((6, 5, 8))))
    (dose,) = make(voxels((6, 5, 1)))
    dose.SOPClassUID = dose.file_meta.MediaStorageSOPClassUID = RT_DOSE
    write(folder / "dose.dcm", dose)
    assert read_stack(folder).notes == ("passed over 1 file that is not an image: dose.dcm",)


def test_files_are_named_with_the_series_beside_them(tmp_path):
    for n in range(2):
        save(tmp_path / f"s{n}", make(voxels((6, 5, 3)), number=n))
        (tmp_path / f"s{n}/note{n}.txt").write_text("x")
    (tmp_path / "README").write_text("x")
    for n, series in enumerate(find_series(tmp_path)):
        assert series.stack.notes == (f"passed over 2 files that are not images: README, s{n}/note{n}.txt",)


PROMISES = ["ImagesInAcquisition", "NumberOfSeriesRelatedInstances", "NumberOfSlices"]


@pytest.mark.parametrize("keyword", PROMISES)
@pytest.mark.parametrize("missing", ENDS)
def test_a_series_with_fewer_images_than_its_header_promises(tmp_path, keyword, missing):
    datasets = make(voxels((6, 5, 8)))
    for dataset in datasets:
        setattr(dataset, keyword, 8)
    assert read_dicom(save(tmp_path / "full", datasets)).shape == (6, 5, 8)
    del datasets[missing]
    with pytest.raises(InputError, match=rf"declares 8 images \({keyword}\), 7 were found|1 slice is missing"):
        read_dicom(save(tmp_path / "short", datasets))


def test_a_concatenation_with_a_missing_part(tmp_path):
    dataset = make_enhanced()
    dataset.InConcatenationTotalNumber = 2
    with pytest.raises(InputError, match=r"declares 2 files \(InConcatenationTotalNumber\), 1 was found; export"):
        read_dicom(write(tmp_path / "a", dataset))


@pytest.mark.parametrize(
    ("keyword", "values", "note"),
    [
        # A phase or echo that was split off, and values that cannot be right.
        ("ImagesInAcquisition", [16] * 8, "the header declares 16 images (ImagesInAcquisition), 8 were found"),
        ("ImagesInAcquisition", [8] * 7 + [9], "the header declares 9 images (ImagesInAcquisition), 8 were found"),
        ("NumberOfTemporalPositions", [3] * 8, "the header declares 3 time points, the series has one"),
    ],
)
def test_doubtful_promises_are_notes(tmp_path, keyword, values, note):
    datasets = make(voxels((6, 5, 8)))
    for dataset, value in zip(datasets, values, strict=True):
        setattr(dataset, keyword, value)
    assert read_stack(save(tmp_path, datasets)).notes == (note,)


@pytest.mark.parametrize("values", [[7] * 8, [0] * 8, [None] * 8])
def test_promises_that_are_kept_or_empty(tmp_path, values):
    datasets = make(voxels((6, 5, 8)))
    for dataset, value in zip(datasets, values, strict=True):
        dataset.ImagesInAcquisition = value
    assert read_stack(save(tmp_path, datasets)).notes == ()


def test_a_slice_with_another_pixel_representation(tmp_path):
    datasets = make(voxels((6, 5, 8)))
    datasets[2].PixelRepresentation = 0
    folder = save(tmp_path, datasets)
    note = f"1 of 8 slices has unsigned pixels, unlike the others: {folder / '002.dcm'}"
    assert read_stack(folder).notes == (note,)
    assert datasets[0].SOPClassUID == CT
