import numpy as np
import pytest

from masam.errors import ConfigError, InputError
from masam.labels import LabelScheme
from masam.preprocess.intensity import Window
from masam.preprocess.pipeline import Preprocessing
from masam.prompts import Box3D, Click, MaskOnSlice
from masam.prompts.projection import project
from masam.volume import Geometry, Volume

ONE = LabelScheme.from_mapping({"background": 0, "tumour": 1})
TWO = LabelScheme.from_mapping({"background": 0, "liver": 1, "tumour": 5})
SHAPE = (40, 20, 6)
AFFINE = np.diag([1.0, 2.0, 4.0, 1.0])
AFFINE[:3, 3] = (-20, 10, 0)


def trace(crop="none", image_size=20, array=None, affine=AFFINE):
    volume = Volume(np.ones(SHAPE, np.float32) if array is None else array, Geometry(affine))
    return Preprocessing("axial", Window(low=0, high=2), image_size, crop).prepare(volume).trace


def test_a_box_is_one_rectangle_on_the_slices_of_its_range():
    found = project([Box3D((10, 4, 1, 19, 7, 3))], trace(), ONE)
    prompts = found.classes[1]
    assert prompts.span == range(1, 4)
    # Axial: rows run to the back and columns to the patient's left, against the file's axes. 40 columns become 20.
    assert prompts.box.tolist() == [10, 12, 14, 15]
    assert [index for index in range(6) if found.at(index)] == [1, 2, 3]
    assert [found.ruled_out(index) for index in range(6)] == [(1,), (), (), (), (1,), (1,)]
    assert found.needed(6) == range(1, 4)


def test_a_box_of_the_whole_volume_covers_every_slice_and_the_whole_image():
    found = project([Box3D((0, 0, 0, 39, 19, 5))], trace(), ONE)
    assert found.classes[1].span == range(6)
    assert found.classes[1].box.tolist() == [0, 0, 19, 19]
    assert all(found.is_decided(index) for index in range(6))


def test_millimetres_are_the_positions_of_the_affine():
    voxels = project([Box3D((10, 4, 1, 19, 7, 3))], trace(), ONE).classes[1]
    # From the first voxel's outer face to the last one's, and from centre to centre.
    for corners in ((-10.5, 17, 2, -0.5, 25, 14), (-10, 18, 4, -1, 24, 12)):
        mm = project([Box3D(corners, "mm")], trace(), ONE).classes[1]
        assert (mm.span, mm.box.tolist()) == (voxels.span, voxels.box.tolist())


def test_a_box_in_millimetres_may_extend_beyond_the_scan_and_is_clipped():
    found = project([Box3D((-500, -500, 8, 500, 500, 12), "mm")], trace(), ONE).classes[1]
    assert (found.span, found.box.tolist()) == (range(2, 4), [0, 0, 19, 19])


def test_a_box_thinner_than_a_pixel_becomes_its_middle():
    box = project([Box3D((9, 4, 1, 9, 4, 1))], trace(image_size=10), ONE).classes[1].box
    # Column 30 of 40 becomes 7.5 to 7.75 of ten, row 15 of 20 becomes 7.5 to 8.
    assert box.tolist() == [7.125, 7.25, 7.125, 7.25]


def test_a_click_belongs_to_the_slice_that_contains_it():
    found = project([Click((10, 4, 2.4)), Click((12, 4, 2), positive=False), Click((0, 0, 5))], trace(), ONE)
    prompt = found.at(2)[1]
    assert prompt.box is None
    assert prompt.points.tolist() == [[13.25, 15], [14.25, 15]]
    assert prompt.point_labels.tolist() == [0, 1]
    assert found.at(5)[1].points.tolist() == [[19.25, 19]]
    assert found.at(3) == {}
    assert [found.ruled_out(index) for index in range(6)] == [()] * 6
    assert found.needed(6) == range(6)


def test_a_mask_is_processed_like_its_slice():
    drawn = np.zeros((40, 20), bool)
    drawn[0:8, 0:4] = True
    found = project([MaskOnSlice(2, 3, drawn)], trace(image_size=40), ONE)
    expected = np.zeros((10, 10), bool)
    expected[8:, 8:] = True
    assert np.array_equal(found.at(3)[1].mask, expected)
    one_voxel = np.zeros((40, 20), bool)
    one_voxel[0, 0] = True
    small = project([MaskOnSlice(2, 3, one_voxel)], trace(image_size=20), ONE).at(3)[1].mask
    assert np.argwhere(small).tolist() == [[4, 4]]


def test_slices_that_prompts_may_change():
    def changed(*prompts):
        return project(prompts, trace(), TWO).changed(6)

    box = Box3D((10, 4, 1, 19, 7, 3), class_name="liver")
    clicks = [Click((12, 5, index), class_name="tumour") for index in (0, 1, 4)]
    assert changed(*clicks) == [range(2), range(4, 5)]
    # Beyond its box a class is ruled out, so that the others may win there.
    assert changed(box) == [range(6)]
    assert changed(box, Box3D((10, 4, 3, 19, 7, 4), class_name="tumour")) == [range(1, 5)]


def test_only_slices_of_boxes_are_needed_if_every_class_has_one():
    both = [Box3D((0, 0, 1, 5, 5, 1), class_name="liver"), Box3D((0, 0, 4, 5, 5, 4), class_name="tumour")]
    assert project(both, trace(), TWO).needed(6) == range(1, 5)
    assert project(both[:1], trace(), TWO).needed(6) == range(6)
    assert not project(both[:1], trace(), TWO).is_decided(0)


def test_prompts_follow_the_crop():
    array = np.zeros(SHAPE, np.float32)
    array[10:30, 5:15, 2:5] = 1
    cropped = trace("content", 20, array)
    found = project([Box3D((0, 0, 0, 39, 19, 3)), Click((29, 14, 2))], cropped, ONE)
    assert found.classes[1].span == range(2)
    assert found.classes[1].box.tolist() == [0, 0, 19, 19]
    assert found.at(0)[1].points.tolist() == [[0, 0.5]]
    for prompt in (Box3D((0, 0, 0, 39, 19, 1)), Click((29, 14, 1)), MaskOnSlice(2, 0, np.ones((40, 20), bool))):
        with pytest.raises(InputError, match="is in an empty part of the scan that the plan crops away"):
            project([prompt], cropped, ONE)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (
            [Box3D((0, 0, 0, 40, 1, 1))],
            "scan, tumour: the box 0,0,0,40,1,1 (voxel) is outside the scan, which extends from 0,0,0 to 39,19,5; "
            "check order, unit and sign of its numbers",
        ),
        (
            [Box3D((30, 10, 0, 40, 20, 9), "mm")],
            "scan, tumour: the box 30,10,0,40,20,9 (mm) is outside the scan, which extends from -20.5,9,-2 to "
            "19.5,49,22; check order, unit and sign of its numbers",
        ),
        (
            [Click((-0.6, 0, 0))],
            "scan, tumour: the click -0.6,0,0 (voxel) is outside the scan, which extends from 0,0,0 to 39,19,5; "
            "check order, unit and sign of its numbers",
        ),
        (
            [Box3D((0, 0, 0, 1, 1, 1))] * 2,
            "scan, tumour: expected one box per class, got 2; predict each object separately",
        ),
        (
            [Box3D((0, 0, 0, 5, 5, 1)), Click((1, 1, 2), positive=False)],
            "scan, tumour: the click at 1,1,2 is on a slice outside the box of its class; "
            "enlarge the box or remove the click",
        ),
        (
            [Box3D((0, 0, 0, 5, 5, 1)), Click((6, 1, 1))],
            "scan, tumour: the click at 6,1,1 marks the object outside its box; enlarge the box or remove the click",
        ),
        (
            [Box3D((0, 0, 0, 5, 5, 1)), MaskOnSlice(2, 2, np.ones((40, 20), bool))],
            "scan, tumour: the mask is on a slice outside the box of its class",
        ),
        (
            [MaskOnSlice(0, 2, np.ones((20, 6), bool))],
            "scan, tumour: expected a mask across array axis 2, got one across 0",
        ),
        (
            [MaskOnSlice(2, 6, np.ones((40, 20), bool))],
            "scan, tumour: expected a mask of shape (40, 20) on one of 6 slices, got (40, 20) on number 6",
        ),
        (
            [MaskOnSlice(2, 1, np.ones((40, 20), bool))] * 2,
            "scan, tumour: expected one mask per class and slice, got two on slice 1",
        ),
    ],
)  # fmt: skip
def test_contradictory_prompts_are_rejected(prompts, message):
    with pytest.raises(InputError) as refusal:
        project(prompts, trace(), ONE, where="scan")
    assert str(refusal.value) == message


def test_negative_clicks_may_lie_outside_the_box_on_its_slices():
    found = project([Box3D((0, 0, 0, 5, 5, 1)), Click((6, 1, 1), positive=False)], trace(), ONE)
    assert found.at(1)[1].point_labels.tolist() == [0]


def test_a_prompt_needs_a_class_if_there_are_several():
    box = (0, 0, 0, 5, 5, 1)
    assert list(project([Box3D(box, class_name="tumour")], trace(), TWO).classes) == [2]
    with pytest.raises(ConfigError, match=r"^prompts: expected a class for each prompt, .* 2 classes \(liver, tumour"):
        project([Box3D(box)], trace(), TWO)
    with pytest.raises(ConfigError, match=r"^prompts: expected one of the classes liver, tumour, got 'spleen'$"):
        project([Box3D(box, class_name="spleen")], trace(), TWO)
    with pytest.raises(ConfigError, match=r"^prompts: expected at least one prompt, got none; omit the"):
        project([], trace(), TWO)
