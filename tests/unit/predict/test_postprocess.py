import numpy as np
import pytest
import torch

from masam.errors import ConfigError
from masam.predict.postprocess import Cleaning, fill_holes, keep_largest_component, most_probable


def test_most_probable_returns_the_lowest_channel_for_ties():
    probabilities = torch.tensor([[[0.2, 0.5]], [[0.7, 0.5]], [[0.1, 0.0]]])
    channels = most_probable(probabilities)
    assert channels.tolist() == [[1, 0]]
    assert channels.dtype == np.uint8
    assert most_probable(torch.eye(300)[:, :, None]).dtype == np.uint16


def test_the_largest_component_is_kept_and_removed_voxels_are_counted():
    labels = np.zeros((3, 8, 8), np.uint8)
    labels[:, 0:3, 0:3] = 1
    labels[0, 6, 6] = 1
    labels[2, 5:7, 0:1] = 1
    labels[1, 0:2, 5:7] = 2
    labels[1, 7, 7] = 2
    before = labels.copy()
    cleaned, record = keep_largest_component(labels, [1])
    assert np.array_equal(labels, before)
    expected = before.copy()
    expected[0, 6, 6] = expected[2, 5:7, 0] = 0
    assert np.array_equal(cleaned, expected)
    assert record == Cleaning("keep_largest_component", removed={1: 3})


def test_voxels_that_share_a_corner_are_one_component():
    labels = np.zeros((2, 2, 2), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = 1
    assert keep_largest_component(labels, [1])[1].removed == {1: 0}


def test_an_absent_class_changes_nothing():
    labels = np.zeros((2, 3, 4), np.int16)
    for clean in (keep_largest_component, fill_holes):
        cleaned, record = clean(labels, [3])
        assert not cleaned.any()
        assert {**record.removed, **record.added} == {3: 0}


def test_a_hole_is_filled_and_a_tumour_inside_stays():
    labels = np.zeros((5, 7, 7), np.uint8)
    labels[0:5, 1:6, 1:6] = 1
    labels[2, 2:5, 2:5] = 0
    labels[2, 3, 3] = 2
    filled, record = fill_holes(labels, [1])
    assert record == Cleaning("fill_holes", added={1: 8})
    assert (filled == 1).sum() == 5 * 25 - 1
    assert filled[2, 3, 3] == 2
    assert not filled[:, 0].any()


def test_a_tunnel_to_the_edge_of_the_volume_is_no_hole():
    labels = np.ones((3, 5, 5), np.uint8)
    labels[:, 2, 2] = 0
    filled, record = fill_holes(labels, [1])
    assert np.array_equal(filled, labels)
    assert record.added == {1: 0}


@pytest.mark.parametrize("classes", [[0], [1, 1], [-1]])
def test_only_distinct_foreground_classes_can_be_cleaned(classes):
    for clean in (keep_largest_component, fill_holes):
        with pytest.raises(ConfigError, match="postprocess: expected distinct foreground classes"):
            clean(np.zeros((1, 2, 2), np.uint8), classes)
