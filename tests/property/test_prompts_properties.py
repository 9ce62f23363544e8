"""Prompts follow their voxels, for all orientations, crops and image sizes."""

import itertools
import random

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from masam.labels import LabelScheme
from masam.preprocess.intensity import Window
from masam.preprocess.pipeline import Preprocessing
from masam.prompts import Box3D, Click, MaskOnSlice
from masam.prompts.projection import project
from masam.volume import Geometry, Volume

SCHEME = LabelScheme.from_mapping({"background": 0, "thing": 1})
STORED = list(itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3)))
VIEWS = ("axial", "coronal", "sagittal")


def prepared(array, affine, view="axial", size=24, crop="none"):
    return Preprocessing(view, Window(low=0, high=1), size, crop).prepare(Volume(array, Geometry(affine)))


def affine_of(angles_deg=(0, 0, 0), spacing_mm=(0.7, 0.9, 3.0)):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix() * spacing_mm
    affine[:3, 3] = (10, -20, 30)
    return affine


def stored_as(array, affine, order, flips):
    """The same anatomy in a file with other axes, and the map of voxels into it."""
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        to_old[old, new] = -1 if flip else 1
        to_old[old, 3] = array.shape[old] - 1 if flip else 0
    view = array.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return view, affine @ to_old, np.linalg.inv(to_old)


def seen(prompts, depth):
    """The projected prompts as plain numbers."""
    return [
        [
            (
                channel,
                None if prompt.box is None else prompt.box.round(4).tolist(),
                np.column_stack([prompt.points.round(4), prompt.point_labels]).tolist(),
                None if prompt.mask is None else prompt.mask.tolist(),
            )
            for channel, prompt in prompts.at(index).items()
        ]
        for index in range(depth)
    ]


@st.composite
def boxes(draw, shape, *, whole=True):
    number = (lambda n: st.integers(0, n - 1)) if whole else (lambda n: st.floats(-0.5, n - 0.5))
    ends = [sorted((draw(number(n)), draw(number(n)))) for n in shape]
    return tuple(float(low) for low, _ in ends) + tuple(float(high) for _, high in ends)


SHAPE = (7, 9, 5)


@settings(deadline=None, max_examples=25)
@given(
    corners=boxes(SHAPE, whole=False),
    inside=st.tuples(*[st.floats(0, 1)] * 3),
    angles=st.sampled_from([(0, 0, 0), (20, -10, 15)]),
    view=st.sampled_from(VIEWS),
    crop=st.sampled_from(["none", "content"]),
    seed=st.integers(0, 99),
)
def test_projection_commutes_with_all_48_orientations(corners, inside, angles, view, crop, seed):
    array = np.zeros(SHAPE, np.float32)
    array[1:6, 2:8, 1:4] = 1
    affine = affine_of(angles)
    low, high = np.array(corners[:3]), np.array(corners[3:])
    assume((high > [1, 2, 1]).all() and (low < [5, 7, 3]).all())
    # Inside the content, since clicks in cropped regions are rejected.
    click = np.clip(low + np.array(inside) * (high - low), [1, 2, 1], [5, 7, 3])
    assume((click >= low).all() and (click <= high).all())
    mask = np.random.default_rng(seed).random(SHAPE) > 0.5
    results = []
    # Twelve orientations per example, so that the examples together try all 48 several times.
    for order, flips in [STORED[0], *random.Random(seed).sample(STORED[1:], 11)]:
        stored, turned, to_new = stored_as(array, affine, order, flips)
        volume = prepared(stored, turned, view, crop=crop)
        ends = np.stack([low, high]) @ to_new[:3, :3].T + to_new[:3, 3]
        box = Box3D((*ends.min(axis=0).clip(-0.5), *ends.max(axis=0)))
        point = Click(tuple(to_new[:3, :3] @ click + to_new[:3, 3]))
        axis = volume.trace.orientation.order[0]
        drawn = stored_as(mask, affine, order, flips)[0]
        index = round(float((to_new @ [*click.round(), 1])[axis]))
        masked = MaskOnSlice(axis, index, drawn.take(index, axis=axis))
        results.append([seen(project(some, volume.trace, SCHEME), volume.depth) for some in ([box], [point], [masked])])
    assert all(result == results[0] for result in results)


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    view=st.sampled_from((*VIEWS, "stored")),
    angles=st.tuples(*[st.floats(-40, 40)] * 3),
    size=st.integers(4, 40),
)
def test_a_box_of_the_whole_volume_covers_every_slice_and_pixel(shape, view, angles, size):
    volume = prepared(np.ones(shape, np.float32), affine_of(angles), view, size)
    found = project([Box3D((0, 0, 0, *(n - 1 for n in shape)))], volume.trace, SCHEME)
    assert found.needed(volume.depth) == range(volume.depth)
    for index in range(volume.depth):
        box = found.at(index)[1].box
        np.testing.assert_allclose(box, [0, 0, size - 1, size - 1], atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), view=st.sampled_from(VIEWS), spacing=st.tuples(*[st.floats(0.3, 5)] * 3))
def test_voxels_and_millimetres_agree(data, view, spacing):
    corners = data.draw(boxes(SHAPE))
    volume = prepared(np.ones(SHAPE, np.float32), affine_of((0, 0, 0), spacing), view)
    affine = volume.trace.source.affine
    # From outer face to outer face.
    faces = np.array([corners[:3], corners[3:]]) + np.array([[-0.5], [0.5]])
    ends = faces @ affine[:3, :3].T + affine[:3, 3]
    voxels = project([Box3D(corners)], volume.trace, SCHEME)
    mm = project([Box3D((*ends.min(axis=0), *ends.max(axis=0)), "mm")], volume.trace, SCHEME)
    assert seen(voxels, volume.depth) == seen(mm, volume.depth)
    click = np.array(corners[:3])
    at = affine[:3, :3] @ click + affine[:3, 3]
    one, other = (Click(tuple(click)), Click(tuple(at), unit="mm"))
    assert seen(project([one], volume.trace, SCHEME), 9) == seen(project([other], volume.trace, SCHEME), 9)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), view=st.sampled_from(VIEWS), size=st.integers(5, 40))
def test_a_box_is_the_tight_box_of_its_own_voxels_within_a_pixel(data, view, size):
    corners = data.draw(boxes(SHAPE))
    low, high = np.array(corners, int).reshape(2, 3)
    volume = prepared(np.ones(SHAPE, np.float32), affine_of(), view, size)
    filled = np.zeros(SHAPE, np.uint8)
    filled[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = 1
    labels = volume.labels(Volume(filled, volume.trace.source))
    found = project([Box3D(corners)], volume.trace, SCHEME)
    for index in range(volume.depth):
        touched = bool(labels.array[index].any())
        assert bool(found.at(index)) == touched
        rows, columns = np.nonzero(labels.slice(index))
        if len(rows):
            tight = [columns.min(), rows.min(), columns.max(), rows.max()]
            np.testing.assert_allclose(found.at(index)[1].box, tight, atol=0.51)
