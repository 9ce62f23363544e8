"""Corrective clicks: each window with clicks gets another click at the largest error of the model."""

from __future__ import annotations

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from masam.prompts.correction import deepest, largest_error
from masam.training.dataset import Prompts


def has_clicks(prompts: Prompts) -> bool:
    """Return whether any window has clicks."""
    return bool((prompts.point_labels >= 0).any())


def pad_clicks(prompts: Prompts, clicks: int) -> Prompts:
    """Add empty entries for further clicks on each slice."""
    windows, slices, _ = prompts.point_labels.shape
    return prompts._replace(
        points=torch.cat([prompts.points, torch.zeros(windows, slices, clicks, 2)], dim=2),
        point_labels=torch.cat([prompts.point_labels, torch.full((windows, slices, clicks), -1)], dim=2),
    )


def add_corrective_clicks(
    prompts: Prompts, labels: Shaped[Tensor, "B S H W"], predictions: Int[Tensor, "B S H W"]
) -> Prompts:
    """Add a click to each window with clicks, at the largest error for the class that the clicks refer to.

    The class is the label under a positive click; every window with clicks has one. The error is the largest connected
    component of the window, and the click is placed at the pixel with the largest distance from its border within the
    slice.

    Args:
        prompts: Prompts of some windows, with an empty entry on each slice (``pad_clicks``); not changed.
        labels: Channel numbers; -100 where the label is unknown, which counts as correct.
        predictions: Channel numbers predicted with these prompts.

    Returns:
        Prompts of the same shape. The click is positive for a missed region and negative for a false one. Windows
        without clicks or without an error are unchanged.
    """
    points, kinds = prompts.points.clone(), prompts.point_labels.clone()
    for window in range(len(labels)):
        positive = (kinds[window] == 1).nonzero()
        if len(positive) == 0:
            continue
        index, entry = positive[0].tolist()
        x, y = points[window, index, entry].long().tolist()
        is_known, channel = labels[window] >= 0, labels[window, index, y, x]
        reference, prediction = labels[window] == channel, (predictions[window] == channel) & is_known
        error, is_missed = largest_error(reference.numpy(), prediction.numpy())
        if error is None:
            continue
        # A large distance between slices, so that only the distance within the slice counts.
        index, y, x = deepest(error, (float(max(error.shape)), 1.0, 1.0))
        entry = int((kinds[window, index] >= 0).sum())
        points[window, index, entry] = torch.tensor([x, y], dtype=points.dtype)
        kinds[window, index, entry] = int(is_missed)
    return prompts._replace(points=points, point_labels=kinds)
