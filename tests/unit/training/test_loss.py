import math

import pytest
import torch

from masam.training.loss import IGNORE_INDEX, LossSums, loss_of, loss_sums, part_of_loss, segmentation_loss


def plain_loss(logits, labels):
    """Cross-entropy and soft Dice with one-hot targets, as paper.md 1.6 writes them; in float64."""
    classes = logits.shape[1]
    known = labels != IGNORE_INDEX
    one_hot = torch.eye(classes, dtype=torch.float64)[labels.clamp(min=0)].permute(0, 3, 1, 2) * known[:, None]
    probabilities = logits.double().softmax(dim=1) * known[:, None]
    losses = []
    for k in range(classes):
        p, t = probabilities[:, k], one_hot[:, k]
        losses.append(1 - (2 * (p * t).sum() + 1e-5) / ((p * p).sum() + (t * t).sum() + 1e-5))
    log_probabilities = logits.double().log_softmax(dim=1)
    cross_entropy = -(log_probabilities * one_hot).sum() / known.sum()
    return cross_entropy, torch.stack(losses).mean()


def sample(n=2, classes=4, side=6, ignored=0.2, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, side, side, generator=generator, dtype=torch.float64) * 2
    labels = torch.randint(classes, (n, side, side), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < ignored] = IGNORE_INDEX
    return logits.to(dtype), labels


@pytest.mark.parametrize("ignored", [0.0, 0.2, 0.9])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_loss_matches_the_formula(classes, ignored):
    logits, labels = sample(classes=classes, ignored=ignored)
    cross_entropy, dice = plain_loss(logits, labels)
    loss = segmentation_loss(logits, labels)
    torch.testing.assert_close(loss.cross_entropy, cross_entropy, rtol=0, atol=1e-12)
    torch.testing.assert_close(loss.dice, dice, rtol=0, atol=1e-12)
    torch.testing.assert_close(loss.total, 0.2 * cross_entropy + 0.8 * dice, rtol=0, atol=1e-12)


def test_weights_of_the_parts():
    logits, labels = sample()
    loss = segmentation_loss(logits, labels, cross_entropy_weight=3.0, dice_weight=0.5)
    torch.testing.assert_close(loss.total, 3.0 * loss.cross_entropy + 0.5 * loss.dice)


def test_unlabelled_pixels_are_ignored():
    logits, labels = sample(ignored=0.5)
    changed = torch.where((labels == IGNORE_INDEX)[:, None], torch.randn_like(logits) * 10, logits)
    for ours, theirs in zip(segmentation_loss(logits, labels), segmentation_loss(changed, labels), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_a_batch_without_labels_has_zero_loss_and_gradient():
    logits, labels = sample()
    logits.requires_grad_()
    loss = segmentation_loss(logits, torch.full_like(labels, IGNORE_INDEX))
    loss.total.backward()
    assert [part.item() for part in loss] == [0, 0, 0]
    assert not logits.grad.any()


def test_absent_classes_count_as_the_reference_counts_them():
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    logits = torch.full((1, 3, 8, 8), -60.0, dtype=torch.float64)
    logits[:, 0] = 60
    # Background right, the two others absent in both: Dice 1 each.
    assert segmentation_loss(logits, labels).total.item() == pytest.approx(0, abs=1e-6)
    logits[:, 1] = 120  # all pixels predicted as class 1, which is not there
    assert segmentation_loss(logits, labels).dice.item() == pytest.approx(2 / 3, abs=1e-6)


def test_a_uniform_prediction_has_the_entropy_of_its_classes():
    loss = segmentation_loss(torch.zeros(1, 13, 4, 4), sample(1, 13, 4, ignored=0)[1])
    assert loss.cross_entropy.item() == pytest.approx(math.log(13), rel=1e-6)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_gradients(part):
    logits, labels = sample(1, 3, 3, ignored=0.3)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: segmentation_loss(x, labels)[part], (logits,), atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    # 786,432 pixels of three classes: sums above float16's largest number, and far above bfloat16's 8 bits.
    logits, labels = sample(3, 3, 512, ignored=0.1, dtype=dtype)
    loss = segmentation_loss(logits, labels)
    cross_entropy, dice = plain_loss(logits, labels)
    assert {part.dtype for part in loss} == {torch.float32}
    assert loss.cross_entropy.item() == pytest.approx(cross_entropy.item(), rel=1e-6)
    assert loss.dice.item() == pytest.approx(dice.item(), rel=1e-5)


def test_more_pixels_than_float32_can_count():
    # 2 ** 24 + 2 ** 20 pixels of one class: counted one by one in float32 they stop at 2 ** 24.
    labels = torch.zeros(17, 1024, 1024, dtype=torch.long)
    logits = torch.zeros(17, 1, 1024, 1024)
    assert segmentation_loss(logits, labels).dice.item() == pytest.approx(0, abs=1e-6)


def test_batches_pool():
    """Dice is of the whole batch: that of two samples is not the mean of theirs."""
    logits, labels = sample(2, ignored=0)
    apart = (segmentation_loss(logits[:1], labels[:1]).dice + segmentation_loss(logits[1:], labels[1:]).dice) / 2
    assert abs(segmentation_loss(logits, labels).dice - apart) > 1e-6
    twice = segmentation_loss(logits.repeat(2, 1, 1, 1), labels.repeat(2, 1, 1)).dice
    torch.testing.assert_close(twice, segmentation_loss(logits, labels).dice, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weights", [{}, {"cross_entropy_weight": 1.0, "dice_weight": 0.0}])
def test_gradients_of_parts_add_up_to_that_of_the_whole(weights):
    logits, labels = sample(n=6, ignored=0.3)
    logits.requires_grad_()
    segmentation_loss(logits, labels, **weights).total.backward()
    whole, logits.grad = logits.grad, None
    parts = [slice(0, 1), slice(1, 4), slice(4, 6)]
    sums = [loss_sums(logits[part], labels[part]) for part in parts]
    batch = LossSums(*(torch.stack(values).detach().sum(dim=0) for values in zip(*sums, strict=True)))
    torch.testing.assert_close(loss_of(batch, **weights), segmentation_loss(logits.detach(), labels, **weights))
    for part in sums:
        part_of_loss(part, batch, **weights).backward()
    torch.testing.assert_close(logits.grad, whole, rtol=0, atol=1e-14)
    assert whole.abs().max() > 1e-4


def test_a_part_without_labels_adds_nothing():
    logits, labels = sample(n=2)
    unknown = torch.full_like(labels, IGNORE_INDEX)
    sums = [loss_sums(logits, labels), loss_sums(logits.requires_grad_(), unknown)]
    batch = LossSums(*(a + b.detach() for a, b in zip(*sums, strict=True)))
    part_of_loss(sums[1], batch).backward()
    assert not logits.grad.any()
