import numpy as np
import pytest

from masam.augment import AugmentSettings, Variation, draw_variation
from masam.augment.settings import OPERATIONS
from masam.reproducibility import sample_generator

COUNTS = [600, pytest.param(4000, marks=pytest.mark.slow)]


def draws(settings, count):
    return [draw_variation(settings, sample_generator(3, index)) for index in range(count)]


@pytest.fixture(scope="module", params=COUNTS)
def default(request):
    return draws(AugmentSettings(), request.param)


@pytest.fixture(scope="module", params=COUNTS)
def paper(request):
    return draws(AugmentSettings(preset="paper"), request.param)


def applied(found, name, neutral):
    return np.array([getattr(one, name) for one in found if getattr(one, name) != neutral])


def check_uniform(values, low, high):
    margin = max(0.02, 6 / len(values)) * (high - low)
    assert low <= values.min() < low + margin
    assert high - margin < values.max() <= high
    # Three standard errors of a uniform draw's mean.
    assert abs(values.mean() - (low + high) / 2) < 3 * (high - low) / np.sqrt(12 * len(values))


def check_share(values, share, count):
    assert abs(len(values) / count - share) < 3.5 * np.sqrt(share * (1 - share) / count) + 1e-9


def test_the_default_draws_its_ranges(default):
    for name, share, low, high in (
        ("rotation_degrees", 0.7, -15, 15),
        ("contrast", 0.5, 0.8, 1.2),
        ("noise", 0.3, 0, 0.05),
    ):
        values = applied(default, name, getattr(Variation(), name))
        check_share(values, share, len(default))
        check_uniform(values, low, high)
    scales, gammas = applied(default, "scale", 1.0), applied(default, "gamma", 1.0)
    check_share(scales, 0.7, len(default))
    check_uniform(np.log(scales), -np.log(1.25), np.log(1.25))
    check_share(gammas, 0.5, len(default))
    check_uniform(np.log(gammas), -0.5, 0.5)
    shifts = np.array([one.translate for one in default if any(one.translate)])
    check_share(shifts, 0.7, len(default))
    check_uniform(shifts[:, 0], -0.1, 0.1)
    check_uniform(shifts[:, 1], -0.1, 0.1)
    check_uniform(applied(default, "brightness_shift", 0.0), -0.08, 0.08)


def test_the_default_does_not_flip_or_erase(default):
    for one in default:
        assert (one.quarter_turns, one.flip, one.shear, one.erase, one.posterize_bits) == (0, None, (0, 0), None, None)
        assert (one.sharpness, one.blur_pixels, one.low_resolution, one.elastic, one.brightness) == (1, 0, 1, 0, 1)


def test_the_papers_probabilities_and_ranges(paper):
    turned = [one for one in paper if one.flip is not None]
    check_share(turned, 0.5, len(paper))
    for turns in range(4):
        check_share([one for one in turned if one.quarter_turns == turns], 0.125, len(paper))
    check_share([one for one in turned if one.flip == "rows"], 0.25, len(paper))
    rotations = applied(paper, "rotation_degrees", 0.0)
    check_share(rotations, 0.5, len(paper))
    check_uniform(rotations, -15, 15)
    gammas = applied(paper, "gamma", 1.0)
    check_share(gammas, 0.5, len(paper))
    check_uniform(gammas, 0.5, 3.5)
    boxes = [one.erase for one in paper if one.erase is not None]
    check_share(boxes, 0.5, len(paper))
    check_uniform(np.array([box.area for box in boxes]), 0.02, 0.05)
    check_uniform(np.array([box.aspect for box in boxes]), 0.3, 3.3)
    check_uniform(np.array([box.place for box in boxes])[:, 0], 0, 1)
    for name, low, high in (("contrast", 0.7, 1.3), ("brightness", 0.7, 1.3), ("sharpness", 0.1, 1.9)):
        values = applied(paper, name, 1.0)
        check_share(values, 0.2, len(paper))
        check_uniform(values, low, high)
    scales = applied(paper, "scale", 1.0)
    check_share(scales, 0.2, len(paper))
    check_uniform(1 / scales, 0.8, 1.2)
    for axis in (0, 1):
        for name, limit in (("shear", 0.3), ("translate", 0.2)):
            values = np.array([getattr(one, name)[axis] for one in paper if getattr(one, name)[axis]])
            check_share(values, 0.2, len(paper))
            check_uniform(values, -limit, limit)
    bits = applied(paper, "posterize_bits", None)
    check_share(bits, 0.2, len(paper))
    assert set(bits) == {4, 5, 6, 7, 8}
    assert not applied(paper, "noise", 0.0).size


def test_the_paper_draws_the_inverse_of_the_magnification_uniformly():
    found = draws(AugmentSettings(preset="paper", scale_probability=1), 2000)
    check_uniform(1 / applied(found, "scale", 1.0), 0.8, 1.2)


def test_box_training_of_the_paper_has_no_erasing_shear_scale_or_shift():
    found, neutral = draws(AugmentSettings(preset="paper-box"), 1000), Variation()
    for name in ("erase", "shear", "scale", "translate"):
        assert {getattr(one, name) for one in found} == {getattr(neutral, name)}, name
    # Two different operations of five: each is applied to 2 of 5 samples.
    for name, low, high in (("contrast", 0.7, 1.3), ("brightness", 0.7, 1.3), ("sharpness", 0.1, 1.9)):
        values = applied(found, name, 1.0)
        check_share(values, 0.4, len(found))
        check_uniform(values, low, high)
    check_share(applied(found, "posterize_bits", None), 0.4, len(found))
    for name, neutral_value, low, high in (("rotation_degrees", 0.0, -15, 15), ("gamma", 1.0, 0.5, 3.5)):
        values = applied(found, name, neutral_value)
        check_share(values, 0.5, len(found))
        check_uniform(values, low, high)
    check_share([one for one in found if one.flip], 0.5, len(found))


def ops_of(one):
    found = {
        "shear_x": one.shear[0], "shear_y": one.shear[1], "translate_x": one.translate[0],
        "translate_y": one.translate[1], "scale": one.scale - 1, "posterize": one.posterize_bits,
        "contrast": one.contrast - 1, "brightness": one.brightness - 1, "sharpness": one.sharpness - 1,
    }  # fmt: skip
    return {name for name, value in found.items() if value}


def test_two_different_operations_of_ten(paper):
    counts = [len(ops_of(one)) for one in paper]
    assert set(counts) == {1, 2}  # the tenth does nothing
    check_share([n for n in counts if n == 1], 0.2, len(paper))
    pairs = {frozenset(ops_of(one)) for one in paper if len(ops_of(one)) == 2}
    assert len(pairs) == 36


@pytest.mark.parametrize("operation", OPERATIONS)
def test_picked_operations_are_applied_regardless_of_their_probability(operation):
    settings = AugmentSettings(
        preset="none", geometry_probability=1, picks=1, pick_from=(operation,), brightness=(0.5, 0.9)
    )
    one = draw_variation(settings, sample_generator(0, 0))
    assert ops_of(one) == ({operation} - {"identity"})


def test_changing_one_probability_does_not_shift_other_draws():
    one = draw_variation(AugmentSettings(noise_probability=0), sample_generator(0, 5))
    generator = sample_generator(0, 5)
    other = draw_variation(AugmentSettings(noise_probability=1, rotation_probability=0), generator)
    assert (one.scale, one.gamma, one.contrast, one.seed) == (other.scale, other.gamma, other.contrast, other.seed)
    assert (one.noise, other.rotation_degrees) == (0, 0)
    after = sample_generator(0, 5)
    draw_variation(AugmentSettings(preset="paper"), after)
    assert generator.random() == after.random()


def test_rare_operations_are_drawn_too():
    settings = AugmentSettings(
        preset="none",
        geometry_probability=1,
        elastic_probability=1,
        blur_probability=1,
        low_resolution_probability=1,
        shading_probability=1,
    )
    found = draws(settings, 500)
    for name, low, high in (
        ("elastic", 0.005, 0.02),
        ("blur_pixels", 0.5, 1.5),
        ("low_resolution", 1, 2),
        ("shading", 0, 1.5),
    ):
        check_uniform(np.array([getattr(one, name) for one in found]), low, high)
    assert found[0].summary()[0].startswith("elastic ")


def test_the_summary_names_what_is_applied():
    assert Variation().summary() == []
    one = Variation(quarter_turns=1, flip="rows", rotation_degrees=-4.2, translate=(0.1, 0.0), gamma=1.5, noise=0.02)
    assert one.summary() == ["turn 90°", "flip rows", "rotate -4°", "shift +10%, +0%", "gamma 1.50", "noise 0.020"]
