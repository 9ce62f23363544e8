import numpy as np
from clips import frames
from tiny import LABELS

from masam.augment import AugmentSettings
from masam.labels import LabelScheme
from masam.preprocess.cache import prepare_cases
from masam.preprocess.frames import FramePreparation
from masam.preprocess.intensity import Rgb, minmax_per_window
from masam.preprocess.resize import resize_labels
from masam.training.dataset import WindowSamples
from masam.windows import plan_windows

SCHEME = LabelScheme.from_mapping(LABELS)
PLAIN = AugmentSettings(preset="none")


class Clip:
    """A case without files; ``prepare_cases`` takes its pixels from ``load``."""

    id, images, label = "clip", (), None


def prepared(tmp_path, intensity):
    pixels, labels = frames(5)
    preparation = FramePreparation(intensity, 32)
    load = lambda _: (pixels, labels)  # noqa: E731
    return pixels, labels, prepare_cases([Clip()], load, preparation, SCHEME, tmp_path)


def test_samples_equal_the_model_input_of_prediction(tmp_path):
    for normalisation in ("unit", "sam"):
        rule = Rgb(normalisation=normalisation)
        pixels, labels, cases = prepared(tmp_path, rule)
        samples = WindowSamples(cases, 3, 0, window_minmax=False, augmentation=PLAIN, colours=rule)
        fed = FramePreparation(rule, 32)
        windows = [list(window.slices) for window in plan_windows(5, 3)]
        expected = [np.stack([fed.image(one) for one in pixels[window]]) for window in windows]
        for index in range(samples.per_epoch):
            images, classes, _ = samples[index]
            # The cache has 65535 levels, and a deviation of SAM's is about 0.22 of the range.
            distances = [np.abs(images.numpy() - window).max() for window in expected]
            assert min(distances) < 5e-5
            values = np.stack([resize_labels(one, (32, 32)) for one in labels[windows[int(np.argmin(distances))]]])
            assert np.array_equal(classes.numpy(), np.stack([SCHEME.to_channels(one, where="") for one in values]))


def test_colour_windows_are_scaled_jointly(tmp_path):
    pixels, _, cases = prepared(tmp_path, Rgb())
    samples = WindowSamples(cases, 5, 0, window_minmax=True, augmentation=PLAIN, colours=Rgb())
    found = [samples[index][0].numpy() for index in range(samples.per_epoch)]
    window = np.stack([FramePreparation(Rgb(), 32).image(one) for one in pixels])
    assert min(np.abs(one - minmax_per_window(window, jointly=True)).max() for one in found) < 5e-5
    assert min(np.abs(one - minmax_per_window(window)).max() for one in found) > 1e-3


def test_both_normalisations_share_the_cache(tmp_path):
    one, other = (prepared(tmp_path, Rgb(normalisation=name))[2][0].folder for name in ("unit", "sam"))
    assert one == other
