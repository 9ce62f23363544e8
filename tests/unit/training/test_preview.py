import numpy as np
import pytest
from clips import PLAN, frames, write_video_dataset
from tiny import write_dataset

from masam.augment import AugmentSettings
from masam.cases.folder import load_case, read_dataset
from masam.preprocess.intensity import Window
from masam.progress import Silent
from masam.training.planning import plan_dataset
from masam.training.preview import preview_samples

PAPER = AugmentSettings(preset="paper")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return read_dataset(write_dataset(tmp_path_factory.mktemp("preview"), cases=3))


@pytest.fixture(scope="module")
def plan(dataset):
    return plan_dataset(dataset)


def rows_of(dataset, plan, settings=PAPER, seed=5, **changes):
    return preview_samples(dataset, plan, settings, seed, Silent(), **changes)


def test_rows_are_the_first_cases_prepared_and_augmented(dataset, plan):
    rows = rows_of(dataset, plan)
    assert [row.title.split("\n")[0] for row in rows] == ["case0", "case1", "case2", "case0"]
    for row in rows:
        prepared, *varied = row.samples
        assert prepared.caption == "as prepared"
        assert len(varied) == 4
        for sample in row.samples:
            assert sample.image.shape == sample.labels.shape == (plan.image_size, plan.image_size)
            assert set(np.unique(sample.labels)) <= {-100, 0, 1, 2}
        assert any(not np.array_equal(prepared.image, sample.image) for sample in varied)


def test_the_first_panel_is_the_real_preparation(dataset, plan):
    row = rows_of(dataset, plan, rows=1)[0]
    number = int(row.title.split("slice ")[1].split()[0]) - 1
    image, labels = load_case(dataset.training[0])
    prepared = plan.preprocessing.prepare(image)
    np.testing.assert_array_equal(row.samples[0].image, prepared.slice(number)[0])
    expected = plan.scheme.to_channels(prepared.labels(labels).slice(number))
    np.testing.assert_array_equal(row.samples[0].labels, expected)
    assert (expected > 0).any()


def test_the_seed_determines_the_preview(dataset, plan):
    one, same, other = rows_of(dataset, plan), rows_of(dataset, plan), rows_of(dataset, plan, seed=6)
    words = [[sample.caption for row in rows for sample in row.samples] for rows in (one, same, other)]
    assert words[0] == words[1] != words[2]
    for left, right in zip(one, same, strict=True):
        assert all(np.array_equal(a.image, b.image) for a, b in zip(left.samples, right.samples, strict=True))


def test_videos_are_shown_in_their_colours(tmp_path):
    root = write_video_dataset(tmp_path / "set", cases=2)
    (root / "labelsTr/case1/frame2.png").unlink()
    said = []
    listener = Silent()
    listener.log = said.append
    dataset = read_dataset(root)
    plan = PLAN.model_copy(update={"window_minmax": False})
    rows = preview_samples(dataset, plan, AugmentSettings(preset="none"), 5, listener, rows=2)
    assert said == ["case1: 1 of 4 frames have no label and are ignored"]
    for case, row in enumerate(rows):
        name, place = row.title.split("\n")
        assert (name, place.split()[0], place.split()[2:]) == (f"case{case}", "frame", ["of", "4"])
        pixels, labels = frames(4, seed=case)
        number = int(place.split()[1]) - 1
        prepared = plan.frame_preparation.prepare(pixels)
        for sample in row.samples:
            np.testing.assert_array_equal(sample.image, np.moveaxis(prepared.slice(number), 0, -1))
            expected = plan.scheme.to_channels(prepared.labels(labels).slice(number))
            if (case, number) != (1, 2):
                np.testing.assert_array_equal(sample.labels, expected)
    stretched = preview_samples(dataset, PLAN, AugmentSettings(preset="paper"), 5, Silent(), rows=1)[0].samples
    assert stretched[0].image.shape == (32, 32, 3)
    assert any(not np.array_equal(stretched[0].image, sample.image) for sample in stretched[1:])


def test_windows_are_scaled_as_in_training(dataset, plan):
    plan = plan.model_copy(update={"intensity": Window(low=-1000, high=1000)})
    stretched = plan.model_copy(update={"window_minmax": True})
    settings = AugmentSettings(preset="none")
    plain, wide = (rows_of(dataset, p, settings, rows=1)[0].samples for p in (plan, stretched))
    assert plain[1].caption == "unchanged"
    assert plain[0].image.min() > 0.4
    assert wide[0].image.min() < 0.3
