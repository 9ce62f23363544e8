import pytest
import torch
from tiny import random_model, random_windows

from masam.predict.prompted import merge_probabilities, prompted_probabilities
from masam.prompts.projection import ClassPrompts, VolumePrompts


def probabilities(n=3, k=3, seed=0):
    return torch.randn(n, k, 2, 2, generator=torch.Generator().manual_seed(seed)).softmax(dim=1)


def boxed(start, stop, offset=0.0):
    return ClassPrompts(range(start, stop), (torch.tensor([4.0, 6.0, 20.0, 22.0]) + offset).numpy())


def test_a_prompted_class_keeps_its_probability_and_scales_the_others():
    automatic = probabilities()
    own = torch.full((2, 2, 2), 0.4)
    result = merge_probabilities(automatic, {2: ([0, 2], own)}, [(), (), ()])
    assert torch.equal(result[1], automatic[1]), "no prompt touches it"
    torch.testing.assert_close(result[[0, 2], 2], own)
    torch.testing.assert_close(result[[0, 2], 1] / result[[0, 2], 0], automatic[[0, 2], 1] / automatic[[0, 2], 0])
    torch.testing.assert_close(result.sum(dim=1), torch.ones(3, 2, 2))


def test_prompted_classes_that_sum_to_more_than_1_are_normalised():
    claims = {channel: ([0], torch.full((1, 2, 2), claim)) for channel, claim in ((1, 0.9), (2, 0.6))}
    result = merge_probabilities(probabilities(1), claims, [()])
    torch.testing.assert_close(result[0, :, 0, 0], torch.tensor([0, 0.6, 0.4]))


def test_a_ruled_out_class_has_probability_0_on_the_slice():
    automatic = probabilities()
    result = merge_probabilities(automatic, {}, [(1,), (), (1, 2)])
    assert torch.equal(result[1], automatic[1])
    assert (result[0, 1] == 0).all()
    torch.testing.assert_close(result[0, 2] / result[0, 0], automatic[0, 2] / automatic[0, 0])
    assert torch.equal(result[2], torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 2, 2))


def test_the_remainder_is_background_if_all_automatic_probabilities_are_0():
    certain = torch.tensor([0.0, 1, 0])[None, :, None, None].expand(1, 3, 2, 2)
    result = merge_probabilities(certain, {}, [(1,)])
    assert torch.equal(result[0, :, 0, 0], torch.tensor([1.0, 0, 0]))


@torch.no_grad()
def test_each_class_is_decoded_with_its_own_prompt():
    model, windows = random_model(scale=0.5), random_windows(1, 3)
    prompts = VolumePrompts({1: boxed(4, 6), 2: boxed(5, 7, 8)}, 3)
    found = prompted_probabilities(model, model.encode(windows), [4, 5, 6], prompts, range(4, 7))
    boxes = {channel: torch.from_numpy(some.box).expand(1, 3, 4) for channel, some in prompts.classes.items()}
    one, two = (model(windows, boxes=boxes[channel]).logits[0].softmax(dim=1)[:, channel] for channel in (1, 2))
    torch.testing.assert_close(found[0, 1], one[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[2, 2], two[2], rtol=0, atol=1e-6)
    total = (one[1] + two[1]).clamp_min(1)
    torch.testing.assert_close(found[1, 1:], torch.stack([one[1], two[1]]) / total, rtol=0, atol=1e-6)
    assert (found[0, 2] == 0).all()
    assert (found[2, 1] == 0).all()
    torch.testing.assert_close(found.sum(dim=1), torch.ones(3, 32, 32))


@torch.no_grad()
def test_decided_slices_are_not_decoded_without_prompts(monkeypatch):
    model, windows = random_model(), random_windows(1, 3)
    decode = type(model).decode
    asked = []

    def watched(self, embeddings, points=None, point_labels=None, boxes=None, masks=None):
        asked.append((len(embeddings), boxes is not None))
        return decode(self, embeddings, points, point_labels, boxes, masks)

    monkeypatch.setattr(type(model), "decode", watched)
    both = VolumePrompts({1: boxed(5, 6), 2: boxed(5, 6)}, 3)
    found = prompted_probabilities(model, model.encode(windows), [4, 5, 6], both, range(5, 6))
    assert asked == [(1, True), (1, True)]
    assert torch.equal(found[0], torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 32, 32))
    asked.clear()
    prompted_probabilities(model, model.encode(windows), [4, 5, 6], VolumePrompts({1: boxed(5, 6)}, 3), range(9))
    assert asked == [(3, False), (1, True)], "the other class is automatic on all slices"


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@torch.no_grad()
def test_probabilities_are_float32(precision):
    model, windows = random_model(), random_windows(1, 3)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        found = prompted_probabilities(
            model, model.encode(windows), [0, 1, 2], VolumePrompts({1: boxed(0, 3)}, 3), range(3)
        )
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(dim=1), torch.ones(3, 32, 32))
