"""Surface distances against known values, a distance transform and the surface-distance package."""

import math

import numpy as np
import pytest
from scipy import ndimage

from masam.errors import ConfigError, InputError
from masam.evaluation.surface import SurfaceScores, surface_scores
from masam.evaluation.surface_elements import element_areas_mm2, filling_codes


def voxel(*index: int, shape: tuple[int, int, int] = (9, 9, 9)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[index] = True
    return mask


def box(low: tuple[int, int, int], high: tuple[int, int, int], shape: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def test_two_voxels_in_anisotropic_spacing():
    # Steps (2, 1, 1) of spacing (1, 2, 5): 4 + 4 + 25 = 33.
    scores = surface_scores(voxel(1, 2, 3), voxel(3, 3, 4), (1.0, 2.0, 5.0), 0.5)
    assert scores == SurfaceScores(math.sqrt(33), math.sqrt(33), math.sqrt(33), 0.0)


def test_directed_pooled_and_mean_distance_by_hand():
    # A line along the second axis, steps of 2 mm: reference 0..9, prediction 0..19. To the prediction all distances are
    # 0; to the reference ten are 0, then 2, 4, ... 20 mm.
    shape = (1, 20, 1)
    scores = surface_scores(box((0, 0, 0), (1, 10, 1), shape), box((0, 0, 0), (1, 20, 1), shape), (3.0, 2.0, 7.0))
    back = [0.0] * 10 + [2.0 * n for n in range(1, 11)]
    assert scores.hd95_mm == pytest.approx(18.1)  # position 0.95 * 19 = 18.05 of the sorted list, between 18 and 20
    assert scores.hd95_mm == pytest.approx(float(np.percentile(back, 95)))
    assert scores.hd95_pooled_mm == pytest.approx(float(np.percentile(back + [0.0] * 10, 95)))
    assert scores.assd_mm == pytest.approx(110 / 30)


def test_shift_by_one_slice_is_the_slice_distance():
    shape = (12, 12, 12)
    a, b = box((3, 3, 3), (9, 9, 8), shape), box((3, 3, 4), (9, 9, 9), shape)
    assert surface_scores(a, b, (1.0, 1.0, 2.5)).hd95_mm == pytest.approx(2.5)


def test_equal_masks():
    mask = box((1, 1, 1), (4, 5, 3), (6, 6, 6))
    assert surface_scores(mask, mask, (1.0, 2.0, 3.0), 0.0) == SurfaceScores(0.0, 0.0, 0.0, 1.0)


def test_empty_rules():
    empty, full = voxel(0, 0, 0) & False, voxel(4, 4, 4)
    for reference, prediction, nsd in ((empty, full, 0.0), (full, empty, 0.0), (empty, empty, math.nan)):
        scores = surface_scores(reference, prediction, (1.0, 1.0, 1.0))
        assert [scores.hd95_mm, scores.hd95_pooled_mm, scores.assd_mm] == pytest.approx([math.nan] * 3, nan_ok=True)
        assert scores.nsd == pytest.approx(nsd, nan_ok=True)


def test_distance_equal_to_the_tolerance_is_within_it():
    # Three steps of 0.1 mm: 3 * 0.1 is larger than 0.3 in floating point.
    assert surface_scores(voxel(1, 4, 4), voxel(4, 4, 4), (0.1, 1.0, 1.0), 0.3).nsd == 1.0


@pytest.mark.parametrize("seed", range(12))
def test_agrees_with_a_distance_transform(seed):
    """MONAI's definition, written out with scipy's erosion and exact distance transform."""
    rng = np.random.default_rng(seed)
    shape, spacing = tuple(rng.integers(4, 16, 3)), tuple(float(s) for s in rng.uniform(0.3, 4, 3))
    one, other = (ndimage.gaussian_filter(rng.random(shape), 1) > 0.5 for _ in range(2))
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (one, other)]
    maps = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    there, back = maps[1][edges[0]], maps[0][edges[1]]
    scores = surface_scores(one, other, spacing)
    assert scores.hd95_mm == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-9)
    assert scores.hd95_pooled_mm == pytest.approx(np.percentile(np.r_[there, back], 95), rel=1e-9)
    assert scores.assd_mm == pytest.approx(np.r_[there, back].mean(), rel=1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("seed", range(25))
def test_surface_dice_agrees_with_surface_distance(seed):
    surface_distance = pytest.importorskip("surface_distance")
    rng = np.random.default_rng(seed)
    shape, spacing = tuple(rng.integers(2, 16, 3)), tuple(float(s) for s in rng.uniform(0.3, 4, 3))
    one, other = (ndimage.gaussian_filter(rng.random(shape), rng.uniform(0.1, 1.5)) > 0.5 for _ in range(2))
    one[0, 0, 0] = other[1, 1, 1] = True
    tolerance = float(rng.uniform(0, 4))
    distances = surface_distance.compute_surface_distances(one, other, spacing)
    expected = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)
    assert surface_scores(one, other, spacing, tolerance).nsd == pytest.approx(expected, abs=1e-9)


def test_all_256_areas_agree_with_surface_distance():
    tables = pytest.importorskip("surface_distance.lookup_tables")
    for spacing in ((1.0, 1.0, 1.0), (1.0, 1.37, 2.71), (3.1, 0.7, 1.9)):
        theirs = tables.create_table_neighbour_code_to_surface_area(spacing)
        ours = element_areas_mm2(spacing)
        kernel = tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL
        for code in range(256):
            mask = np.zeros((4, 4, 4), dtype=bool)
            mask[1:3, 1:3, 1:3] = code & kernel != 0
            assert ours[filling_codes(mask)[1, 1, 1]] == pytest.approx(theirs[code], abs=1e-12)


def test_area_of_a_flat_face_and_a_corner():
    areas = element_areas_mm2((2.0, 3.0, 5.0))
    assert areas[0b00001111] == pytest.approx(15.0)  # inside for i = 0: a face of 3 x 5 mm
    # One corner inside: the triangle between the middles of its three edges.
    edges = np.diag([1.0, 1.5, 2.5])
    triangle = np.linalg.norm(np.cross(edges[1] - edges[0], edges[2] - edges[0])) / 2
    assert areas[0b00000001] == pytest.approx(triangle)
    assert areas[0] == areas[255] == 0.0


def test_bad_arguments_are_refused():
    mask = voxel(1, 1, 1)
    with pytest.raises(InputError, match=r"one shape, got \(9, 9, 9\) and \(8, 9, 9\)"):
        surface_scores(mask, mask[1:], (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match=r"expected a positive spacing in mm along each axis, got \(1.0, 0.0, 1.0\)"):
        surface_scores(mask, mask, (1.0, 0.0, 1.0))
    with pytest.raises(ConfigError, match=r"nsd_tolerance_mm: expected a tolerance of 0 mm or more, got -1"):
        surface_scores(mask, mask, (1.0, 1.0, 1.0), -1.0)
