import numpy as np
import pytest
import torch
from tiny import prepared_case

from masam.augment import AugmentSettings
from masam.errors import InputError
from masam.reproducibility import epoch_order, window_depth
from masam.train.dataset import WindowSamples, load_batches
from masam.windows import plan_windows

NONE = AugmentSettings(preset="none")


@pytest.fixture
def cases(tmp_path):
    return [prepared_case(tmp_path, "a", depth=4, seed=1), prepared_case(tmp_path, "b", depth=3, seed=2)]


def samples(cases, **changes):
    return WindowSamples(
        cases, **{"window": 3, "seed": 5, "window_minmax": True, "augmentation": AugmentSettings(), **changes}
    )


def equal(one, other):
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1]) and one[2] == other[2]


def test_a_sample_is_a_function_of_its_number(cases):
    one, other = samples(cases), samples(cases)
    order = np.random.default_rng(0).permutation(20).tolist()
    seen = {index: one[index] for index in order}
    assert all(equal(other[index], seen[index]) for index in range(20))
    assert not equal(one[0], samples(cases, seed=6)[0])


def test_each_epoch_is_a_permutation_of_all_windows(cases):
    data = samples(cases, augmentation=NONE, window_minmax=False)
    assert data.per_epoch == 4 + 3
    windows = {
        (case.case_id, window.start): case.read_window(window.slices)[0]
        for case in cases
        for window in plan_windows(case.depth, 3)
    }

    def name(sample):
        return next(key for key, images in windows.items() if key[0] == sample[2] and np.array_equal(images, sample[0]))

    epochs = [[name(data[index]) for index in range(start, start + 7)] for start in (0, 7, 14)]
    assert all(sorted(epoch) == sorted(windows) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    ordered = list(windows)
    assert epochs[1] == [ordered[i] for i in epoch_order(5, 1, 7)]


def test_a_window_again_is_augmented_anew(cases):
    data = samples(cases[:1])
    first = {data[index][0].numpy().tobytes() for index in range(4)}
    second = {data[index][0].numpy().tobytes() for index in range(4, 8)}
    assert not first & second


def test_labels_and_types(cases):
    images, labels, case = samples(cases)[3]
    assert (images.shape, labels.shape) == ((3, 1, 32, 32), (3, 32, 32))
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert case in ("a", "b")
    assert set(labels.unique().tolist()) <= {-100, 0, 1}
    assert (images.min().item(), images.max().item()) >= (0, 0)
    assert images.max() <= 1


def test_windows_are_stretched_only_where_asked_for(cases):
    plain = samples(cases, augmentation=NONE, window_minmax=False)
    stretched = samples(cases, augmentation=NONE)
    for index in range(7):
        images, wide = plain[index][0], stretched[index][0]
        assert (wide.min().item(), wide.max().item()) == (0, 1)
        expected = (images - images.min()) / (images.max() - images.min())
        torch.testing.assert_close(wide, expected, rtol=0, atol=1e-6)
        assert images.max() < 1


def test_batches_carry_labels_in_few_bits(cases):
    for batch in load_batches(samples(cases), 0, 4, 2, workers=0):
        assert (batch.labels.dtype, batch.images.dtype) == (torch.int8, torch.float32)
        assert batch.images[:, :, 0].shape == batch.labels.shape == (2, 3, 32, 32)
    expected = samples(cases)[3][1]
    assert torch.equal(batch.labels[1].long(), expected)


def test_many_classes_keep_their_numbers(cases):
    path = cases[0].folder / "labels.npy"
    labels = np.load(path).astype(np.int16)
    np.save(path, np.where(labels == 1, 30_000, labels))
    (batch,) = load_batches(samples(cases[:1], augmentation=NONE), 0, 1, 1, workers=0)
    assert batch.labels.dtype == torch.int16
    assert set(batch.labels.unique().tolist()) == {-100, 0, 30_000}


def flat(batches):
    batches = list(batches)
    return (
        torch.cat([batch.images for batch in batches]),
        torch.cat([batch.labels for batch in batches]),
        [case for batch in batches for case in batch.cases],
    )


def test_workers_change_nothing(cases):
    data = samples(cases)
    alone = flat(load_batches(data, 0, 12, 2, workers=0))
    together = flat(load_batches(data, 0, 12, 2, workers=2))
    assert equal(alone, together)
    assert len(alone[2]) == 12


@pytest.mark.parametrize("start", [0, 3, 7, 11])
@pytest.mark.parametrize("batch", [1, 4])
def test_starting_in_the_middle_gives_the_tail(cases, start, batch):
    data = samples(cases)
    whole = flat(load_batches(data, 0, 12, 1, workers=0))
    tail = flat(load_batches(data, start, 12, batch, workers=0))
    assert equal(tail, (whole[0][start:], whole[1][start:], whole[2][start:]))


def test_no_case_is_refused():
    with pytest.raises(InputError, match=r"^expected at least one training case, got none$"):
        samples([])


def test_the_windows_of_a_step_are_as_deep_as_the_step_draws(cases):
    data = samples(cases, depths=(2, 6), batch_windows=3, augmentation=NONE, window_minmax=False)
    plain = samples(cases, augmentation=NONE, window_minmax=False)
    found = [data[index][0].shape[0] for index in range(60)]
    assert found == [window_depth(5, index // 3, 2, 6) for index in range(60)]
    assert set(found) == {2, 3, 4, 5, 6}
    for index in range(21):
        images, labels, name = data[index]
        centre = (len(images) - 1) // 2
        # The same window about the same slice, deeper or not so deep.
        assert name == plain[index][2]
        assert torch.equal(images[centre], plain[index][0][1])
        assert torch.equal(labels[centre], plain[index][1][1])


def test_workers_change_no_depth(cases):
    data = samples(cases, depths=(1, 5), batch_windows=4)
    one, other = (list(load_batches(data, 0, 24, 2, workers)) for workers in (0, 2))
    assert all(torch.equal(a.images, b.images) for a, b in zip(one, other, strict=True))
    assert len({batch.images.shape[1] for batch in one}) > 1
