"""The synthetic data sets other than the phantom: properties of each, and of all of them."""

import functools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from masam.cases.folder import load_case, read_dataset
from masam.cases.video import load_video_case
from masam.errors import ConfigError, InputError, ResourceError
from masam.preprocess.orientation import Orientation
from masam.synthetic import instruments, nerves, sites, tumour
from masam.synthetic.instruments import INSTRUMENTS, draw_tools, make_instruments_video
from masam.synthetic.nerves import NERVES, make_nerves_case
from masam.synthetic.scan import STORAGE, plane_waves, scan_points
from masam.synthetic.sets import SYNTHETIC_SETS
from masam.synthetic.sites import SITES, make_site_case, write_sites
from masam.synthetic.tumour import make_tumour_case

VOLUMES = {
    "tumour": make_tumour_case,
    "nerves": make_nerves_case,
    **{f"site {site}": functools.partial(make_site_case, site=site) for site in "AE"},
}


@functools.cache
def case(name, seed, index):
    return VOLUMES[name](seed, index)


def axial(volume):
    """[slices, rows, columns] of a volume, however it is stored."""
    return Orientation.of(volume.geometry, "axial").apply(volume.array)


# All data sets.


@pytest.mark.parametrize("name", VOLUMES)
def test_a_volume_is_a_pure_function_of_seed_and_index(name):
    image, labels = case(name, 3, 2)
    others = case(name, 3, 2 + len(STORAGE)), case(name, 4, 2)
    again, labels_again = VOLUMES[name](3, 2)
    np.testing.assert_array_equal(image.array, again.array)
    np.testing.assert_array_equal(labels.array, labels_again.array)
    np.testing.assert_array_equal(image.geometry.affine, again.geometry.affine)
    for other in others:
        assert (other[1].array != labels.array).mean() > 0.001
    assert (image.array.dtype, labels.array.dtype) == (np.int16, np.uint8)
    assert image.geometry.matches(labels.geometry, image.shape)


@pytest.mark.parametrize("name", [name for name in VOLUMES if name != "nerves"])
def test_volumes_have_different_orientations_and_consistent_affines(name):
    stored, means = set(), []
    for index in (0, 1, 2):
        image, labels = case(name, 3, index)
        stored.add(Orientation.of(image.geometry, "axial").order)
        assert set(np.unique(labels.array)) == {0, 1}
        slices = axial(image).astype(float)
        assert slices.shape[1] == slices.shape[2]
        means.append(slices.mean(axis=0))
    assert len(stored) == 2
    # The same orientation in the patient: mean slices correlate more than after a flip.
    turns = (means[2], means[2][::-1], means[2][:, ::-1])
    same, *flipped = (np.corrcoef(means[0].ravel(), mean.ravel())[0, 1] for mean in turns)
    assert same > np.mean(flipped)


@pytest.mark.parametrize("make", [*VOLUMES.values(), make_instruments_video], ids=[*VOLUMES, "instruments"])
@pytest.mark.parametrize(("seed", "index"), [(-1, 0), (0, -1)])
def test_negative_numbers_are_rejected(make, seed, index):
    with pytest.raises(ConfigError, match=f"expected a seed and an index of 0 or more, got {seed} and {index}"):
        make(seed, index)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), low=st.floats(8, 20), high=st.floats(20, 40))
def test_plane_waves_have_unit_variance_and_bounded_slope(seed, low, high):
    points = scan_points((48, 48, 16), (2.0, 2.0, 4.0))
    waves = plane_waves(points, np.random.default_rng(seed), (low, high))
    assert np.abs(waves).max() <= 4 / math.sqrt(2) + 1e-5
    assert waves.std() == pytest.approx(1, abs=0.35)
    assert np.abs(np.diff(waves, axis=0)).max() <= 4 / math.sqrt(2) * 2 * math.pi / low * 2.0


@pytest.mark.parametrize("name", ["tumour", "nerves", "instruments", "sites"])
def test_every_set_is_written_as_a_data_set_of_its_kind(monkeypatch, tmp_path, name):
    monkeypatch.setattr(sites, "SITES", {"A": SITES["A"], "E": SITES["E"]})
    SYNTHETIC_SETS[name].write(tmp_path, train=1, test=1, seed=3)
    for root in [tmp_path / "A", tmp_path / "E"] if name == "sites" else [tmp_path]:
        dataset = read_dataset(root)
        (train,), (test,) = dataset.training, dataset.test
        assert (train.id[-4:], test.id[-4:]) == ("_000", "_001")
        assert test.label is not None
        if name == "instruments":
            expected = make_instruments_video(3, 0)
            frames, labels = load_video_case(train)
            np.testing.assert_array_equal(frames, expected[0])
            np.testing.assert_array_equal(labels, expected[1])
        else:
            image, labels = load_case(test)
            expected = make_site_case(3, 1, root.name) if name == "sites" else case(name, 3, 1)
            np.testing.assert_array_equal(image.array, expected[0].array)
            np.testing.assert_array_equal(labels.array, expected[1].array)


# Label voxels and mean intensity of one case: the experiments of configs/evidence depend on them.
CHECKSUMS = {
    "tumour": (363, -276.061),
    "nerves": (8112, 220.764),
    "site A": (3884, 488.670),
    "site E": (20217, 742.665),
}


@pytest.mark.parametrize("name", VOLUMES)
def test_cases_stay_the_same_from_version_to_version(name):
    image, labels = case(name, 3, 2)
    count, mean = CHECKSUMS[name]
    assert int(labels.array.sum()) == pytest.approx(count, abs=2)
    assert image.array.mean() == pytest.approx(mean, abs=0.01)


def test_videos_stay_the_same_from_version_to_version():
    frames, labels = make_instruments_video(3, 2)
    assert np.bincount(labels.ravel()).tolist() == pytest.approx([228437, 13783, 3540], abs=5)
    assert frames.mean() == pytest.approx(119.580, abs=0.01)


# The tumour.


@pytest.fixture(scope="module")
def tumours_and_lumps():
    """Four cases, and of each its lumps: whether one is the tumour, voxels, centre in mm."""
    lumps, draw = [], tumour._lump

    def note(points, generator, *, is_tumour):
        solid = draw(points, generator, is_tumour=is_tumour)
        centre = np.unravel_index(np.argmin(points.x**2 + points.y**2 + points.z**2), solid.shape)
        lumps[-1].append((is_tumour, int((solid < 0).sum()), np.array(centre) * tumour.STEP_MM))
        return solid

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tumour, "_lump", note)
        cases = [make_tumour_case(11, index) for index in range(4) if not lumps.append([])]
    return cases, lumps


@pytest.fixture
def tumours(tumours_and_lumps):
    return tumours_and_lumps[0]


def test_a_case_has_one_tumour_completely_inside_the_scan(tumours):
    for _, labels in tumours:
        slices = axial(labels)
        parts, count = ndimage.label(slices, structure=np.ones((3, 3, 3)))
        assert np.bincount(parts.ravel())[1:].max() > 0.9 * slices.sum(), count
        assert not slices[[0, -1]].any()
        volume_ml = slices.sum() * math.prod(tumour.STEP_MM) / 1000
        assert 1 < volume_ml < 20


def test_the_tumour_is_slightly_darker_than_its_surroundings(tumours):
    for image, labels in tumours:
        hu, inside = axial(image).astype(float), axial(labels) > 0
        shell = ndimage.binary_dilation(inside, iterations=3) & ~ndimage.binary_dilation(inside)
        liver = hu[shell & (hu > 40) & (hu < 180)]
        contrast = np.median(liver) - hu[ndimage.binary_erosion(inside) if inside.sum() > 300 else inside].mean()
        assert 8 < contrast < 50
        # Of the order of the noise: a single voxel is not enough.
        assert contrast < 4 * liver.std()


def test_other_lumps_have_the_tumours_size_and_lie_apart(tumours_and_lumps):
    _, drawn = tumours_and_lumps
    for lumps in drawn:
        assert sum(is_tumour for is_tumour, _, _ in lumps) == 1
        assert len(lumps) >= 5
        centres = [centre for _, _, centre in lumps]
        gaps = [np.linalg.norm(a - b) for n, a in enumerate(centres) for b in centres[:n]]
        assert min(gaps) > tumour.MIN_GAP_MM - 4
    sizes = {kind: [size for lumps in drawn for k, size, _ in lumps if k == kind] for kind in (True, False)}
    assert np.mean(sizes[True]) == pytest.approx(np.mean(sizes[False]), rel=0.35)
    # Any lump of the liver may be the tumour.
    assert len({[k for k, _, _ in lumps].index(True) for lumps in drawn}) > 1


# The sites.


@pytest.mark.parametrize("count", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_sites_differ_in_grid_and_contrast_and_not_in_anatomy(count):
    spacings, ratios, volumes = set(), [], []
    for site, how in SITES.items():
        cases = [make_site_case(1, index, site) for index in range(count)]
        ml = []
        for image, labels in cases:
            slices, gland = axial(image).astype(float), axial(labels) > 0
            assert slices.shape == (how.slices, how.matrix, how.matrix)
            spacing = sorted(round(mm, 3) for mm in image.geometry.spacing_mm)
            assert spacing == sorted([how.pixel_mm, how.pixel_mm, how.slice_mm])
            ml.append(gland.sum() * how.pixel_mm**2 * how.slice_mm / 1000)
            assert ndimage.label(gland)[1] == 1
            assert gland[[0, -1]].sum() < 0.02 * gland.sum()
        spacings.add(tuple(spacing))
        volumes.append(np.mean(ml))
        ratios.append(slices[gland].mean() / slices.mean())
    assert len(spacings) == 6
    assert all(15 < ml < 80 for ml in volumes)
    assert max(ratios) / min(ratios) > 1.3


def test_patients_differ_from_site_to_site():
    first, other = (axial(make_site_case(0, 0, site)[1]).sum(axis=0) for site in ("A", "D"))
    assert (first > 0).sum() != (other > 0).sum()


def test_an_unknown_site_is_rejected():
    with pytest.raises(ConfigError, match="site: expected a site of A, B, C, D, E, F, got 'G'"):
        make_site_case(0, 0, "G")


def test_a_folder_of_other_cases_is_rejected(tmp_path):
    NERVES.write(tmp_path / "A", train=1, test=0)
    with pytest.raises(InputError, match="expected a new folder or one with this data set, found 2 other files"):
        write_sites(tmp_path, train=1, test=0)


# The nerves.


def matched(slices):
    """Brightness at the scale of a nerve."""
    return ndimage.gaussian_filter(slices, (0, 2.5, 2.5))


def separation(values, inside, muscle):
    """Contrast of nerve and muscle relative to the standard deviation of muscle."""
    return (values[inside].mean() - values[muscle].mean()) / values[muscle].std()


def test_five_slices_show_the_nerves_and_one_does_not():
    for index in range(3):
        image, labels = make_nerves_case(6, index)
        slices, inside = axial(image).astype(float), axial(labels) > 0
        assert ndimage.label(inside)[1] == nerves.NUM_NERVES
        rows, columns = np.mgrid[:128, :128] - 63.5
        reach = np.hypot(rows, columns) * nerves.STEP_MM[0]
        muscle = ~ndimage.binary_dilation(inside, iterations=4) & (reach > 26) & (reach < 48)
        one = separation(matched(slices), inside, muscle)
        five = separation(matched(ndimage.uniform_filter1d(slices, 5, axis=0)), inside, muscle)
        assert one < 1.7
        assert five > 1.6 * one


# The instruments.


def test_a_video_is_a_pure_function_of_seed_and_index():
    frames, labels = make_instruments_video(3, 2)
    again, labels_again = make_instruments_video(3, 2)
    np.testing.assert_array_equal(frames, again)
    np.testing.assert_array_equal(labels, labels_again)
    assert frames.shape == (instruments.FRAMES, instruments.ROWS, instruments.COLUMNS, 3)
    assert (labels != make_instruments_video(3, 3)[1]).mean() > 0.02
    assert set(np.unique(labels)) == {0, 1, 2}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_tool_moves_slowly_in_every_frame(seed):
    for tool in draw_tools(np.random.default_rng(seed)):
        tips = np.stack([tool.length * np.sin(tool.angle), tool.length * np.cos(tool.angle)])
        # Over two steps, as a turn may fall within one.
        way = np.linalg.norm(np.diff(tips), axis=0)
        assert (way[1:] + way[:-1]).min() > 0.4
        assert way.max() < 2 * instruments.STEP_PX[1]


def test_smoke_hides_parts_of_each_frame_which_the_next_one_shows():
    frames, labels = make_instruments_video(8, 1)
    # Smoke is grey; tissue is red, and tools are bright along a line.
    red = frames[..., 0].astype(int) - frames[..., 2]
    hidden = (red < 12) & (labels == 0)
    share = hidden.sum(axis=(1, 2)) / (labels == 0).sum(axis=(1, 2))
    assert (share > 0.5 * instruments.SMOKE_SHARE).all()
    both = (hidden[1:] & hidden[:-1]).sum() / hidden[:-1].sum()
    assert both == pytest.approx(share.mean(), abs=0.12), "smoke is independent between frames"


def test_other_videos_and_files_are_rejected(tmp_path):
    INSTRUMENTS.write(tmp_path / "set", train=1, test=1)
    before = json.loads((tmp_path / "set/dataset.json").read_text())
    assert (before["numTraining"], before["file_ending"]) == (1, ".png")
    INSTRUMENTS.write(tmp_path / "set", train=1, test=1)
    with pytest.raises(InputError, match=r"with this data set, found 2 other videos, first .*Ts/instruments_001"):
        INSTRUMENTS.write(tmp_path / "set", train=2, test=0)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ResourceError, match=r"expected a writable folder \(File exists\)"):
        INSTRUMENTS.write(tmp_path / "file", train=1, test=0)
    with pytest.raises(ConfigError, match=r"expected 1 training case or more .* got 0 and 1"):
        INSTRUMENTS.write(tmp_path / "new", train=0, test=1)
    assert not (tmp_path / "new").exists()
