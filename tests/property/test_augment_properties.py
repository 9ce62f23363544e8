import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from masam.augment import AugmentSettings, augment, augment_window
from masam.reproducibility import sample_generator

EVERYTHING = AugmentSettings(
    turn_probability=0.5, shear_probability=0.5, elastic_probability=0.5, erase_probability=0.5,
    posterize_probability=0.5, sharpness_probability=0.5, blur_probability=0.5, low_resolution_probability=0.5,
    shading_probability=0.5, brightness=(0.5, 1.5), picks=3,
)  # fmt: skip

indices = st.integers(0, 2**40)
probabilities = st.sampled_from([0.0, 0.3, 1.0])
sizes = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(4, 24), st.integers(4, 24))
any_settings = st.builds(
    AugmentSettings,
    preset=st.sampled_from(["default", "paper", "none"]),
    interpolation=st.sampled_from(["linear", "cubic"]),
    outside=st.sampled_from(["ignore", "background"]),
    erase_label=st.sampled_from(["ignore", "background"]),
    picks=st.integers(0, 10),
    **{name: probabilities for name in AugmentSettings.model_fields if name.endswith("_probability")},
)


@st.composite
def windows(draw, shapes=sizes):
    s, c, h, w = draw(shapes)
    images = draw(hnp.arrays(np.float32, (s, c, h, w), elements=st.floats(0, 1, width=32)))
    labels = draw(hnp.arrays(np.int64, (s, h, w), elements=st.sampled_from([-100, 0, 1, 2, 300])))
    return images, labels


@given(windows(), any_settings, indices)
@settings(max_examples=150, deadline=None)
def test_the_result_is_a_valid_window(window, chosen, index):
    images, labels = window
    kept = images.copy(), labels.copy()
    images.setflags(write=False)
    labels.setflags(write=False)
    varied, new_labels = augment(images, labels, sample_generator(0, index), chosen)
    assert (varied.dtype, new_labels.dtype) == (np.float32, np.int64)
    assert (varied.shape, new_labels.shape) == (images.shape, labels.shape)
    assert np.isfinite(varied).all()
    assert varied.min() >= 0
    assert varied.max() <= 1
    background = {0} if "background" in (chosen.outside, chosen.erase_label) else set()
    assert set(np.unique(new_labels)) <= set(np.unique(labels)) | {-100} | background
    assert np.array_equal(images, kept[0])
    assert np.array_equal(labels, kept[1])


@given(windows(), indices)
@settings(max_examples=50, deadline=None)
def test_without_operations_it_is_the_identity(window, index):
    images, labels = window
    varied, new_labels = augment(images, labels, sample_generator(0, index), AugmentSettings(preset="none"))
    assert varied.tobytes() == images.tobytes()
    assert new_labels.tobytes() == labels.tobytes()


@given(any_settings.map(lambda s: s.model_copy(update={"noise_probability": 0.0})), indices, st.integers(4, 24))
@settings(max_examples=100, deadline=None)
def test_slices_and_channels_vary_alike(chosen, index, side):
    generator = np.random.default_rng(index)
    one, label = generator.random((side, side), np.float32), generator.integers(0, 3, (side, side))
    images, labels = np.tile(one, (3, 2, 1, 1)), np.tile(label, (3, 1, 1))
    varied, new_labels = augment(images, labels, sample_generator(0, index), chosen)
    assert all(np.array_equal(varied[0, 0], varied[s, c]) for s in range(3) for c in range(2))
    assert all(np.array_equal(new_labels[0], new_labels[s]) for s in range(3))


@given(indices, st.integers(16, 40))
@settings(max_examples=60, deadline=None)
def test_images_and_labels_move_together(index, side):
    """An image equal to its labels: where its values stay integers, they equal the transformed labels."""
    moves = EVERYTHING.model_copy(
        update={
            **{name: 0.0 for name in AugmentSettings.model_fields if name.endswith("_probability")},
            **dict.fromkeys(("geometry_probability", "rotation_probability", "scale_probability"), 1.0),
            **dict.fromkeys(("turn_probability", "shear_probability", "elastic_probability"), 0.5),
            "picks": 0,
        }
    )
    halves = (np.indices((side, side))[index % 2] >= side // 2).astype(np.int64)
    varied, labels = augment(halves[None, None].astype(np.float32), halves[None], sample_generator(0, index), moves)
    known = labels[0] >= 0
    pure = known & ((varied[0, 0] < 1e-5) | (varied[0, 0] > 1 - 1e-5))
    assert np.array_equal(varied[0, 0][pure] > 0.5, labels[0][pure] == 1)


@given(st.integers(0, 10**6), any_settings)
@settings(max_examples=30, deadline=None)
def test_a_sample_depends_on_its_generator_alone(index, chosen):
    images = np.random.default_rng(0).random((2, 1, 12, 12), np.float32)
    labels = np.zeros((2, 12, 12), np.int64)
    one = augment_window(images, labels, sample_generator(7, index), chosen)
    augment_window(images, labels, sample_generator(7, index + 1), chosen)
    two = augment_window(images, labels, sample_generator(7, index), chosen)
    assert one.images.tobytes() == two.images.tobytes()
    assert one.labels.tobytes() == two.labels.tobytes()
    assert one.variation == two.variation
