import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from masam.errors import ConfigError
from masam.labels import LabelScheme
from masam.preprocess.fingerprint import fingerprint
from masam.preprocess.intensity import Percentiles, Rgb, Window
from masam.preprocess.plan import PRESETS, Plan, make_plan, make_video_plan, modality_of
from masam.volume import Geometry, Volume

SCHEME = LabelScheme.from_mapping({"background": 0, "liver": 1, "ignore": 2})


def pair(shape=(40, 50, 12), spacing_mm=(0.8, 0.8, 5.0), liver=(50, 150)):
    array = np.full(shape, -1000, np.int16)
    labels = np.zeros(shape, np.uint8)
    inside = (slice(10, 30), slice(10, 30), slice(2, 10))
    array[inside] = np.linspace(*liver, 20 * 20 * 8).reshape(20, 20, 8)
    labels[inside] = 1
    labels[0, 0, 0] = 2
    geometry = Geometry(np.diag([*spacing_mm, 1.0]))
    return Volume(array, geometry), Volume(labels, geometry)


def plan_of(*pairs, **options):
    found = fingerprint(pairs, ignore_value=2)
    return make_plan(found, **{"name": "livers", "channel_names": ("CT",), "labels": SCHEME} | options)


def test_ct_gets_a_window_from_what_is_inside_the_labels():
    plan = plan_of(pair(), pair(liver=(60, 160)))
    assert isinstance(plan.intensity, Window)
    assert (plan.intensity.low, plan.intensity.high) == pytest.approx((51, 159), abs=1)
    assert plan.intensity.low == int(plan.intensity.low)
    assert (plan.modality, plan.slice_axis, plan.window, plan.window_minmax) == ("CT", "axial", 5, False)


def test_without_labels_the_window_comes_from_all_voxels_and_is_never_empty():
    image, _ = pair()
    assert fingerprint([(image, None)]).foreground_percentiles is None
    assert plan_of((image, None)).intensity.low == -1000
    constant = image.with_array(np.zeros(image.shape, np.int16))
    assert plan_of((constant, None)).intensity == Window(low=0, high=1)


def test_mr_gets_percentiles_of_each_volume():
    assert plan_of(pair(), channel_names=("T2",)).intensity == Percentiles(low=0.5, high=99.5)


@pytest.mark.parametrize(
    ("sides", "expected"), [([50], 64), ([64], 64), ([65], 96), ([100, 300, 310], 320), ([1024], 512)]
)
def test_image_size_is_the_median_rounded_up_to_32_and_at_most_512(sides, expected):
    volumes = [(Volume(np.zeros((side, 20, 4), np.int16), Geometry(np.diag([1, 1, 5.0, 1]))), None) for side in sides]
    assert plan_of(*volumes).image_size == expected


def test_scans_with_wide_black_borders_are_cropped_and_need_fewer_pixels():
    plan = plan_of(pair(shape=(80, 100, 12)))
    # Twenty pixels of content; with the aspect ratio of an 80 x 100 slice: 20 x 25.
    assert (plan.crop, plan.image_size) == ("content", 32)
    assert plan.preprocessing.prepare(pair(shape=(80, 100, 12))[0]).native_size == (25, 20)
    whole = plan_of(pair(shape=(80, 100, 12)), crop="none")
    assert (whole.crop, whole.image_size, whole.preprocessing.crop) == ("none", 128, "none")


@pytest.mark.parametrize(("border", "crop"), [(0, "none"), (6, "none"), (8, "content")])
def test_a_crop_must_show_slices_clearly_larger(border, crop):
    # 100 pixels in all: 88 of content are shown 1.14 times as large, 84 are 1.19 times.
    array = np.zeros((100, 100, 4), np.int16)
    array[border : 100 - border, border : 100 - border] = 50
    array[50, 50] = 0  # or a scan without a border would be constant
    image = Volume(array, Geometry(np.diag([1, 1, 5.0, 1])))
    assert plan_of((image, None)).crop == crop


def test_presets_and_overrides_are_not_cropped_by_default():
    assert plan_of(pair()).crop == "content"
    for options in ({"preset": "paper-ct"}, {"intensity": Window(low=0, high=100)}):
        assert plan_of(pair(), **options).crop == "none"
    with pytest.raises(ConfigError, match="expected crop none for video, got content"):
        make_video_plan(name="scenes", labels=SCHEME, crop="content")


def test_most_votes_decide_the_slice_axis_and_axial_wins_a_tie():
    axial, sagittal = pair(), pair(spacing_mm=(4.0, 0.8, 0.8))
    assert plan_of(axial, sagittal, sagittal).slice_axis == "sagittal"
    assert plan_of(axial, sagittal).slice_axis == "axial"


@pytest.mark.parametrize(
    ("preset", "modality", "rule"),
    [
        ("paper-ct", "CT", Window(low=-200, high=250)),
        ("paper-mr", "MR", Percentiles(low=0, high=99)),
        ("paper-tumor", "CT", Window(low=-50, high=200)),
    ],
)
def test_presets_are_the_papers(preset, modality, rule):
    plan = plan_of(pair(), channel_names=("whatever",), preset=preset)
    assert (plan.modality, plan.intensity) == (modality, rule)
    assert (plan.window_minmax, plan.image_size, plan.window) == (True, 512, 5)
    assert set(PRESETS) == {"paper-ct", "paper-mr", "paper-tumor", "paper-video"}


def test_overrides_replace_preset_and_fingerprint():
    plan = plan_of(pair(), preset="paper-ct", image_size=256, window=3, intensity=Percentiles())
    assert (plan.image_size, plan.window, plan.intensity) == (256, 3, Percentiles())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "paper-tumour"}, "preset: expected one of paper-ct, .*did you mean 'paper-tumor'"),
        ({"image_size": 100}, "plan: image_size: expected a multiple of 16, got 100"),
        ({"image_sise": 96}, "did you mean 'image_size'"),
        ({"slice_axis": "diagonal"}, "slice_axis: expected one of axial, coronal, sagittal, stored, got 'diagonal'"),
        ({"modality": "PET"}, "plan: modality: expected 'CT', 'MR', 'video' or 'other', got 'PET'"),
        ({"window": 0}, "window: expected greater than or equal to 1, got 0"),
    ],
)
def test_wrong_decisions_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        plan_of(pair(), **options)


@given(
    low=st.floats(-2000, 0), high=st.floats(1, 3000), minmax=st.booleans(), window=st.integers(1, 9),
    slice_axis=st.sampled_from(["axial", "coronal", "sagittal"]), name=st.sampled_from(["a", "no", "1e5", "Leber ä"]),
)  # fmt: skip
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_yaml_round_trip(tmp_path, low, high, minmax, window, slice_axis, name):
    plan = Plan(
        name=name, modality="CT", slice_axis=slice_axis, intensity=Window(low=low, high=high), window_minmax=minmax,
        window=window, image_size=512, labels=SCHEME.to_mapping(),
    )  # fmt: skip
    path = tmp_path / "plan.yaml"
    plan.to_yaml(path)
    again = Plan.from_yaml(path)
    assert again == plan
    assert again.scheme == SCHEME
    assert again.preprocessing == plan.preprocessing
    assert again.preprocessing.image_size == 512


def test_every_field_has_a_description():
    assert all(field.description for model in (Plan, Window, Percentiles) for field in model.model_fields.values())


def test_bad_labels_and_intensity_name_their_key(tmp_path):
    path = tmp_path / "plan.yaml"
    text = plan_of(pair()).dump_yaml()
    path.write_text(text.replace("liver: 1", "liver: 0"))
    with pytest.raises(ConfigError, match=r"plan.yaml: labels: value 0 is assigned to both 'background' and 'liver'"):
        Plan.from_yaml(path)
    path.write_text(text.replace("high: ", "hihg: "))
    with pytest.raises(ConfigError, match=r"intensity.hihg: unknown key; did you mean 'high'\?"):
        Plan.from_yaml(path)


@pytest.mark.parametrize(
    ("name", "modality"),
    [("CT", "CT"), (" ct ", "CT"), ("T2", "MR"), ("FLAIR", "MR"), ("noNorm", "other"), ("CTA2", "other")],
)
def test_modality_comes_from_the_channel_name(name, modality):
    assert modality_of((name,)) == modality


def test_modality_of_several_channels():
    assert modality_of(("T1", "FLAIR")) == "MR"
    assert modality_of(("CT", "PET")) == "other"
    assert plan_of(pair(), channel_names=("T1", "T2")).channels == ("T1", "T2")


def test_a_plan_is_read_without_torch():
    code = "import sys, masam.preprocess.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_video_plan_equals_its_preset():
    labels = LabelScheme.from_mapping({"background": 0, "shaft": 1})
    plan = make_video_plan(name="endo", labels=labels)
    assert (plan.modality, plan.intensity, plan.window_minmax) == ("video", Rgb(normalisation="unit"), True)
    assert (plan.window, plan.image_size, plan.labels) == (5, 512, {"background": 0, "shaft": 1})
    assert make_video_plan(name="endo", labels=labels, preset="paper-video", image_size=64).image_size == 64
    sam = make_video_plan(name="endo", labels=labels, intensity=Rgb(normalisation="sam"), window_minmax=False)
    assert sam.frame_preparation.intensity.normalisation == "sam"


def test_plans_of_video_and_of_volumes_are_not_mixed():
    labels = LabelScheme.from_mapping({"background": 0, "shaft": 1})
    with pytest.raises(ConfigError, match="preset: 'paper-ct' is for volumes, the data set contains videos"):
        make_video_plan(name="endo", labels=labels, preset="paper-ct")
    with pytest.raises(ConfigError, match="preset: 'paper-video' is for videos, the data set contains volumes"):
        plan_of(pair(), preset="paper-video")
    with pytest.raises(ConfigError, match="modality video and intensity of kind rgb together, got CT and rgb"):
        plan_of(pair(), intensity=Rgb())
    with pytest.raises(ConfigError, match="kind rgb together, got video and window"):
        make_video_plan(name="endo", labels=labels, intensity=Window(low=0, high=1))
    with pytest.raises(ConfigError, match="window_minmax reverts the normalisation sam"):
        make_video_plan(name="endo", labels=labels, intensity=Rgb(normalisation="sam"))
    with pytest.raises(ConfigError, match="expected a plan for video, got one for CT volumes"):
        _ = plan_of(pair()).frame_preparation
