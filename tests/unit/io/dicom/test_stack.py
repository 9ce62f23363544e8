"""Which slices form a volume: every row of the table that SimpleITK's reader fails (reliability, 2.3), with twins."""

import re
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_maker import AXIAL, affine_of, make, make_enhanced, save, voxels, write

from masam.errors import ConfigError, InputError
from masam.io.dicom.pixels import read_dicom
from masam.io.dicom.series import choose_series, find_series, read_stack


def move(dataset, z, x=-30.0):
    dataset.ImagePositionPatient = [x, -40.0, z]


def refused(folder, message, **options):
    with pytest.raises(InputError, match=message) as caught:
        read_dicom(folder, **options)
    return str(caught.value)


@pytest.mark.parametrize("missing", [1, 3, 6])
def test_a_missing_slice(tmp_path, missing):
    datasets = make()
    del datasets[missing]
    line = refused(save(tmp_path, datasets), "1 slice is missing, of 8: there is a gap of 4 mm between")
    assert f"{missing - 1:03d}.dcm and " in line
    assert f"{missing:03d}.dcm, elsewhere 2 mm" in line


def test_several_missing_slices(tmp_path):
    datasets = make(voxels((6, 5, 12)))
    del datasets[9], datasets[4], datasets[3]
    refused(save(tmp_path, datasets), "3 slices are missing, of 12: there is a gap of 6 mm")


def test_two_slices_at_one_position(tmp_path):
    datasets = make()
    move(datasets[4], 50 + 2 * 3)
    line = refused(save(tmp_path, datasets), "have the same position; remove copies")
    assert "003.dcm and " in line
    assert "004.dcm" in line


@pytest.mark.parametrize(("shift", "good"), [(0.019, True), (0.05, False), (0.5, False)])
def test_uneven_positions(tmp_path, shift, good):
    datasets = make()
    move(datasets[4], 50 + 2 * 4 + shift)
    folder = save(tmp_path, datasets)
    if good:
        assert read_dicom(folder).geometry.spacing_mm[2] == pytest.approx(2)
    else:
        refused(folder, "the distances between slices are irregular, .* resample them")


def test_small_errors_that_add_up(tmp_path):
    """Each distance is within 1 % of the median; in the middle, positions are a third of a slice off."""
    datasets = make(voxels((4, 4, 80)))
    for k, dataset in enumerate(datasets):
        move(dataset, 50 + 2 * k + 0.018 * min(k, 79 - k))
    refused(save(tmp_path, datasets), "the distances between slices are irregular, 1.982 to 2.018 mm")


def test_thin_slices_may_be_off_by_the_rounding_of_their_positions(tmp_path):
    datasets = make(spacing=(0.8, 0.7, 0.1))
    for k, dataset in enumerate(datasets):
        move(dataset, round(50 + k * 0.1 + (-1) ** k * 0.002, 3))
    assert read_dicom(save(tmp_path, datasets)).geometry.spacing_mm[2] == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize(("degrees", "good"), [(14, False), (0.5, False), (0.05, True), (0.02, True)])
def test_gantry_tilt(tmp_path, degrees, good):
    datasets = make()
    for k, dataset in enumerate(datasets):
        move(dataset, 50 + 2 * k, x=-30 + 2 * k * np.tan(np.radians(degrees)))
    folder = save(tmp_path, datasets)
    if not good:
        refused(folder, rf"sheared by {degrees} degrees \(gantry tilt\); resample")
        return
    found = read_dicom(folder).geometry.affine
    # All slices have their exact positions.
    np.testing.assert_allclose((found @ [0, 0, 7, 1])[:3] * (-1, -1, 1), datasets[7].ImagePositionPatient, atol=0.01)


def test_slices_that_are_not_on_a_line(tmp_path):
    datasets = make()
    move(datasets[3], 56, x=-25)
    refused(save(tmp_path, datasets), "the positions of the slices are not on a straight line")


@pytest.mark.parametrize("keep", [0.999, 0.9, 0.5, 0.1])
def test_a_truncated_slice(tmp_path, keep):
    folder = save(tmp_path, make())
    path = folder / "005.dcm"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    line = refused(folder, ".dcm")
    assert "005.dcm" in line
    assert re.search("cut off|damaged|expected a DICOM|no Series|content does not", line)


def test_any_cut_of_a_slice_is_refused(tmp_path):
    """At no length is the file skipped, which would lose the slice."""
    folder = save(tmp_path, make(voxels((6, 5, 3))))
    path = folder / "001.dcm"
    content = path.read_bytes()
    for length in range(0, len(content), 13):
        path.write_bytes(content[:length])
        assert "001.dcm" in refused(folder, ".dcm")


def test_a_cut_in_compressed_pixels(tmp_path):
    datasets = make()
    for dataset in datasets:
        dataset.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    folder = save(tmp_path, datasets)
    content = (folder / "002.dcm").read_bytes()
    for less in (1, 8, 20):
        (folder / "002.dcm").write_bytes(content[:-less])
        refused(folder, r"002\.dcm: the file is cut off: the compressed pixels have no end")


def test_two_series_in_a_folder(tmp_path):
    save(tmp_path, make(voxels(seed=1), number=2, series="1.2.3"))
    save(tmp_path, make(voxels((12, 10, 5)), number=7, series="1.2.4"), "b{}.dcm".format)
    first, second = find_series(tmp_path)
    line = refused(tmp_path, "expected one series, found 2: .*; choose one with --series")
    for one, text in (
        (first, "folder ., number 2, CT, 8 images, 12 x 10 x 8 voxels of 0.8 x 0.7 x 2 mm"),
        (second, "folder ., number 7, CT, 5 images, 12 x 10 x 5 voxels of 0.8 x 0.7 x 2 mm"),
    ):
        assert f"{one.key} ({text})" in line
    for wanted in (second.key, "7", "1.2.4"):
        assert read_dicom(tmp_path, wanted).shape == (12, 10, 5)
    np.testing.assert_array_equal(read_dicom(tmp_path, "2").array, voxels(seed=1) - 1024.0)
    with pytest.raises(ConfigError, match=r"--series 9: expected one of the series .*, got 0 of that name"):
        choose_series(tmp_path, "9")


def test_two_series_with_the_same_number(tmp_path):
    save(tmp_path, make())
    save(tmp_path, make(), "b{}.dcm".format)
    with pytest.raises(ConfigError, match="got 2 of that name"):
        choose_series(tmp_path, "3")


@pytest.mark.parametrize(
    "keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SeriesInstanceUID", "Rows"]
)
@pytest.mark.parametrize("empty", [True, False])
def test_a_missing_element(tmp_path, keyword, empty):
    datasets = make()
    setattr(datasets[3], keyword, None) if empty else delattr(datasets[3], keyword)
    refused(save(tmp_path, datasets), rf"003\.dcm: {keyword} is missing")


def test_all_positions_equal(tmp_path):
    datasets = make()
    for dataset in datasets:
        move(dataset, 50)
    refused(save(tmp_path, datasets), "all 8 slices have the same position")


def test_a_localizer_in_the_stack(tmp_path):
    datasets = make()
    datasets[6].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    refused(save(tmp_path, datasets), r"006\.dcm: the orientation differs from that of .*000\.dcm; one of them may")


def test_rounded_orientations_are_equal(tmp_path):
    angle = np.radians(17)
    directions = (np.cos(angle), np.sin(angle), 0, -np.sin(angle), np.cos(angle), 0)
    datasets = make(orientation=directions)
    for dataset in datasets[1:]:
        dataset.ImageOrientationPatient = [round(float(x), 5) for x in directions]
    volume = read_dicom(save(tmp_path, datasets))
    np.testing.assert_allclose(volume.geometry.affine, affine_of(directions), atol=1e-4)


@pytest.mark.parametrize("directions", [(2, 0, 0, 0, 1, 0), (1, 0, 0, 1, 0, 0), (0, 0, 0, 0, 0, 0)])
def test_orientations_that_are_not_orthonormal(tmp_path, directions):
    datasets = make()
    for dataset in datasets:
        dataset.ImageOrientationPatient = list(directions)
    refused(save(tmp_path, datasets), "ImageOrientationPatient is not a pair of orthogonal unit vectors")


@pytest.mark.parametrize(("keyword", "value"), [("SliceThickness", 2.5), ("SpacingBetweenSlices", 3.5)])
def test_a_single_slice(tmp_path, keyword, value):
    (dataset,) = make(voxels((12, 10, 1)))
    del dataset.SliceThickness
    setattr(dataset, keyword, value)
    stack = read_stack(write(tmp_path / "slice", dataset))
    assert stack.geometry.spacing_mm == pytest.approx((0.8, 0.7, value))
    assert stack.notes == (f"one slice: its thickness, {value} mm, is used as the slice spacing",)
    assert read_dicom(tmp_path).shape == (12, 10, 1)


def test_a_single_slice_of_unknown_thickness(tmp_path):
    (dataset,) = make(voxels((12, 10, 1)))
    del dataset.SliceThickness
    refused(write(tmp_path / "slice", dataset), "a single slice without SliceThickness and SpacingBetweenSlices")


def test_two_slices(tmp_path):
    assert read_dicom(save(tmp_path, make(voxels((12, 10, 2))))).geometry.spacing_mm[2] == pytest.approx(2)


def test_multi_frame_without_geometry(tmp_path):
    dataset = make_enhanced()
    del dataset.PerFrameFunctionalGroupsSequence, dataset.SharedFunctionalGroupsSequence
    refused(write(tmp_path / "a", dataset), "the geometry of the 8 frames is missing; convert it to NIfTI")


def test_multi_frame_with_too_few_groups(tmp_path):
    dataset = make_enhanced()
    del dataset.PerFrameFunctionalGroupsSequence[-1]
    refused(write(tmp_path / "a", dataset), "expected functional groups for each of 8 frames, got 7")


def test_multi_frame_with_a_gap(tmp_path):
    dataset = make_enhanced()
    dataset.PerFrameFunctionalGroupsSequence[7].PlanePositionSequence[0].ImagePositionPatient = [-30, -40, 90]
    refused(write(tmp_path / "a", dataset), "missing, of 21: there is a gap of 28 mm between .*a, frame 7 and")


@pytest.mark.parametrize("compressed", [False, True])
def test_wrong_declared_sizes_are_refused_before_memory_is_allocated(tmp_path, compressed):
    """A few kilobytes that declare 4.5 billion voxels, uncompressed and compressed."""
    dataset = make_enhanced()
    if compressed:
        dataset.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 30000, 30000, 5
    refused(write(tmp_path / "a", dataset), r"the header declares 30000 x 30000 x 5 pixels \(9000000000 bytes\), ")


@pytest.mark.parametrize("keyword", ["Rows", "Columns"])
def test_mixed_sizes(tmp_path, keyword):
    datasets, others = make(), make(voxels((20, 30, 8)))
    others[2].SeriesInstanceUID = datasets[0].SeriesInstanceUID
    datasets[2] = others[2]
    line = refused(save(tmp_path, datasets), r"expected 12 x 10 pixels as in .*000\.dcm, got 20 x 30")
    assert "002.dcm" in line


def test_mixed_spacings(tmp_path):
    datasets = make()
    datasets[2].PixelSpacing = [0.9, 0.9]
    refused(save(tmp_path, datasets), r"002\.dcm: expected a PixelSpacing of \[0\.7, 0\.8\] mm as in .*got \[0\.9, 0")


@pytest.mark.parametrize(
    ("keyword", "value", "message"),
    [
        ("PhotometricInterpretation", "RGB", "expected greyscale pixels, got RGB"),
        ("SamplesPerPixel", 3, "expected greyscale pixels"),
        ("BitsAllocated", 12, "expected 8, 16 or 32 bits"),
        ("HighBit", 11, "expected 8, 16 or 32 bits"),
        ("PixelRepresentation", 2, "expected 8, 16 or 32 bits"),
        ("BitsStored", 17, "expected 8, 16 or 32 bits"),
        ("Rows", 0, "invalid image size 12 x 0 x 1"),
        ("Rows", 11, "the header declares 12 x 11 x 1 pixels"),
        ("NumberOfFrames", 0, "invalid image size"),
        ("PixelSpacing", [0, 1], "expected a PixelSpacing above 0"),
        ("PixelSpacing", [1, 1, 1], "expected 2 values in PixelSpacing, got 3"),
        ("RescaleSlope", 0, "expected a RescaleSlope other than 0"),
        ("ImagePositionPatient", ["1e300", 0, 0], "a position or spacing is larger than"),
        ("PixelSpacing", ["1e300", "1e300"], "a position or spacing is larger than"),
        ("SliceThickness", "1e300", "a position or spacing is larger than"),
    ],
)
def test_inconsistent_headers(tmp_path, keyword, value, message):
    datasets = make()
    setattr(datasets[2], keyword, value)
    refused(save(tmp_path, datasets), r"002\.dcm: " + message)


def test_other_objects_in_the_folder_are_skipped(tmp_path):
    folder = save(tmp_path, make())
    report, dose = make()[:2]
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    del report.PixelData
    dose.SOPClassUID = dose.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.2"
    save(folder, [report, dose], "z{}.dcm".format)
    assert read_dicom(folder).shape == (12, 10, 8)


def test_a_dicomdir_is_skipped(tmp_path):
    folder = save(tmp_path, make())
    shutil.copy(Path(pydicom.__file__).parent / "data/test_files/dicomdirtests/DICOMDIR", folder / "DICOMDIR")
    assert read_dicom(folder).shape == (12, 10, 8)


def test_a_dcm_file_without_dicom_content_is_refused(tmp_path):
    folder = save(tmp_path, make())
    (folder / "009.dcm").write_bytes(bytes(500))
    refused(folder, r"009\.dcm: the name ends in \.dcm but the content is not DICOM")


def test_an_empty_folder(tmp_path):
    refused(tmp_path, "expected a series of DICOM images, found none")
    refused(tmp_path / "nothing", "expected a file, got none")


def test_axes_are_columns_rows_slices(tmp_path):
    datasets = make(orientation=AXIAL, spacing=(0.5, 0.25, 3.0))
    assert [float(x) for x in datasets[0].PixelSpacing] == [0.25, 0.5]  # of rows first
    assert read_dicom(save(tmp_path, datasets)).geometry.spacing_mm == pytest.approx((0.5, 0.25, 3.0))
