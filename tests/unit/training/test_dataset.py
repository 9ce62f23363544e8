import multiprocessing
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from tiny import prepared_case

from masam.augment import AugmentSettings
from masam.errors import InputError
from masam.reproducibility import epoch_order, window_depth
from masam.training.dataset import Prompts, WindowSamples, load_batches
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


def test_a_sample_is_a_function_of_its_index(cases):
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


def test_a_repeated_window_is_augmented_differently(cases):
    data = samples(cases[:1])
    first = {data[index][0].numpy().tobytes() for index in range(4)}
    second = {data[index][0].numpy().tobytes() for index in range(4, 8)}
    assert not first & second


def test_labels_and_types(cases):
    images, labels, case = samples(cases)[3]
    assert (images.shape, labels.shape) == ((3, 1, 32, 32), (3, 32, 32))
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int8)
    assert case in ("a", "b")
    assert set(labels.unique().tolist()) <= {-100, 0, 1}
    assert (images.min().item(), images.max().item()) >= (0, 0)
    assert images.max() <= 1


def test_windows_are_scaled_to_their_range_only_if_requested(cases):
    plain = samples(cases, augmentation=NONE, window_minmax=False)
    stretched = samples(cases, augmentation=NONE)
    for index in range(7):
        images, wide = plain[index][0], stretched[index][0]
        assert (wide.min().item(), wide.max().item()) == (0, 1)
        expected = (images - images.min()) / (images.max() - images.min())
        torch.testing.assert_close(wide, expected, rtol=0, atol=1e-6)
        assert images.max() < 1


def test_batches_have_labels_of_8_bits(cases):
    for batch in load_batches(samples(cases), 0, 4, 2, workers=0):
        assert (batch.labels.dtype, batch.images.dtype) == (torch.int8, torch.float32)
        assert batch.images[:, :, 0].shape == batch.labels.shape == (2, 3, 32, 32)
    expected = samples(cases)[3][1]
    assert torch.equal(batch.labels[1], expected)


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


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize(("start", "batch"), [(0, 2), (3, 4), (11, 1), (12, 1)])
def test_workers_change_nothing(cases, workers, start, batch):
    data = samples(cases)
    expected = [data[index] for index in range(start, 12)]
    batches = list(load_batches(data, start, 12, batch, workers))
    found = [one for b in batches for one in zip(b.images, b.labels, b.cases, strict=True)]
    assert [len(b.cases) for b in batches] == [min(batch, 12 - first) for first in range(start, 12, batch)]
    assert all(equal(one, other) for one, other in zip(found, expected, strict=True))


class Watched(WindowSamples):
    """Samples that remember which thread made them; some are slow or fail."""

    def __init__(self, cases, *, slow=(), failing=()):
        super().__init__(cases, 3, 5, True, AugmentSettings())
        self.slow, self.failing = slow, failing
        self.made, self.threads, self.cores = [], set(), set()

    def __getitem__(self, index):
        self.made.append(index)
        self.threads.add(threading.current_thread().name)
        self.cores.add(torch.get_num_threads())
        if index in self.slow:
            time.sleep(0.1)
        if index in self.failing:
            raise InputError(f"sample {index}", fix="take another")
        return super().__getitem__(index)


def readers():
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("samples")}


def test_samples_are_in_order_whichever_is_ready_first(cases):
    expected = samples(cases)
    for index, batch in enumerate(load_batches(Watched(cases, slow={0, 3}), 0, 8, 1, workers=3)):
        assert torch.equal(batch.images[0], expected[index][0])


@pytest.fixture
def two_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_cores")
def test_workers_are_threads_of_one_core_that_make_two_batches_ahead(cases):
    # The first sample of each thread takes a while, so that both threads get one.
    data = Watched(cases, slow={0, 2})
    batches = load_batches(data, 0, 1000, 2, workers=2)
    assert next(batches).images.shape[0] == 2
    assert readers() == {"samples_0", "samples_1"}
    assert not multiprocessing.active_children()
    time.sleep(0.3)
    # The two that were taken, and 2 samples in each of 2 * 2 batches.
    assert sorted(data.made) == list(range(10))
    assert (data.threads, data.cores) == ({"samples_0", "samples_1"}, {1})
    batches.close()
    assert readers() == set()
    # Neither this thread nor one that starts later is left with a reader's one core.
    with ThreadPoolExecutor(1) as pool:
        assert [torch.get_num_threads(), pool.submit(torch.get_num_threads).result()] == [2, 2]


def test_no_sample_is_started_after_the_end(cases):
    data = Watched(cases, slow=range(1000))
    batches = load_batches(data, 0, 1000, 1, workers=1)
    next(batches)
    batches.close()
    assert data.made in ([0], [0, 1])


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_replaces_its_batch(cases, workers):
    batches = load_batches(Watched(cases, failing={4}), 0, 12, 1, workers)
    assert [len(next(batches).cases) for _ in range(4)] == [1] * 4
    with pytest.raises(InputError, match=r"^sample 4; take another$"):
        next(batches)
    assert readers() == set()


def test_ctrl_c_while_a_sample_is_awaited_ends_the_workers(cases):
    batches = load_batches(Watched(cases, slow=range(1000)), 0, 1000, 4, workers=2)
    signal_to_us = (threading.get_ident(), signal.SIGINT)
    threading.Timer(0.05, signal.pthread_kill, signal_to_us).start()
    with pytest.raises(KeyboardInterrupt):
        next(batches)
    assert readers() == set()


@pytest.mark.parametrize("start", [0, 3, 7, 11])
@pytest.mark.parametrize("batch", [1, 4])
def test_starting_in_the_middle_gives_the_tail(cases, start, batch):
    data = samples(cases)
    whole = flat(load_batches(data, 0, 12, 1, workers=0))
    tail = flat(load_batches(data, start, 12, batch, workers=0))
    assert equal(tail, (whole[0][start:], whole[1][start:], whole[2][start:]))


def test_an_empty_list_of_cases_is_refused():
    with pytest.raises(InputError, match=r"^expected at least one training case, got none$"):
        samples([])


def test_the_depth_of_windows_is_drawn_per_step(cases):
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


def test_prompts_are_drawn_from_the_augmented_labels_and_are_a_function_of_the_index(cases):
    data = samples(cases, prompt_rate=0.7)
    whole, parts = data.batch(range(12)), [samples(cases, prompt_rate=0.7).batch([index]) for index in range(12)]
    for name in Prompts._fields:
        together = torch.cat([getattr(part.prompts, name) for part in parts])
        assert torch.equal(getattr(whole.prompts, name).nan_to_num(-9), together.nan_to_num(-9)), name
    is_boxed = ~whole.prompts.boxes.isnan().any(dim=2)
    assert is_boxed.any()
    for window, place, point in (whole.prompts.point_labels == 1).nonzero().tolist():
        x, y = whole.prompts.points[window, place, point].int().tolist()
        assert whole.labels[window, place, y, x] == 1


def test_prompts_change_nothing_else_of_a_sample(cases):
    plain, prompted = samples(cases).batch(range(6)), samples(cases, prompt_rate=1.0).batch(range(6))
    assert plain.prompts is None
    assert torch.equal(plain.images, prompted.images)
    assert torch.equal(plain.labels, prompted.labels)
