"""DICOM SEG: written files are read by highdicom with the same values and geometry; invalid ones are refused."""

import warnings
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_maker import AXIAL, make, make_enhanced, save, voxels, write

from masam.errors import InputError, ResourceError
from masam.io.dicom.pixels import read_dicom
from masam.io.dicom.seg_read import read_seg
from masam.io.dicom.seg_write import property_codes, write_seg
from masam.io.dicom.series import read_stack
from masam.labels import LabelScheme
from masam.volume import Geometry, Volume

SCHEME = LabelScheme.from_mapping({"background": 0, "liver": 2, "left kidney": 5, "Tumour": 300})
OTHER = LabelScheme.from_mapping({"background": 0, "spleen": 1})
OBLIQUE = tuple(np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0][:, :2].T.ravel())


def drawn(shape=(12, 10, 8), values=(2, 5, 300), seed=0):
    """Labels in which every slice differs and one of them is empty."""
    labels = np.random.default_rng(seed).choice([0, *values], shape).astype(np.uint16)
    labels[..., 3] = 0
    return labels


def series(folder, order=range(8), **options):
    datasets = make(**options)
    return read_stack(save(folder, [datasets[n] for n in order]))


def written(tmp_path, stack, labels, scheme=SCHEME):
    path = tmp_path / "out" / "a.dcm"
    empty = write_seg(path, Volume(labels, stack.geometry), stack, scheme)
    return path, empty


@pytest.mark.parametrize("orientation", [AXIAL, (0, 1, 0, 0, 0, -1), (-1, 0, 0, 0, 1, 0), OBLIQUE])
@pytest.mark.parametrize("order", [range(8), range(7, -1, -1), [3, 0, 7, 1, 2, 6, 5, 4]])
def test_labels_come_back_voxel_by_voxel_and_highdicom_agrees(tmp_path, orientation, order):
    stack = series(tmp_path / "scan", order, orientation=orientation)
    path, empty = written(tmp_path, stack, drawn())
    assert empty == ()
    found = read_seg(path, stack, SCHEME)
    np.testing.assert_array_equal(found.array, drawn())
    np.testing.assert_array_equal(found.geometry.affine, read_dicom(tmp_path / "scan").geometry.affine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = highdicom.seg.segread(path).get_volume(combine_segments=True)
    # The axes of highdicom's volume are slices, rows, columns, so voxels are compared by their positions.
    index = np.argwhere(theirs.array)
    place = (theirs.affine @ np.c_[index, np.ones(len(index))].T)[:3] * [[-1], [-1], [1]]
    ours = np.linalg.inv(stack.geometry.affine) @ np.r_[place, np.ones((1, len(index)))]
    np.testing.assert_allclose(ours, np.rint(ours), atol=1e-3)
    i, j, k = np.rint(ours[:3]).astype(int)
    assert len(index) == np.count_nonzero(drawn())
    np.testing.assert_array_equal(np.array([0, 2, 5, 300])[theirs.array[tuple(index.T)]], drawn()[i, j, k])


def test_content_of_the_file(tmp_path):
    stack = series(tmp_path / "scan")
    path, empty = written(tmp_path, stack, drawn(values=(2, 300)))
    assert empty == ("left kidney",)
    dataset = pydicom.dcmread(path)
    first, second = dataset.SegmentSequence
    assert (first.SegmentNumber, first.SegmentLabel, first.SegmentAlgorithmType) == (1, "liver", "AUTOMATIC")
    assert (second.SegmentNumber, second.SegmentLabel) == (2, "Tumour")
    assert first.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Anatomical Structure"
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert second.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Neoplasm"
    assert first.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "masam"
    colour = highdicom.color.CIELabColor.from_dicom_value(first.RecommendedDisplayCIELabValue).to_rgb()
    np.testing.assert_allclose(colour, SCHEME.foreground[0].colour, atol=2)
    source = stack.frames[0].file.dataset
    assert dataset.StudyInstanceUID == source.StudyInstanceUID
    assert dataset.FrameOfReferenceUID == source.FrameOfReferenceUID
    referenced = dataset.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == stack.series.uid
    assert {one.ReferencedSOPInstanceUID for one in referenced.ReferencedInstanceSequence} == {
        frame.file.dataset.SOPInstanceUID for frame in stack.frames
    }
    assert dataset.PatientID == "CANARYID"  # here, and nowhere else
    assert [p.name for p in path.parent.iterdir()] == ["a.dcm"]
    # Each frame refers to its source image.
    by_uid = {frame.file.dataset.SOPInstanceUID: frame.position_lps_mm for frame in stack.frames}
    for group in dataset.PerFrameFunctionalGroupsSequence:
        uid = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        np.testing.assert_allclose(by_uid[uid], group.PlanePositionSequence[0].ImagePositionPatient)


def test_labels_without_foreground(tmp_path):
    stack = series(tmp_path / "scan")
    path, empty = written(tmp_path, stack, np.zeros((12, 10, 8), np.uint8))
    assert empty == ("liver", "left kidney", "Tumour")
    assert not read_seg(path, stack, SCHEME).array.any()


@pytest.mark.parametrize("order", [None, [3, 0, 7, 1, 2, 6, 5, 4]])
def test_enhanced_multi_frame(tmp_path, order):
    stack = read_stack(write(tmp_path / "a", make_enhanced(order=order)))
    path, _ = written(tmp_path, stack, drawn())
    np.testing.assert_array_equal(read_seg(path, stack, SCHEME).array, drawn())


def test_a_single_slice(tmp_path):
    stack = read_stack(save(tmp_path / "scan", make(voxels((12, 10, 1)))))
    path, _ = written(tmp_path, stack, drawn()[..., :1])
    np.testing.assert_array_equal(read_seg(path, stack, SCHEME).array, drawn()[..., :1])


@pytest.mark.parametrize("shape", [(7, 5, 6), (9, 3, 4)])
def test_frames_that_do_not_end_at_a_byte(tmp_path, shape):
    stack = read_stack(save(tmp_path / "scan", make(voxels(shape))))
    path, _ = written(tmp_path, stack, drawn(shape))
    np.testing.assert_array_equal(read_seg(path, stack, SCHEME).array, drawn(shape))


def test_values_without_a_scheme_are_numbers_of_segments(tmp_path):
    stack = series(tmp_path / "scan")
    path, _ = written(tmp_path, stack, drawn())
    np.testing.assert_array_equal(read_seg(path, stack).array, np.searchsorted([0, 2, 5, 300], drawn()))


def test_sources_without_optional_elements(tmp_path):
    datasets = make()
    for dataset in datasets:
        del dataset.PatientName, dataset.PatientSex, dataset.AccessionNumber, dataset.StudyDate
    stack = read_stack(save(tmp_path / "scan", datasets))
    path, _ = written(tmp_path, stack, drawn())
    np.testing.assert_array_equal(read_seg(path, stack, SCHEME).array, drawn())


# ---- refused ----


def refused(message, path, reference, scheme=SCHEME):
    with pytest.raises(InputError, match=message):
        read_seg(path, reference, scheme)


def test_another_series(tmp_path):
    path, _ = written(tmp_path, series(tmp_path / "scan"), drawn())
    other = series(tmp_path / "other")
    refused("the SEG was drawn on another series than", path, other)
    # The same grid, without a series to compare, is accepted.
    np.testing.assert_array_equal(read_seg(path, read_dicom(tmp_path / "other"), SCHEME).array, drawn())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"origin": (-30.0, -40.0, 51.0)}, "is not on the grid of the image"),
        ({"origin": (-30.2, -40.0, 50.0)}, "is not on the grid of the image"),
        ({"spacing": (0.8, 0.7, 2.1)}, "is not on the grid of the image"),
        ({"spacing": (0.81, 0.7, 2.0)}, "is not on the grid of the image"),
        ({"orientation": (-1, 0, 0, 0, 1, 0)}, "is not on the grid of the image"),
        ({"array": voxels((12, 10, 7))}, "is not on the grid of the image"),
        ({"array": voxels((10, 12, 8))}, "expected 10 x 12 voxels as in the image, got 12 x 10"),
    ],
)
def test_another_grid(tmp_path, options, message):
    path, _ = written(tmp_path, series(tmp_path / "scan"), drawn())
    refused(message, path, read_dicom(save(tmp_path / "other", make(**options))))


def test_a_class_that_is_unknown(tmp_path):
    path, _ = written(tmp_path, series(tmp_path / "scan"), drawn())
    refused("segment 'Tumour' is not a class of the data set", path, read_dicom(tmp_path / "scan"), OTHER)


def changed(path, change):
    dataset = pydicom.dcmread(path)
    change(dataset)
    return write(path, dataset)


def overlap(dataset):
    dataset.PixelData = b"\xff" * len(dataset.PixelData)


def unknown_segment(dataset):
    dataset.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9


def too_many_frames(dataset):
    dataset.NumberOfFrames = 900_000


def fractional(dataset):
    dataset.SegmentationType = "FRACTIONAL"


def no_place(dataset):
    del dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence


def twice(dataset):
    dataset.SegmentSequence[1].SegmentNumber = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (overlap, r"segments overlap in slice \d: label values \d+ and \d+"),
        (unknown_segment, "frame 1 refers to segment 9, which is not described"),
        (too_many_frames, "the header declares 900000 frames"),
        (fractional, "expected SegmentationFractionalType PROBABILITY or OCCUPANCY"),
        (no_place, "ImagePositionPatient is missing, so the geometry is unknown"),
        (twice, "expected segments with unique numbers"),
    ],
)
def test_damaged_segs(tmp_path, change, message):
    stack = series(tmp_path / "scan")
    path, _ = written(tmp_path, stack, drawn())
    refused(message, changed(path, change), stack)


def test_an_image_is_not_a_seg(tmp_path):
    stack = series(tmp_path / "scan")
    refused(
        r"expected a DICOM SEG \(BINARY, FRACTIONAL, LABELMAP\), got another object", tmp_path / "scan/000.dcm", stack
    )


def test_the_seg_that_pydicom_ships(tmp_path):
    path = Path(pydicom.__file__).parent / "data/test_files/liver_1frame.dcm"
    shape = (512, 512, 4)
    refused("expected functional groups for each of 1 frames, got 3", path, Volume(np.zeros(shape)), None)
    dataset = pydicom.dcmread(path)
    del dataset.PerFrameFunctionalGroupsSequence[1:]
    path = write(tmp_path / "a.dcm", dataset)
    refused("is not on the grid of the image", path, Volume(np.zeros(shape)), None)
    x, y, z = dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient
    row, column = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    affine = np.diag([-float(column), -float(row), 1.0, 1.0])
    affine[:3, 3] = -float(x), -float(y), float(z) - 2
    found = read_seg(path, Volume(np.zeros(shape), Geometry(affine)))
    np.testing.assert_array_equal(found.array[..., 2].T, dataset.pixel_array)
    assert not found.array[..., [0, 1, 3]].any()


def test_labels_of_another_grid_are_not_written(tmp_path):
    stack = series(tmp_path / "scan")
    with pytest.raises(InputError, match="the labels are not on the grid of the series"):
        write_seg(tmp_path / "a.dcm", Volume(drawn()), stack, SCHEME)
    assert not (tmp_path / "a.dcm").exists()


def test_a_file_that_differs_when_read_back_is_refused(tmp_path, monkeypatch):
    stack = series(tmp_path / "scan")
    monkeypatch.setattr("masam.io.dicom.seg_write._segment_numbers", lambda *_: np.ones((8, 10, 12), np.uint16))
    with pytest.raises(ResourceError, match=r"a\.dcm: the file did not read back .*\(voxels differ\)"):
        written(tmp_path, stack, drawn(values=(2,)))
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("name", "category", "kind"),
    [
        ("liver", "Anatomical Structure", "Liver"),
        ("Right_Adrenal_Gland", "Anatomical Structure", "Adrenal gland"),
        ("Kidneys", "Anatomical Structure", "Kidney"),
        ("oesophagus", "Anatomical Structure", "Esophagus"),
        ("liver tumour", "Morphologically Abnormal Structure", "Neoplasm"),
        ("class 7", "Tissue", "Tissue"),
    ],
)
def test_codes(name, category, kind):
    from pydicom.sr.codedict import codes

    found = property_codes(name)
    assert (found[0][1], found[1][1]) == (category, kind)
    assert all(value.isdecimal() for value, _ in found)
    assert codes.SCT.Liver.value == property_codes("liver")[1][0]


def test_all_codes_are_those_of_pydicom():
    from pydicom.sr.codedict import codes

    from masam.io.dicom import seg_write as dicom_codes

    for value, meaning in [*dicom_codes._ORGANS.values(), *dicom_codes._LESIONS.values()]:
        keyword = "".join(word[0].upper() + word[1:] for word in meaning.split())
        assert (getattr(codes.SCT, keyword).value, getattr(codes.SCT, keyword).meaning) == (value, meaning)
