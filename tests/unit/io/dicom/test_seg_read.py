"""SEG written by highdicom: fractions, label maps, and the grid of files without their image."""

import warnings

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_maker import affine_of, make, save, voxels, write
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from masam.errors import InputError
from masam.io.dicom.seg_read import read_seg, seg_grid
from masam.io.dicom.seg_write import write_seg
from masam.io.dicom.series import find_series, read_stack
from masam.labels import LabelScheme
from masam.volume import Volume

SCHEME = LabelScheme.from_mapping({"background": 0, "liver": 2, "tumour": 300})
NAMES = ("liver", "tumour")
NATIVE, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5"
SHAPE = (12, 10, 8)


def theirs(path, sources, array, kind, syntax=NATIVE, **options):
    """Write a SEG with highdicom; label numbers [slices, rows, columns], of fractions with an axis of segments."""
    algorithm = highdicom.AlgorithmIdentificationSequence("x", codes.DCM.ArtificialIntelligence, "1")
    segments = [
        highdicom.seg.SegmentDescription(n, name, codes.SCT.Tissue, codes.SCT.Tissue, "AUTOMATIC", algorithm)
        for n, name in enumerate(NAMES, start=1)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = highdicom.seg.Segmentation(
            sources, array, kind, segments, generate_uid(), 9, generate_uid(), 1, "m", "m", "1", "0",
            transfer_syntax_uid=syntax, **options,
        )  # fmt: skip
    return write(path, dataset)


@pytest.fixture
def scan(tmp_path):
    sources = make()
    return sources, read_stack(save(tmp_path / "scan", sources))


def numbers(seed=0):
    """Segment numbers [slices, rows, columns]; one slice is empty."""
    array = np.random.default_rng(seed).choice([0, 1, 2], SHAPE[::-1]).astype(np.uint8)
    array[3] = 0
    return array


def values(array):
    return np.array([0, 2, 300])[array].transpose(2, 1, 0)


@pytest.mark.parametrize("syntax", [NATIVE, RLE])
def test_a_label_map(tmp_path, scan, syntax):
    sources, stack = scan
    path = theirs(tmp_path / "a.dcm", sources, numbers(), "LABELMAP", syntax)
    assert pydicom.dcmread(path).SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"
    np.testing.assert_array_equal(read_seg(path, stack, SCHEME).array, values(numbers()))
    np.testing.assert_array_equal(read_seg(path, stack).array, numbers().transpose(2, 1, 0))


def test_a_label_map_with_a_palette_and_without_a_background(tmp_path, scan):
    sources, stack = scan
    dataset = pydicom.dcmread(theirs(tmp_path / "a.dcm", sources, numbers(), "LABELMAP"))
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    del dataset.SegmentSequence[0]
    np.testing.assert_array_equal(read_seg(write(tmp_path / "b.dcm", dataset), stack, SCHEME).array, values(numbers()))


def test_a_label_map_in_the_image_folder_is_skipped(tmp_path, scan):
    theirs(tmp_path / "scan/seg.dcm", scan[0], numbers(), "LABELMAP")
    (series,) = find_series(tmp_path / "scan")
    assert len(series.files) == 8


@pytest.mark.parametrize("syntax", [NATIVE, RLE])
@pytest.mark.parametrize("fractional", ["PROBABILITY", "OCCUPANCY"])
def test_fractions_above_one_half_are_inside(tmp_path, scan, syntax, fractional):
    sources, stack = scan
    liver = np.random.default_rng(1).integers(0, 201, SHAPE[::-1])
    liver[0, 0, :3] = 99, 100, 101
    fractions = np.stack([liver, 200 - liver], axis=-1) / 200
    path = theirs(
        tmp_path / "a.dcm",
        sources,
        fractions,
        "FRACTIONAL",
        syntax,
        fractional_type=fractional,
        max_fractional_value=200,
    )
    expected = np.where(liver > 100, 2, np.where(liver < 100, 300, 0)).transpose(2, 1, 0)
    assert expected[:3, 0, 0].tolist() == [300, 0, 2]
    np.testing.assert_array_equal(read_seg(path, stack, SCHEME).array, expected)


def changed(path, **elements):
    dataset = pydicom.dcmread(path)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return write(path, dataset)


@pytest.mark.parametrize(
    ("kind", "elements", "message"),
    [
        ("FRACTIONAL", {"SegmentationFractionalType": "OTHER"}, "expected SegmentationFractionalType PROBABILITY"),
        ("FRACTIONAL", {"MaximumFractionalValue": 0}, "expected a MaximumFractionalValue of 1 or more, got 0"),
        ("FRACTIONAL", {"MaximumFractionalValue": None}, "MaximumFractionalValue is missing"),
        ("FRACTIONAL", {"PixelRepresentation": 1}, "expected unsigned pixels with 8 or 16 bits"),
        ("FRACTIONAL", {"NumberOfFrames": 90}, r"the header declares 12 x 10 x 90 pixels \(10800 bytes\)"),
        ("FRACTIONAL", {"SegmentationType": "LABELMAP"}, "got another object"),
        ("FRACTIONAL", {"SegmentationType": "NEW"}, "got another object"),
        ("LABELMAP", {"SegmentationType": "BINARY"}, "got another object"),
        ("LABELMAP", {"PhotometricInterpretation": "RGB"}, "expected greyscale pixels, got RGB"),
        ("LABELMAP", {"PixelData": bytes([9]) * 840}, "frame 1 refers to segment 9, which is not described"),
    ],
)
def test_damaged(tmp_path, scan, kind, elements, message):
    sources, stack = scan
    array = numbers()
    if kind == "FRACTIONAL":
        array = np.stack([array == 1, array == 2], axis=-1).astype(float)
    path = changed(theirs(tmp_path / "a.dcm", sources, array, kind), **elements)
    with pytest.raises(InputError, match=message):
        read_seg(path, stack, SCHEME)


def test_overlapping_probabilities(tmp_path, scan):
    sources, stack = scan
    path = theirs(tmp_path / "a.dcm", sources, np.full((*SHAPE[::-1], 2), 0.6), "FRACTIONAL")
    with pytest.raises(InputError, match=r"segments overlap in slice \d: label values \d+ and \d+; export"):
        read_seg(path, stack, SCHEME)


def test_both_grids_are_named(tmp_path, scan):
    sources, _ = scan
    path = theirs(tmp_path / "a.dcm", sources, numbers(), "LABELMAP")
    other = read_stack(save(tmp_path / "other", make(origin=(-30.0, -40.0, 51.0))))
    with pytest.raises(InputError) as error:
        read_seg(path, Volume(np.zeros(SHAPE), other.geometry), SCHEME)
    assert str(error.value) == (
        f"{path}: a frame (12 x 10 voxels of 0.8 x 0.7 mm at [30.0, 40.0, 64.0] mm) is not on the grid of the image "
        "(12 x 10 x 8 voxels of 0.8 x 0.7 x 2 mm at [30.0, 40.0, 51.0] mm); export the SEG on the grid of its image"
    )


# ---- without the image ----


def written(path, stack, drawn):
    write_seg(path, Volume(drawn, stack.geometry), stack, SCHEME)
    return path


def only(*slices):
    """Labels in some slices only; the others have no frame."""
    drawn = np.zeros(SHAPE, np.uint16)
    drawn[2:5, 3:7, list(slices)] = 300
    return drawn


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (-1, 0, 0, 0, 1, 0)])
def test_the_grid_of_two_files_contains_all_their_frames(tmp_path, orientation):
    stack = read_stack(save(tmp_path / "scan", make(orientation=orientation)))
    one = written(tmp_path / "one.dcm", stack, only(1, 5))
    two = written(tmp_path / "two.dcm", stack, only(3))
    grid = seg_grid([two, one])
    assert grid.shape == (12, 10, 5)
    expected = stack.geometry.affine.copy()
    expected[:3, 3] = stack.geometry.affine[:3] @ (0, 0, 1, 1)
    np.testing.assert_allclose(grid.geometry.affine, expected, atol=1e-4)
    np.testing.assert_array_equal(read_seg(one, grid, SCHEME).array, only(1, 5)[..., 1:6])
    np.testing.assert_array_equal(read_seg(two, grid, SCHEME).array, only(3)[..., 1:6])


@pytest.mark.parametrize(("slices", "said", "count"), [((1, 2, 6), None, 6), ((1, 2, 6), 0.7, 6), ((4,), None, 1)])
def test_slice_spacing_without_a_valid_declaration(tmp_path, scan, slices, said, count):
    """Without a SpacingBetweenSlices that fits the frames, the smallest distance is used."""
    path = written(tmp_path / "a.dcm", scan[1], only(*slices))
    dataset = pydicom.dcmread(path)
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.SpacingBetweenSlices = said
    grid = seg_grid([write(path, dataset)])
    assert grid.shape == (12, 10, count)
    assert grid.geometry.spacing_mm == pytest.approx((0.8, 0.7, 2.0))
    np.testing.assert_array_equal(read_seg(path, grid, SCHEME).array, only(*slices)[..., slices[0] : slices[-1] + 1])


def test_frames_of_two_grids(tmp_path, scan):
    one = written(tmp_path / "a.dcm", scan[1], only(1))
    other = read_stack(save(tmp_path / "other", make(voxels((10, 12, 8)))))
    drawn = np.zeros((10, 12, 8), np.uint16)
    drawn[2:4] = 2
    two = written(tmp_path / "b.dcm", other, drawn)
    with pytest.raises(InputError, match=r"b\.dcm, frame 1: expected 12 x 10 pixels as in .*a\.dcm, got 10 x 12"):
        seg_grid([one, two])


def test_frames_too_far_apart_take_no_memory(tmp_path, scan, monkeypatch):
    monkeypatch.setattr("masam.io.gate.MAX_VOLUME_BYTES", 2**20)
    path = written(tmp_path / "a.dcm", scan[1], only(1, 2, 3))
    dataset = pydicom.dcmread(path)
    dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0].ImagePositionPatient = [-30, -40, 9e5]
    with pytest.raises(InputError, match=r"the frames span \d+ slices, more than 1048576 bytes"):
        seg_grid([write(path, dataset)])


def test_the_grid_equals_that_of_the_series_if_all_slices_have_frames(tmp_path, scan):
    path = written(tmp_path / "a.dcm", scan[1], only(*range(8)))
    np.testing.assert_allclose(seg_grid([path]).geometry.affine, affine_of(), atol=1e-4)
