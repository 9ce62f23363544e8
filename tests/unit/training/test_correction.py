import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from masam.prompts.simulation import draw_clicks, no_prompts
from masam.training.correction import add_corrective_clicks, has_clicks, pad_clicks
from masam.training.dataset import Prompts

DEPTH, SIDE = 3, 12


def stacked(*windows):
    return Prompts(*(torch.stack([torch.from_numpy(part) for part in parts]) for parts in zip(*windows, strict=True)))


def scene():
    """Class 2 on the two first slices, some of class 1 beside it, and a row without labels."""
    labels = torch.zeros(1, DEPTH, SIDE, SIDE, dtype=torch.int8)
    labels[0, :2, 2:9, 1:8] = 2
    labels[0, :, 9:11, 9:11] = 1
    labels[0, :, 0] = -100
    return labels


def clicked(*points):
    prompts = no_prompts(DEPTH, SIDE, SIDE)
    for place, (index, x, y, kind) in enumerate(points):
        prompts.points[index, place], prompts.point_labels[index, place] = (x, y), kind
    return pad_clicks(stacked(prompts), 2)


def made(prompts, index):
    count = int((prompts.point_labels[0, index] >= 0).sum())
    return [
        (*prompts.points[0, index, place].int().tolist(), int(prompts.point_labels[0, index, place]))
        for place in range(count)
    ]


def test_a_missed_region_gets_a_positive_click_and_a_false_one_a_negative_click():
    labels = scene()
    start = clicked((0, 2, 3, 1))
    answers = labels.clamp_min(0).long()
    answers[0, 1] = 0
    first = add_corrective_clicks(start, labels, answers)
    assert made(first, 0) == [(2, 3, 1)]
    assert made(first, 1) == [(4, 5, 1)], "the middle of the slice that was missed"
    answers = labels.clamp_min(0).long()
    answers[0, 0, 2:9, 8:12] = 2
    second = add_corrective_clicks(first, labels, answers)
    assert made(second, 0) == [(2, 3, 1), (9, 5, 0)]
    assert made(start, 1) == [], "what was given is not changed"


def test_other_classes_and_unlabelled_pixels_are_not_errors():
    labels = scene()
    answers = labels.clamp_min(0).long()
    answers[0, :, 0] = 2  # no label there
    answers[answers == 1] = 0  # another class
    for prompts in (clicked((0, 2, 3, 1)), clicked()):
        found = add_corrective_clicks(prompts, labels, answers)
        assert all(torch.equal(a.nan_to_num(-9), b.nan_to_num(-9)) for a, b in zip(found, prompts, strict=True))


def test_only_windows_with_clicks_are_corrected():
    boxed = no_prompts(DEPTH, SIDE, SIDE)
    boxed.boxes[:] = (1, 2, 7, 8)
    assert not has_clicks(stacked(boxed))
    pairs = zip(clicked((0, 2, 3, 1)), pad_clicks(stacked(boxed), 2), strict=True)
    both = Prompts(*map(torch.cat, pairs))
    assert has_clicks(both)
    labels = scene().expand(2, -1, -1, -1)
    found = add_corrective_clicks(both, labels, torch.zeros_like(labels, dtype=torch.int64))
    assert (found.point_labels[0] >= 0).sum() == 2
    assert (found.point_labels[1] == -1).all()
    assert torch.equal(found.boxes.nan_to_num(-9), both.boxes.nan_to_num(-9))


@given(st.integers(0, 10_000))
def test_a_corrective_click_is_on_an_error_and_follows_the_given_clicks(seed):
    generator = np.random.default_rng(seed)
    labels = generator.integers(-1, 3, (DEPTH, SIDE, SIDE)).astype(np.int16)
    labels[labels < 0] = -100
    channel = int(generator.integers(1, 3))
    prompts = pad_clicks(stacked(draw_clicks(labels == channel, labels >= 0, generator)), 1)
    answers = torch.from_numpy(generator.integers(0, 3, (1, DEPTH, SIDE, SIDE)))
    found = add_corrective_clicks(prompts, torch.from_numpy(labels)[None], answers)
    new = (found.point_labels != prompts.point_labels).nonzero().tolist()
    assert len(new) == 1, "random answers are always wrong somewhere"
    _, index, place = new[0]
    x, y = found.points[0, index, place].int().tolist()
    assert labels[index, y, x] != -100
    kind = int(found.point_labels[0, index, place])
    assert (labels[index, y, x] == channel) == (kind == 1)
    assert (int(answers[0, index, y, x]) == channel) == (kind == 0)
    for kinds in found.point_labels[0]:
        count = int((kinds >= 0).sum())
        assert (kinds[:count] >= 0).all()
