"""Fields by their spectrum."""

import numpy as np
import pytest

from masam.synthetic.pictures.noise import cut, spectrum_noise


def generator(seed=0):
    return np.random.Generator(np.random.Philox(seed))


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.5])
def test_amplitude_falls_by_the_exponent(exponent):
    fields = np.concatenate([spectrum_noise(generator(seed), 64, exponent) for seed in range(40)])
    power = (np.abs(np.fft.fft2(fields)) ** 2).mean(axis=0)
    numbers = np.array([2, 4, 8, 16])
    slope = np.polyfit(np.log(numbers), np.log(power[0, numbers]), 1)[0]
    assert slope == pytest.approx(-2 * exponent, abs=0.35)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.5])
def test_mean_and_deviation(exponent):
    fields = np.stack([spectrum_noise(generator(seed), 32, exponent) for seed in range(100)])
    assert fields.dtype == np.float32
    np.testing.assert_allclose(fields.mean(axis=(2, 3)), 0, atol=1e-4)
    assert np.sqrt((fields.astype(float) ** 2).mean()) == pytest.approx(1, abs=0.1)


def test_the_two_fields_are_independent():
    pairs = np.stack([spectrum_noise(generator(seed), 32, 1.0) for seed in range(60)]).reshape(60, 2, -1)
    correlations = [np.corrcoef(*pair)[0, 1] for pair in pairs]
    assert abs(np.mean(correlations)) < 0.05


def test_cut_wraps_around():
    field = np.arange(20, dtype=np.float32).reshape(4, 5)
    np.testing.assert_array_equal(cut(field, slice(2, 4), slice(3, 5), (1, 1)), [[19, 15], [4, 0]])
    np.testing.assert_array_equal(cut(field, slice(0, 4), slice(0, 5), (0, 0)), field)
