import json
import math
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from masam.cases.folder import load_case, read_dataset
from masam.errors import ConfigError, InputError, ResourceError
from masam.io.nifti.file import read_volume
from masam.reproducibility import sample_generator
from masam.synthetic.phantom import DEFAULT_SHAPE, LABELS, SLICE_MM, make_phantom_case, write_phantom
from masam.synthetic.phantom_loops import BED_CENTRE_MM, BED_RADII_MM, MIN_GAP_MM, draw_courses
from masam.synthetic.scan import STORAGE
from masam.synthetic.solids import Canvas, Points, blend, cut_out, ellipsoid, periodic

SMALL = (96, 96, 24)


@pytest.fixture(scope="module")
def cases():
    """One case of each orientation."""
    return [make_phantom_case(7, index) for index in range(len(STORAGE))]


def positions_ras(volume, mask):
    """Centre of a mask in the RAS frame."""
    affine = volume.geometry.affine
    return affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3]


def centre_of(labels, name):
    return positions_ras(labels, labels.array == LABELS[name])


def test_a_case_is_a_pure_function_of_seed_and_index():
    image, labels = make_phantom_case(3, 2, SMALL)
    make_phantom_case(9, 9, SMALL)
    again, labels_again = make_phantom_case(3, 2, SMALL)
    np.testing.assert_array_equal(image.array, again.array)
    np.testing.assert_array_equal(labels.array, labels_again.array)
    np.testing.assert_array_equal(image.geometry.affine, again.geometry.affine)
    for other in (make_phantom_case(3, 8, SMALL), make_phantom_case(4, 2, SMALL)):
        assert (other[1].array != labels.array).mean() > 0.02
    # Also from version to version: the experiments of configs/evidence depend on these cases.
    counts = np.bincount(labels.array.ravel()).tolist()
    assert counts == pytest.approx([203479, 9062, 896, 4734, 671, 1175, 433, 734], abs=2)
    assert image.array.mean() == pytest.approx(-531.880, abs=0.01)


def test_types_and_grid(cases):
    for image, labels in cases:
        assert image.array.dtype == np.int16
        assert labels.array.dtype == np.uint8
        assert image.shape == labels.shape
        assert sorted(image.shape) == sorted(DEFAULT_SHAPE)
        assert sorted(image.geometry.spacing_mm) == pytest.approx([2.5, 2.5, 5.0])
        assert image.geometry.matches(labels.geometry, image.shape)
        assert image.geometry.spacing_mm[image.shape.index(32)] == pytest.approx(SLICE_MM)


def test_cases_are_stored_in_their_orientations(cases):
    for (image, _), (letters, tilt) in zip(cases, STORAGE, strict=True):
        affine = image.geometry.affine
        assert "".join(nibabel.orientations.aff2axcodes(affine)) == letters
        directions = affine[:3, :3] / np.array(image.geometry.spacing_mm)
        # Angle of the slice normal with the patient's long axis.
        normal = directions[:, image.shape.index(32)]
        assert math.degrees(math.acos(min(1.0, abs(normal[2])))) == pytest.approx(abs(tilt), abs=1e-4)
        assert np.abs(affine[:3, 3]).max() > 50
    assert len({letters for letters, _ in STORAGE}) >= 4


@pytest.mark.parametrize("more", [0, pytest.param(12, marks=pytest.mark.slow)])
def test_every_class_is_in_every_case(cases, more):
    smallest = dict.fromkeys(LABELS, 10**9)
    for _, labels in [*cases, *(make_phantom_case(0, index, SMALL) for index in range(more))]:
        counts = np.bincount(labels.array.ravel(), minlength=len(LABELS))
        assert len(counts) == len(LABELS)
        millilitres = counts * np.prod(labels.geometry.spacing_mm) / 1000
        smallest = {name: min(smallest[name], millilitres[value]) for name, value in LABELS.items()}
    # Lower limits of the volume in the field of view, in ml.
    for name, bound in {
        "liver": 400,
        "spleen": 25,
        "kidney": 150,
        "aorta": 25,
        "pancreas": 20,
        "gallbladder": 5,
    }.items():
        assert smallest[name] > bound, name
    assert smallest["duodenum"] > 5
    assert sorted(LABELS.values()) == list(range(8))


def test_organs_lie_where_they_belong_by_the_affine(cases):
    for image, labels in cases:
        body = positions_ras(image, image.array > -300)
        liver, spleen, aorta, gallbladder = (centre_of(labels, n) for n in ("liver", "spleen", "aorta", "gallbladder"))
        # RAS: the first coordinate grows to the right, the second to the front, the third to the head.
        assert liver[0] > body[0] + 25
        assert spleen[0] < body[0] - 40
        assert aorta[0] < liver[0]
        assert gallbladder[1] > body[1] + 15
        assert spleen[1] < gallbladder[1]
        assert liver[2] > centre_of(labels, "kidney")[2]
        bone = positions_ras(image, image.array > 330)
        assert bone[1] < aorta[1]
        assert abs(bone[0] - body[0]) < 15


def test_tissues_attenuate_as_they_do(cases):
    hu = {name: [] for name in LABELS}
    for image, labels in cases:
        for name, value in LABELS.items():
            hu[name].append(float(np.median(image.array[labels.array == value])))
        assert image.array.min() >= -1024
        assert np.median(image.array) < -80  # air and fat fill half of the field
        assert np.count_nonzero(image.array > 330) > 500  # bone
        assert np.percentile(image.array, 2) < -950  # air, not padding
    for name, low, high in [
        ("liver", 90, 120), ("spleen", 105, 140), ("kidney", 120, 210), ("aorta", 150, 225),
        ("pancreas", 50, 95), ("gallbladder", -5, 30), ("duodenum", 25, 80),
    ]:  # fmt: skip
        assert low < min(hu[name]), name
        assert max(hu[name]) < high, name


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32), index=st.integers(0, 500))
def test_every_seed_gives_a_complete_case(seed, index):
    image, labels = make_phantom_case(seed, index, (64, 64, 20))
    assert set(np.unique(labels.array)) == set(LABELS.values())
    assert image.array.std() > 100


@pytest.mark.parametrize("shape", [(63, 64, 24), (128, 32, 24), (128, 128, 15), (128, 128, 37)])
def test_a_wrong_shape_is_rejected(shape):
    with pytest.raises(ConfigError, match=r"shape: expected a phantom of at least 64 x 64 voxels and 16 to 36 slices"):
        make_phantom_case(0, 0, shape)


def test_a_negative_seed_or_index_is_rejected():
    with pytest.raises(ConfigError, match="seed and an index of 0 or more, got -1 and 0"):
        make_phantom_case(-1, 0)
    with pytest.raises(ConfigError, match="got 0 and -2"):
        make_phantom_case(0, -2)


# The duodenum: one slice must not distinguish it from a loop, five slices must.


def pair_of_each_slice(courses, generator):
    """Features of one section of the duodenum and one of a loop, for each slice that shows both."""
    distances = np.linalg.norm(courses.centres_mm[:, None] - courses.centres_mm[None], axis=-1)
    pairs = []
    for k in range(courses.visible.shape[1]):
        visible = np.flatnonzero(courses.visible[:, k])
        duodena, loops = visible[courses.is_duodenum[visible]], visible[~courses.is_duodenum[visible]]
        if len(loops) == 0:
            continue
        pair = []
        for n in (generator.choice(duodena), generator.choice(loops)):
            x, y = (courses.centres_mm[n, k] - BED_CENTRE_MM) / BED_RADII_MM
            nearest = np.sort(distances[n, visible, k])[1]
            pair.append([math.pi * courses.radii_mm[n, k].prod(), x, y, math.hypot(x, y), courses.angles[n], nearest])
        pairs.append(pair)
    return pairs


def auc(score, positive):
    """Probability that a duodenum scores higher than a loop (ties count half)."""
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives, negatives = positive.sum(), (~positive).sum()
    return (ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives)


# Sections of one course are similar, so the tolerance is that of so many cases with one duodenum each.
@pytest.fixture(scope="module", params=[(80, 0.13), pytest.param((900, 0.04), marks=pytest.mark.slow)], ids=str)
def pairs_and_tolerance(request):
    generator = np.random.default_rng(0)
    count, tolerance = request.param
    drawn = [pair_of_each_slice(draw_courses(sample_generator(1, i), 32), generator) for i in range(count)]
    return np.concatenate(drawn), tolerance


@pytest.mark.parametrize("feature", range(6), ids=["area", "x", "y", "radius", "angle", "nearest"])
def test_no_feature_of_a_section_distinguishes_duodenum_and_loops(pairs_and_tolerance, feature):
    pairs, tolerance = pairs_and_tolerance
    duodena, loops = pairs[:, 0, feature], pairs[:, 1, feature]
    values, is_duodenum = np.concatenate([duodena, loops]), np.repeat([True, False], len(duodena))
    assert auc(values, is_duodenum) == pytest.approx(0.5, abs=tolerance)
    # Not only the mean: the entire distribution, decile by decile.
    edges = np.quantile(values, np.linspace(0.1, 0.9, 9))
    counts = [np.bincount(np.digitize(group, edges), minlength=10) for group in (duodena, loops)]
    np.testing.assert_allclose(counts[0] / len(duodena), counts[1] / len(loops), atol=tolerance)


def test_each_slice_shows_duodena_among_several_loops():
    for index in range(20):
        courses = draw_courses(sample_generator(2, index), 32)
        assert courses.is_duodenum.sum() == 1
        assert courses.visible[courses.is_duodenum].all()
        loops_a_slice = courses.visible[~courses.is_duodenum].sum(axis=0)
        assert loops_a_slice.mean() > 1.5
        distances = np.linalg.norm(courses.centres_mm[:, None] - courses.centres_mm[None], axis=-1)
        assert distances[~np.eye(len(distances), dtype=bool)].min() >= MIN_GAP_MM > 2 * courses.radii_mm.max()
        # Slow: less than a voxel from slice to slice; and yet a duodenum covers a distance.
        steps = np.linalg.norm(np.diff(courses.centres_mm, axis=1), axis=-1)
        assert steps.max() < 2.5
        assert np.median(np.ptp(courses.centres_mm, axis=1).max(axis=-1)) > 5


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**63), depth=st.integers(16, 36))
def test_a_window_of_five_slices_distinguishes_them(seed, depth):
    courses = draw_courses(sample_generator(seed, 0), depth)
    for k in range(depth):
        window = courses.visible[:, max(0, k - 2) : min(depth, k + 3)]
        np.testing.assert_array_equal(window.all(axis=1), courses.is_duodenum)


def measured_sections(seed):
    """Features of each round island in the bed, on its slice and through five slices."""
    image, labels = make_phantom_case(seed, 1)
    assert STORAGE[1] == ("RAS", 0.0)  # the array's axes run right, front, head
    hu, duodenum = image.array.astype(float), labels.array == LABELS["duodenum"]
    smooth = ndimage.gaussian_filter(hu, (0.5, 0.5, 0))
    rows = []
    for k in range(2, hu.shape[2] - 2):
        islands, count = ndimage.label(smooth[:, :, k] > -30)
        for number in range(1, count + 1):
            mask = islands == number
            x, y = np.argwhere(mask).mean(axis=0)
            if not (35 <= mask.sum() <= 90 and 44 < x < 84 and 64 < y < 84):
                continue
            values, ring = hu[:, :, k][mask], hu[:, :, k][ndimage.binary_dilation(mask, iterations=2) & ~mask]
            near = ndimage.binary_dilation(mask, iterations=1)
            through = min(smooth[:, :, k + step][near].max() for step in range(-2, 3))
            is_duodenum = duodenum[:, :, k][mask].mean() > 0.5
            contrast = values.mean() - ring.mean()
            rows.append([values.mean(), values.max(), mask.sum(), contrast, x, y, through, is_duodenum])
    return np.array(rows)


def test_five_slices_of_an_image_show_the_duodenum_and_its_intensity_does_not():
    rows = np.concatenate([measured_sections(seed) for seed in range(3)])
    is_duodenum = rows[:, -1] > 0.5
    assert min(is_duodenum.sum(), (~is_duodenum).sum()) > 25
    for feature, name in enumerate(["mean HU", "peak HU", "area", "contrast"]):
        assert 0.2 < auc(rows[:, feature], is_duodenum) < 0.8, name
    assert auc(rows[:, -2], is_duodenum) > 0.95


@pytest.mark.slow
def test_one_slice_of_an_image_does_not_show_the_duodenum_and_five_do():
    # One duodenum per case, so 24 draws: two standard deviations of an AUC are 0.14. The test of the courses above
    # has 900 cases.
    cases = [measured_sections(seed) for seed in range(24)]
    rows = np.concatenate(cases)
    is_duodenum = rows[:, -1] > 0.5
    assert is_duodenum.sum() > 200
    assert (~is_duodenum).sum() > 200
    for feature, name in enumerate(["mean HU", "peak HU", "area", "contrast", "x", "y"]):
        assert auc(rows[:, feature], is_duodenum) == pytest.approx(0.5, abs=0.15), name
    # Standardised difference of the most visible features.
    for feature in (0, 1, 2):
        duodena, loops = rows[is_duodenum, feature], rows[~is_duodenum, feature]
        assert abs(duodena.mean() - loops.mean()) < 0.5 * rows[:, feature].std()
    # Nor do they jointly: a linear fit (with squares) on half of the cases, tested on the other half.
    design = np.column_stack([np.ones(len(rows)), scaled := (rows - rows.mean(0))[:, :6] / rows.std(0)[:6], scaled**2])
    half = sum(len(case) for case in cases[:12])
    weights = np.linalg.lstsq(design[:half], is_duodenum[:half].astype(float))[0]
    assert auc(design[half:] @ weights, is_duodenum[half:]) < 0.7
    assert auc(rows[:, -2], is_duodenum) > 0.95


# The folder.


def test_the_folder_is_read_back_with_its_geometry(tmp_path):
    root = write_phantom(tmp_path / "phantom", train=2, test=1, seed=5, shape=(64, 64, 16))
    content = json.loads((root / "dataset.json").read_text())
    assert content["channel_names"] == {"0": "CT"}
    assert content["labels"] == LABELS
    assert content["numTraining"] == 2
    assert content["file_ending"] == ".nii.gz"
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*.nii.gz"))
    assert names == [
        "imagesTr/phantom_000_0000.nii.gz", "imagesTr/phantom_001_0000.nii.gz", "imagesTs/phantom_002_0000.nii.gz",
        "labelsTr/phantom_000.nii.gz", "labelsTr/phantom_001.nii.gz", "labelsTs/phantom_002.nii.gz",
    ]  # fmt: skip
    image, labels = make_phantom_case(5, 2, (64, 64, 16))
    stored = nibabel.load(root / "imagesTs" / "phantom_002_0000.nii.gz")
    np.testing.assert_array_equal(np.asarray(stored.dataobj), image.array)
    np.testing.assert_allclose(stored.affine, image.geometry.affine, rtol=1e-6, atol=1e-4)
    np.testing.assert_array_equal(read_volume(root / "labelsTs" / "phantom_002.nii.gz").array, labels.array)


def test_the_folder_is_readable_as_a_data_set(tmp_path):
    root = write_phantom(tmp_path, train=2, test=1, shape=(64, 64, 16))
    folder = read_dataset(root)
    assert [case.id for case in folder.training] == ["phantom_000", "phantom_001"]
    assert [case.id for case in folder.test] == ["phantom_002"]
    assert folder.test[0].label is not None
    assert folder.labels.to_mapping() == LABELS
    assert len(load_case(folder.training[0])) == 2


def test_writing_again_is_harmless_and_foreign_cases_are_rejected(tmp_path):
    write_phantom(tmp_path, train=1, test=1, shape=(64, 64, 16))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    write_phantom(tmp_path, train=1, test=1, shape=(64, 64, 16))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    # The second case is now a training case, so its old files would leak it into the test set.
    with pytest.raises(
        InputError, match=r"expected a new folder or one with this data set, found 2 other files, first .*Ts"
    ):
        write_phantom(tmp_path, train=2, test=0, shape=(64, 64, 16))
    assert (tmp_path / "dataset.json").exists()


@pytest.mark.parametrize(("train", "test"), [(0, 1), (1, -1)])
def test_a_data_set_of_no_cases_is_rejected(tmp_path, train, test):
    with pytest.raises(ConfigError, match=f"expected 1 training case or more .* got {train} and {test}"):
        write_phantom(tmp_path / "x", train=train, test=test)
    assert not (tmp_path / "x").exists()


def test_a_root_that_is_a_file_is_rejected(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ResourceError, match=r"file: expected a writable folder \(File exists\)"):
        write_phantom(tmp_path / "file", train=1, test=0, shape=(64, 64, 16))
    assert (tmp_path / "file").read_text() == "mine"


def test_importing_the_phantom_loads_no_torch():
    code = "import sys, masam.synthetic.phantom; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Solids and canvas.


def grid(n=41, reach=20.0):
    axis = np.linspace(-reach, reach, n, dtype=np.float32)
    return Points(*np.meshgrid(axis, axis, axis, indexing="ij"))


@settings(max_examples=25, deadline=None)
@given(radii=st.tuples(*[st.floats(4, 15)] * 3))
def test_an_ellipsoid_has_its_volume_and_its_distance(radii):
    points = grid()
    distance = ellipsoid(points, radii)
    volume = np.count_nonzero(distance < 0)
    # Counting voxels of 1 mm in radii of 4 mm has an error of up to 9 %.
    assert volume == pytest.approx(4 / 3 * math.pi * math.prod(radii), rel=0.1)
    along = distance[20:, 20, 20]
    surface = np.interp(0, along, points.x[20:, 20, 20])
    assert surface == pytest.approx(radii[0], abs=0.1)


def test_a_painted_ball_has_soft_edges_and_the_label_of_its_half():
    canvas = Canvas.filled((41, 41, 41), 0.0, edge_mm=3.0)
    ball = ellipsoid(grid(), (10.0, 10.0, 10.0))
    canvas.paint(ball, 100.0, 4)
    np.testing.assert_array_equal(canvas.labels == 4, canvas.image > 50)
    profile = canvas.image[20:, 20, 20]
    assert profile[0] == 100
    assert profile[-1] == 0
    assert (np.diff(profile) <= 0).all()
    assert np.count_nonzero((profile > 0) & (profile < 100)) in (2, 3, 4)
    canvas.paint(ball + 5, 200.0, None)
    assert canvas.image[20, 20, 20] == 200
    assert canvas.labels[20, 20, 20] == 4


@settings(max_examples=50, deadline=None)
@given(a=st.floats(-20, 20), b=st.floats(-20, 20), width=st.floats(1, 10))
def test_a_blend_is_never_smaller_than_the_union_and_a_cut_never_larger(a, b, width):
    first, second = np.float32([a]), np.float32([b])
    union = float(blend(first, second, width)[0])
    assert min(a, b) - width / 4 - 1e-4 <= union <= min(a, b) + 1e-4
    assert float(cut_out(first, second, width)[0]) >= max(a, -b) - 1e-4


@settings(max_examples=50, deadline=None)
@given(position=st.floats(-500, 500), pitch=st.floats(5, 50))
def test_periodic_places_repeat(position, pitch):
    offset = periodic(np.float32([position, position + pitch]), pitch)
    assert (np.abs(offset) <= pitch / 2 + 1e-2).all()
    assert math.cos(2 * math.pi * (offset[0] - offset[1]) / pitch) == pytest.approx(1, abs=1e-3)
