import math
import threading
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tiny import SPEC, prepared_case, random_model

from masam.augment import AugmentSettings
from masam.errors import ConfigError, DivergedError, InputError, ResourceError
from masam.model.masam import Masam
from masam.model.sizes import SIZES
from masam.training import loop as loop_module
from masam.training.config import TrainConfig
from masam.training.dataset import WindowSamples
from masam.training.loop import Loop
from masam.training.loss import LossSums, loss_sums

MOST = TrainConfig().max_bad_steps
CPU = torch.device("cpu")
NONE = AugmentSettings(preset="none")


@pytest.fixture
def samples(tmp_path):
    return WindowSamples([prepared_case(tmp_path, depth=6)], 3, seed=1, window_minmax=False, augmentation=NONE)


def make(samples, model=None, **changes):
    settings = {"epochs": 4, "batch_windows": 2, "micro_batch_windows": 1, "warmup_steps": 2, "device": "cpu"}
    config = TrainConfig.from_mapping({**settings, **changes}, where="test")
    return Loop(model or random_model(), samples, config, CPU)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_steps_count_windows_of_all_epochs(samples):
    loop = make(samples)
    reports = list(loop.steps())
    assert [report.step for report in reports] == list(range(1, 13))
    assert [loop.epoch_of(step) for step in (0, 2, 3, 5, 6, 12)] == [0, 0, 1, 1, 2, 4]
    assert make(samples, epochs=1, batch_windows=4).total_steps == 2  # the last batch goes on into the next epoch
    for report in reports:
        assert report.loss == pytest.approx(0.2 * report.cross_entropy + 0.8 * report.dice_loss, rel=1e-5)
        assert report.seconds > 0


def test_rates_follow_the_schedule(samples):
    reports = list(make(samples, learning_rate=0.01, power=1.0).steps())
    assert [report.learning_rate for report in reports[:3]] == pytest.approx([0.005, 0.01, 0.01])
    assert all(a.learning_rate > b.learning_rate for a, b in pairwise(reports[2:]))


def test_a_short_run_warms_up_for_a_tenth_of_it_at_most(samples):
    assert make(samples, epochs=10, warmup_steps=250).schedule.warmup_steps == 3
    assert make(samples, epochs=10, warmup_steps=2).schedule.warmup_steps == 2
    assert make(samples, epochs=10, schedule_epochs=20).schedule.decay_steps == 60


def test_cross_entropy_starts_at_the_logarithm_of_the_number_of_channels(tmp_path):
    # paper.md 1.6: 2.5608 with twelve classes, where ln 13 is 2.565.
    case = prepared_case(tmp_path, depth=6)
    samples = WindowSamples([case], 3, seed=1, window_minmax=False, augmentation=NONE)
    torch.manual_seed(0)
    model = Masam(replace(SPEC, sam=SIZES["vit_t"], num_classes=12, adapter_channels=64))
    (report,) = make(samples, model, epochs=1, batch_windows=6, micro_batch_windows=3).steps()
    assert report.cross_entropy == pytest.approx(math.log(13), rel=0.01)


def test_it_learns(samples):
    torch.manual_seed(0)
    loop = make(samples, Masam(SPEC), epochs=18, learning_rate=1e-2, power=1.0, weight_decay=0.0)
    reports = list(loop.steps())
    assert sum(r.loss for r in reports[-5:]) < 0.5 * sum(r.loss for r in reports[:5])


def test_frozen_tensors_stay_bit_for_bit(samples):
    loop = make(samples)
    before = state(loop.model)
    list(loop.steps())
    for name, tensor in loop.model.state_dict().items():
        if name not in loop.model.trained_names():
            assert torch.equal(tensor, before[name]), name
    assert not torch.equal(loop.model.state_dict()["image_encoder.fact.v"], before["image_encoder.fact.v"])


def test_the_same_run_twice_is_the_same_bit_for_bit(samples):
    one, other = make(samples), make(samples, workers=1)
    losses = [[report[:5] for report in loop.steps()] for loop in (one, other)]
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(state(one.model).values(), state(other.model).values(), strict=True))


def random_draws(samples, first_step):
    """Train from a step on; return the dropout mask and the augmented images of each micro-batch."""
    loop = make(samples, random_model(replace(SPEC, fact_dropout=0.5)), epochs=2)
    loop.step = first_step
    masks, images = [], []

    def before_model(module, inputs):
        masks.append([])
        images.append(inputs[0].numpy().tobytes())

    def after_dropout(module, inputs, output):
        masks[-1].append(output.detach().eq(0).numpy().tobytes())

    loop.model.register_forward_pre_hook(before_model)
    loop.model.image_encoder.fact.dropout.register_forward_hook(after_dropout)
    list(loop.steps())
    return [b"".join(mask) for mask in masks], images


def test_dropout_and_augmentation_differ_in_each_step_and_are_the_same_after_a_resume(tmp_path):
    cases = [prepared_case(tmp_path, depth=6)]
    samples = WindowSamples(cases, 3, seed=1, window_minmax=False, augmentation=AugmentSettings())
    draws = random_draws(samples, 0)
    for values in draws:
        # Two epochs of six windows, each of which is one micro-batch.
        assert (len(values), len(set(values))) == (12, 12)
    resumed = random_draws(samples, 2)
    for values, tail in zip(draws, resumed, strict=True):
        assert tail == values[4:]


def test_micro_batches_divide_the_batch_and_average_their_gradients(samples):
    message = "^micro_batch_windows: expected a divisor of batch_windows = 6, got 4$"
    with pytest.raises(ConfigError, match=message):
        make(samples, batch_windows=6, micro_batch_windows=4)
    # Gradients of parts are averaged: cross-entropy alone does not pool, so any division gives the same step.
    weights = {"dice_weight": 0.0, "cross_entropy_weight": 1.0, "batch_windows": 6, "epochs": 1}
    losses = []
    for micro in (1, 2, 6):
        model = random_model()
        model.spec = SPEC
        model.image_encoder.fact.dropout.p = 0.0
        loop = make(samples, model, micro_batch_windows=micro, **weights)
        losses.append([next(iter(loop.steps())).loss, model.mask_decoder.iou_token.weight.detach().clone()])
    for loss, weight in losses[1:]:
        assert loss == pytest.approx(losses[0][0], rel=1e-5)
        torch.testing.assert_close(weight, losses[0][1], rtol=0, atol=2e-5)


def broken_loss(at):
    """The loss, but NaN in some steps (counted from 1)."""
    calls = iter(range(1, 10_000))

    def loss(*args):
        sums = loss_sums(*args)
        return LossSums(*(value * torch.nan for value in sums)) if next(calls) in at else sums

    return loss


def test_a_persistent_nan_loss_ends_training_with_finite_weights(samples, monkeypatch):
    monkeypatch.setattr(loop_module, "loss_sums", broken_loss(range(3, 10_000)))
    loop = make(samples, epochs=100, batch_windows=1)
    done = []
    message = (
        rf"^loss or gradients were not finite for {MOST} steps in a row, the last at step "
        rf"{2 + MOST - 1} with windows of a; lower learning_rate, or use precision float32 or bf16$"
    )
    with pytest.raises(DivergedError, match=message):
        done.extend(report.step for report in loop.steps())
    assert len(done) == 2 + MOST - 1
    assert all(tensor.isfinite().all() for tensor in loop.model.state_dict().values())
    assert all(v.isfinite().all() for moments in loop.optimizer.adamw.state.values() for v in moments.values())


def test_a_few_bad_steps_are_skipped(samples, monkeypatch):
    monkeypatch.setattr(loop_module, "loss_sums", broken_loss({2, 3}))
    loop = make(samples, epochs=2, batch_windows=1)
    changes = []
    previous = state(loop.model)["image_encoder.fact.v"]
    for _ in loop.steps():
        now = state(loop.model)["image_encoder.fact.v"]
        changes.append(not torch.equal(now, previous))
        previous = now
    assert changes[:4] == [True, False, False, True]
    assert loop.step == loop.total_steps


def test_gradients_that_are_not_finite_are_skipped_too(samples):
    loop = make(samples, epochs=1)
    loop.model.mask_decoder.iou_token.weight.register_hook(lambda gradient: gradient * torch.inf)
    before = state(loop.model)
    list(loop.steps())
    assert all(torch.equal(tensor, before[name]) for name, tensor in loop.model.state_dict().items())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(samples, precision):
    loop = make(samples, epochs=1, precision=precision)
    reports = list(loop.steps())
    exact = list(make(samples, epochs=1).steps())
    assert reports[0].loss == pytest.approx(exact[0].loss, rel=0.05)
    assert all(p.dtype == torch.float32 for p in loop.model.parameters())


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_the_memory_error_suggests_what_to_lower(samples, monkeypatch, error):
    def fail(self, *arguments):
        raise error

    monkeypatch.setattr(Loop, "_loss_sums", fail)
    message = "^training: memory ran out with 1 windows at once; lower micro_batch_windows, the image size or the model"
    with pytest.raises(ResourceError, match=message):
        list(make(samples).steps())


def test_other_runtime_errors_are_not_converted(samples, monkeypatch):
    def fail(self, *arguments):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Loop, "_loss_sums", fail)
    with pytest.raises(RuntimeError, match=r"^shapes do not match$"):
        list(make(samples).steps())


class Failing(WindowSamples):
    """Samples that cannot be made."""

    error: Exception

    def __getitem__(self, index):
        raise self.error


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), r"^training: memory ran out with 1 windows at once; lower micro_batch_windows, the image size"),
        (RuntimeError("[enforce fail] can't allocate memory: 12 bytes"), r"^training: memory ran out with 1 windows"),
        (InputError("a slice is missing"), r"^a slice is missing$"),
        (OSError("the network is gone"), r"^the network is gone$"),
    ],
)
def test_errors_of_reader_threads_end_training_like_others(tmp_path, workers, error, message):
    samples = Failing([prepared_case(tmp_path)], 3, seed=1, window_minmax=False, augmentation=NONE)
    samples.error = error
    expected = ResourceError if "memory" in message else type(error)
    with pytest.raises(expected, match=message):
        list(make(samples, workers=workers).steps())


def test_a_system_without_threads_is_reported(samples, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(ResourceError, match=r"^training: the system allows no 2 more threads; lower workers$"):
        list(make(samples, workers=2).steps())


def test_closing_a_run_ends_its_reader_threads(samples):
    steps = make(samples, workers=2).steps()
    next(steps)
    steps.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("samples")]


def test_a_reader_s_error_is_one_line(tmp_path):
    case = prepared_case(tmp_path)
    (case.folder / "images.npy").write_bytes(b"no array")
    samples = WindowSamples([case], 3, seed=1, window_minmax=False, augmentation=NONE)
    for workers in (0, 1):
        with pytest.raises(
            InputError, match=r"images\.npy: the cached case is damaged .*; delete its folder$"
        ) as found:
            list(make(samples, workers=workers).steps())
        assert "Traceback" not in str(found.value)


def test_clipping_bounds_the_gradient_and_changes_nothing_below_its_limit(samples, monkeypatch):
    seen = []

    def record(*args, **keywords):
        parameters = [p for p in args[0].param_groups[0]["params"] if p.grad is not None]
        seen.append(float(torch.nn.utils.get_total_norm([p.grad for p in parameters])))

    def norms(limit):
        seen.clear()
        loop = make(samples, epochs=1, clip_norm=limit)
        # The gradients are looked at; no step is taken, so that each run sees the same ones.
        monkeypatch.setattr(torch.optim.AdamW, "step", record)
        list(loop.steps())
        return list(seen)

    free = norms(None)
    limit = sorted(free)[0] * 0.5
    assert norms(limit) == pytest.approx([limit] * len(free), rel=1e-4)
    assert norms(max(free) * 2) == pytest.approx(free, rel=1e-6)


def prompted(tmp_path, rate):
    cases = [prepared_case(tmp_path, f"p{rate}", depth=6)]
    return WindowSamples(cases, 3, seed=1, window_minmax=False, augmentation=NONE, prompt_rate=rate)


def test_prompts_train_the_prompt_encoder(tmp_path):
    model = random_model()
    before = state(model)
    list(make(prompted(tmp_path, 1.0), model, epochs=6, prompt_rate=1.0, weight_decay=0.0).steps())
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    places = {f"prompt_encoder.point_embeddings.{kind}.weight" for kind in range(4)}
    assert places <= changed
    assert "prompt_encoder.mask_downscaling.0.weight" in changed


def test_a_window_without_prompts_trains_as_without_the_option(tmp_path):
    """Batches whose windows all go without: the loss is bit for bit the automatic one."""
    automatic, mixed = prompted(tmp_path, 0.0), prompted(tmp_path, 1e-9)
    losses = [[report.loss for report in make(some, random_model()).steps()] for some in (automatic, mixed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][0] == losses[1][0]


def test_micro_batches_of_mixed_prompts_give_the_gradient_of_one(tmp_path):
    samples = prompted(tmp_path, 0.6)
    settings = {"epochs": 1, "batch_windows": 6, "dice_pooling": "batch", "prompt_rate": 0.6}
    losses = []
    for micro in (6, 3, 1):
        (report,) = list(make(samples, random_model(), micro_batch_windows=micro, **settings).steps())
        losses.append(report.loss)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


CORRECTED = {"epochs": 3, "batch_windows": 6, "prompt_rate": 1.0, "corrective_clicks": 2}


def corrections(monkeypatch):
    """Keep how many clicks there was room for in each forward pass that trains."""
    seen = []
    forward = Masam.forward

    def watched(self, windows, boxes=None, points=None, point_labels=None, masks=None, **rest):
        if torch.is_grad_enabled():
            seen.append(point_labels.shape[2])
        return forward(self, windows, boxes, points, point_labels, masks, **rest)

    monkeypatch.setattr(Masam, "forward", watched)
    return seen


def test_the_number_of_corrections_cycles_over_the_steps(tmp_path, monkeypatch):
    seen = corrections(monkeypatch)
    reports = list(make(prompted(tmp_path, 1.0), micro_batch_windows=6, **CORRECTED).steps())
    assert len(reports) == 3
    assert seen == [4, 5, 6], "four clicks that are drawn at most, and room for the corrections"


def test_corrections_change_only_the_steps_that_have_them(tmp_path):
    losses = {}
    for clicks in (0, 2):
        settings = {**CORRECTED, "corrective_clicks": clicks}
        losses[clicks] = [report.loss for report in make(prompted(tmp_path / str(clicks), 1.0), **settings).steps()]
    assert losses[0][0] == losses[2][0], "the first step has no correction"
    assert losses[0][1] != losses[2][1]


@pytest.mark.parametrize("pooling", ["batch", "micro_batch"])
def test_a_run_with_corrections_resumes_bit_for_bit(tmp_path, pooling):
    samples, settings = prompted(tmp_path, 1.0), {**CORRECTED, "dice_pooling": pooling}
    whole = make(samples, random_model(), **settings)
    steps = whole.steps()
    next(steps)
    half = make(samples, random_model(), **settings)
    half.model.load_state_dict(state(whole.model))
    half.optimizer.adamw.load_state_dict(deepcopy(whole.optimizer.adamw.state_dict()))
    half.step = whole.step
    expected, found = ([report.loss for report in some] for some in (steps, half.steps()))
    assert expected == found


def test_micro_batches_of_corrected_windows_give_the_gradient_of_one(tmp_path):
    samples, losses = prompted(tmp_path, 1.0), []
    for micro in (6, 2):
        settings = {**CORRECTED, "dice_pooling": "batch", "micro_batch_windows": micro}
        losses.append([report.loss for report in make(samples, random_model(), **settings).steps()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_corrections_need_prompts():
    with pytest.raises(ConfigError, match="corrective_clicks needs windows with prompts; set prompt_rate above 0"):
        TrainConfig.from_mapping({"corrective_clicks": 1}, where="test")
