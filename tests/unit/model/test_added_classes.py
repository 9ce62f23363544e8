from dataclasses import replace

import pytest
import torch
from tiny import SPEC, random_model, random_windows
from torch import nn

from masam.model.added_classes import with_classes
from masam.model.masam import merged

ORDERS = [
    (0, 1, 2, None),
    (0, None, 1, 2),
    (0, 2, None, 1, None),
    (0, 2, 1),
]
"""A class at the end, a class in the middle, two classes among reordered ones, and reordering only."""


def old_channels(origins):
    """Return the new position of each channel of the old model."""
    return [origins.index(channel) for channel in range(SPEC.num_channels)]


@pytest.mark.parametrize("origins", ORDERS)
@pytest.mark.parametrize("change", [{}, {"decoder": "sam", "increments": "lora", "image_size": 48}])
def test_logits_of_old_classes_stay_bit_for_bit(origins, change):
    model = random_model(replace(SPEC, **change))
    grown = with_classes(model, origins)
    assert grown.spec.num_classes == len(origins) - 1
    side = model.spec.image_size
    boxes = torch.tensor([2.0, 3.0, 20.0, 25.0]).expand(2, 3, 4)
    with torch.no_grad():
        for prompts in ({}, {"boxes": boxes}):
            windows = random_windows(side=side)
            before, after = model(windows, **prompts), grown(windows, **prompts)
            assert torch.equal(after.logits[:, :, old_channels(origins)], before.logits)
            torch.testing.assert_close(after.iou[:, :, old_channels(origins)], before.iou, rtol=0, atol=1e-6)
            new = [channel for channel, origin in enumerate(origins) if origin is None]
            assert not after.logits[:, :, new].any(), "a new class begins at 0"


def test_every_old_tensor_is_kept_and_only_the_new_class_has_others():
    model = random_model()
    grown = with_classes(model, (0, None, 1, 2))
    ours, theirs = model.state_dict(), grown.state_dict()
    for name, tensor in ours.items():
        if name.startswith("mask_decoder.output_hypernetworks_mlps."):
            head, channel, *tail = name.rsplit(".", 4)
            moved = ".".join([head, str(old_channels((0, None, 1, 2))[int(channel)]), *tail])
            assert torch.equal(theirs[moved], tensor)
        elif tensor.shape != theirs[name].shape:
            assert torch.equal(theirs[name][[0, 2, 3]], tensor), name
        else:
            assert torch.equal(theirs[name], tensor), name
    assert len(theirs) - len(ours) == 6


def test_a_second_addition_leaves_the_first_as_it_is():
    model = random_model()
    once = with_classes(model, (0, 1, 2, None))
    with torch.no_grad():  # as if the new class were trained
        for parameter in once.parameters():
            parameter += 0.01
    twice = with_classes(once, (0, 1, None, 2, 3))
    assert twice.spec.class_groups == ((0, 1, 3), (4,), (2,))
    with torch.no_grad():
        before, after = once(random_windows()).logits, twice(random_windows()).logits
    assert torch.equal(after[:, :, [0, 1, 3, 4]], before)
    assert before[:, :, 3].any()


def test_new_classes_train_and_attend_to_the_old_ones():
    torch.manual_seed(0)
    grown = with_classes(random_model(), (0, 1, 2, None)).train()
    nn.init.normal_(grown.mask_decoder.output_hypernetworks_mlps[3].layers[2].weight)
    grown(random_windows()).logits[:, :, 3].square().sum().backward()
    gradient = grown.mask_decoder.mask_tokens.weight.grad
    assert gradient[3].abs().max() > 0, "its own token"
    assert gradient[1].abs().max() > 0, "an old class's token"
    grown.zero_grad()
    grown(random_windows()).logits[:, :, :3].square().sum().backward()
    assert not grown.mask_decoder.mask_tokens.weight.grad[3].any(), "the new token reaches no old class"


def test_the_same_classes_are_the_same_model():
    model = random_model()
    assert with_classes(model, (0, 1, 2)) is model


def test_a_grown_model_can_be_merged():
    grown = with_classes(random_model(), (0, None, 1, 2))
    with torch.no_grad():
        got, expected = merged(grown)(random_windows()).logits, grown.eval()(random_windows()).logits
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
