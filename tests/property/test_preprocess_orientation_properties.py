"""The 48 ways of storing one volume (six orders of axes, eight mirrorings), straight and oblique."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from masam.errors import InputError
from masam.preprocess.intensity import Percentiles, Window
from masam.preprocess.orientation import CANONICAL_AXES, Orientation, largest_spacing_axis
from masam.preprocess.pipeline import Preprocessing
from masam.volume import Geometry, Volume

SHAPE = (4, 5, 6)
STORED = [
    (order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((False, True), repeat=3)
]


def stored_as(array, affine, order, flips):
    """Permute and mirror the axes of a volume without moving its voxels in the patient."""
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        to_old[old, new] = -1 if flip else 1
        if flip:
            to_old[old, 3] = array.shape[old] - 1
    view = array.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return Volume(view.copy(), Geometry(affine @ to_old))


def affine_of(angles_deg, spacing_mm):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix() * spacing_mm
    affine[:3, 3] = (10, -20, 30)
    return affine


ARRAY = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
STRAIGHT = affine_of((0, 0, 0), (0.7, 0.8, 3.0))
OBLIQUES = [
    STRAIGHT,
    affine_of((20, -10, 35), (0.7, 0.8, 3.0)),
    affine_of((0, 0, 45), (1, 1, 1)),
    affine_of((45, 45, 45), (1, 1, 2)),
]


@pytest.mark.parametrize("slice_axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("affine", OBLIQUES, ids=["straight", "oblique", "45 degrees", "45 degrees thrice"])
def test_all_48_orders_give_one_canonical_array_and_are_restored(affine, slice_axis):
    canonical = []
    for order, flips in STORED:
        volume = stored_as(ARRAY, affine, order, flips)
        orientation = Orientation.of(volume.geometry, slice_axis)
        canonical.append(orientation.apply(volume.array))
        assert np.shares_memory(canonical[-1], volume.array)
        assert np.array_equal(orientation.invert(canonical[-1]), volume.array)
    assert all(np.array_equal(array, canonical[0]) for array in canonical)


@given(
    angles_deg=st.tuples(st.floats(-180, 180), st.floats(-180, 180), st.floats(-180, 180)),
    spacing_mm=st.tuples(st.floats(0.2, 8), st.floats(0.2, 8), st.floats(0.2, 8)),
    stored=st.sampled_from(STORED),
    slice_axis=st.sampled_from(["axial", "coronal", "sagittal"]),
)
@settings(max_examples=150, deadline=None)
def test_slices_of_oblique_volumes_do_not_depend_on_the_stored_order(angles_deg, spacing_mm, stored, slice_axis):
    affine = affine_of(angles_deg, spacing_mm)
    base, other = Volume(ARRAY, Geometry(affine)), stored_as(ARRAY, affine, *stored)
    seen = [Orientation.of(volume.geometry, slice_axis).apply(volume.array) for volume in (base, other)]
    assert np.array_equal(*seen)
    assert largest_spacing_axis(base.geometry) == largest_spacing_axis(other.geometry)


@pytest.mark.parametrize("slice_axis", ["axial", "coronal", "sagittal"])
def test_directions_of_the_canonical_axes(slice_axis):
    # Identity affine: i runs to R, j to A, k to S. The value of a voxel encodes its index.
    i, j, k = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    towards = {"R": i, "L": -i, "A": j, "P": -j, "S": k, "I": -k}
    orientation = Orientation.of(Geometry(np.eye(4)), slice_axis)
    for axis, letter in enumerate(CANONICAL_AXES[slice_axis]):
        assert (np.diff(orientation.apply(towards[letter]), axis=axis) == 1).all()


@pytest.mark.parametrize(
    ("spacing_mm", "expected"),
    [
        ((0.7, 0.7, 5), "axial"),
        ((0.7, 4, 0.7), "coronal"),
        ((3, 0.6, 0.6), "sagittal"),
        ((1, 1, 1), "axial"),
        ((1.05, 1, 1), "axial"),
        ((1.2, 1, 1), "sagittal"),
        ((3, 3, 1), "sagittal"),
    ],
)
def test_slices_were_cut_along_the_largest_spacing(spacing_mm, expected):
    for order, flips in STORED:
        volume = stored_as(ARRAY, affine_of((0, 0, 0), spacing_mm), order, flips)
        assert largest_spacing_axis(volume.geometry) == expected


@pytest.mark.parametrize("crop", ["none", "content"])
@pytest.mark.parametrize("image_size", [16, 5])
@pytest.mark.parametrize("affine", OBLIQUES[:2], ids=["straight", "oblique"])
def test_slices_and_restored_labels_are_equal_for_all_48_orders(affine, image_size, crop):
    preprocessing = Preprocessing("axial", Percentiles(low=0, high=99), image_size, crop)
    # With a black border without labels on some sides.
    array, labels = ARRAY.copy(), (ARRAY % 7).astype(np.uint8)
    for dark in (np.s_[:, 0], np.s_[..., -1], np.s_[-1]):
        array[dark], labels[dark] = array.min(), 0
    first = None
    for order, flips in STORED:
        image, reference = stored_as(array, affine, order, flips), stored_as(labels, affine, order, flips)
        prepared = preprocessing.prepare(image)
        slices = np.stack([prepared.slice(index) for index in range(prepared.depth)])
        first = slices if first is None else first
        assert np.array_equal(slices, first)
        native = prepared.labels(reference).array
        back = prepared.trace.labels_to_volume(native)
        assert np.array_equal(back.array, reference.array)
        assert back.geometry is image.geometry


def test_labels_survive_the_resize_and_its_inverse():
    # Blocks of four pixels at native size are blocks of eight at the model's size, so the resize is lossless.
    blocks = np.random.default_rng(0).integers(0, 3, (3, 4, 5))
    labels = np.kron(blocks, np.ones((1, 4, 4), int)).transpose(2, 1, 0).astype(np.uint8)
    volume = Volume(labels[::-1], Geometry(np.diag([-1.0, 1, 3, 1])))
    preprocessing = Preprocessing("axial", Window(low=0, high=2), 80)
    prepared = preprocessing.prepare(volume)
    reference = prepared.labels(volume)
    out = []
    for index in range(reference.depth):
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(reference.slice(index).astype(np.int64)), 3)
        probabilities = prepared.trace.probabilities_to_native(one_hot.permute(2, 0, 1).float())
        assert torch.allclose(probabilities.sum(0), torch.ones(prepared.native_size), atol=1e-6)
        out.append(probabilities.argmax(0).numpy())
    assert np.array_equal(prepared.trace.labels_to_volume(np.stack(out).astype(np.uint8)).array, volume.array)


def test_wrong_label_stacks_and_grids_are_refused():
    volume = Volume(ARRAY, Geometry(STRAIGHT))
    prepared = Preprocessing("axial", Percentiles(), 16).prepare(volume)
    with pytest.raises(InputError, match=r"label slices of shape \(6, 5, 4\), got \(6, 16, 16\)"):
        prepared.trace.labels_to_volume(np.zeros((6, 16, 16), np.uint8))
    with pytest.raises(InputError, match=r"labels of shape \(4, 5, 6\) like the image, got \(5, 4, 6\)"):
        prepared.labels(Volume(np.zeros((5, 4, 6), np.uint8), Geometry(STRAIGHT)))
    with pytest.raises(InputError, match="the affines of labels and image differ"):
        prepared.labels(Volume(np.zeros(SHAPE, np.uint8), Geometry(np.eye(4))))
    with pytest.raises(InputError, match="expected integer labels with three axes, got type float32"):
        prepared.labels(Volume(np.zeros(SHAPE, np.float32), Geometry(STRAIGHT)))
