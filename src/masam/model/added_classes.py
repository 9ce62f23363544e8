"""Add classes to a trained model: new mask tokens beside the old ones, which go on as if nothing had come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from masam.model.masam import Masam, empty_model
from masam.model.sam import build_mask_decoder

_BY_ROW = (
    "mask_decoder.mask_tokens.weight",
    "mask_decoder.iou_prediction_head.layers.2.weight",
    "mask_decoder.iou_prediction_head.layers.2.bias",
)
"""Tensors with a row a channel."""

_NETWORKS = "mask_decoder.output_hypernetworks_mlps."


@torch.no_grad()
def with_classes(model: Masam, origins: Sequence[int | None]) -> Masam:
    """Return a model with the classes of another, some of them new, in an order of its own.

    Every tensor of the old classes is kept, and their logits are the same bit for bit, since earlier tokens do not see
    later ones (``masam.model.two_way_transformer``). A new class gets a token and networks as a fresh decoder has them,
    but for the last layer of its hyper-network, which is zero: its logits begin at 0.

    Args:
        model: The trained model; the result shares its tensors.
        origins: For each channel, background first, the channel of the model that it is, or None for a new class. Each
            channel of the model comes once.
    """
    if list(origins) == list(range(model.spec.num_channels)):
        return model
    new = tuple(channel for channel, origin in enumerate(origins) if origin is None)
    places = {origin: channel for channel, origin in enumerate(origins) if origin is not None}
    groups = [tuple(places[channel] for channel in group) for group in model.spec.channel_groups]
    spec = replace(model.spec, num_classes=len(origins) - 1, class_groups=(*groups, *((new,) if new else ())))
    fresh = build_mask_decoder(spec.sam, spec.num_channels).state_dict(prefix="mask_decoder.")
    old = model.state_dict()
    state = {name: tensor for name, tensor in old.items() if name not in _BY_ROW and not name.startswith(_NETWORKS)}
    state |= {name: _rows(old[name], fresh[name], origins) for name in _BY_ROW}
    first = f"{_NETWORKS}0."
    for layer in (name.removeprefix(first) for name in old if name.startswith(first)):
        for channel, origin in enumerate(origins):
            name, like = f"{_NETWORKS}{channel}.{layer}", old[first + layer]
            if origin is not None:
                state[name] = old[f"{_NETWORKS}{origin}.{layer}"]
            else:
                state[name] = torch.zeros_like(like) if layer.startswith("layers.2.") else fresh[name].to(like)
    grown = empty_model(spec)
    grown.load_state_dict(state, assign=True)
    grown.card = model.card
    return grown.train(model.training)


def _rows(old: Tensor, fresh: Tensor, origins: Sequence[int | None]) -> Tensor:
    """Return the old rows in their new places and fresh ones between."""
    rows = [fresh[channel].to(old) if origin is None else old[origin] for channel, origin in enumerate(origins)]
    return torch.stack(rows)
