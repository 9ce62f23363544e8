"""Clicks where the model is wrong: a window that was clicked on gets a further click, as from a user who corrects."""

from __future__ import annotations

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from masam.prompts.correction import deepest, largest_error
from masam.training.dataset import Prompts


def is_clicked(prompts: Prompts) -> bool:
    """Say whether a window has clicks."""
    return bool((prompts.point_labels >= 0).any())


def with_room(prompts: Prompts, clicks: int) -> Prompts:
    """Make room for further clicks on each slice.

    Args:
        prompts: Of some windows.
        clicks: Their number.
    """
    windows, slices, _ = prompts.point_labels.shape
    return prompts._replace(
        points=torch.cat([prompts.points, torch.zeros(windows, slices, clicks, 2)], dim=2),
        point_labels=torch.cat([prompts.point_labels, torch.full((windows, slices, clicks), -1)], dim=2),
    )


def corrected(prompts: Prompts, labels: Shaped[Tensor, "B S H W"], answers: Int[Tensor, "B S H W"]) -> Prompts:
    """Click once more on each window that has clicks: on the largest error of the class that they are about.

    The class is that of the label under a positive click, of which a window that has clicks has one. The error is the
    largest part that is connected in the window, the place in it that which lies furthest from its rim on its slice.

    Args:
        prompts: Of some windows, with room for a click on each slice (``with_room``); not changed.
        labels: Channel numbers, -100 where there is none; there nothing is an error.
        answers: Channel numbers that the model gave to these prompts.

    Returns:
        Prompts of the same shape: on the object where the error was missed, beside it where it was taken too much. A
        window without an error, and one without clicks, keeps what it has.
    """
    points, kinds = prompts.points.clone(), prompts.point_labels.clone()
    for window in range(len(labels)):
        on = (kinds[window] == 1).nonzero()
        if len(on) == 0:
            continue
        index, place = on[0].tolist()
        x, y = points[window, index, place].long().tolist()
        known, channel = labels[window] >= 0, labels[window, index, y, x]
        reference, answer = labels[window] == channel, (answers[window] == channel) & known
        error, is_missed = largest_error(reference.numpy(), answer.numpy())
        if error is None:
            continue
        # Slices lie far apart, so that it is the depth on the slice that counts.
        index, y, x = deepest(error, (float(max(error.shape)), 1.0, 1.0))
        place = int((kinds[window, index] >= 0).sum())
        points[window, index, place] = torch.tensor([x, y], dtype=points.dtype)
        kinds[window, index, place] = int(is_missed)
    return prompts._replace(points=points, point_labels=kinds)
