"""Add classes to a trained model: new mask tokens, which do not change the logits of the old classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from masam.model.masam import Masam, empty_model
from masam.model.mask_decoder import MaskDecoder

_BY_ROW = (
    "mask_decoder.mask_tokens.weight",
    "mask_decoder.iou_prediction_head.layers.2.weight",
    "mask_decoder.iou_prediction_head.layers.2.bias",
)
"""Tensors with one row per channel."""

_NETWORKS = "mask_decoder.output_hypernetworks_mlps."


@torch.no_grad()
def with_classes(model: Masam, origins: Sequence[int | None]) -> Masam:
    """Return a model with the classes of a trained model and new ones, in any order.

    The logits of the old classes stay the same bit for bit, because their tensors are kept and their tokens do not
    attend to later tokens (``masam.model.two_way_transformer``). A new class is initialised as in a new decoder, except
    for the last layer of its hyper-network, which is zero: its initial logits are 0.

    Args:
        model: The trained model; the result shares its tensors.
        origins: For each channel of the result, background first, the channel of the model, or None for a new class.
            Each channel of the model occurs once.
    """
    if list(origins) == list(range(model.spec.num_channels)):
        return model
    new = tuple(channel for channel, origin in enumerate(origins) if origin is None)
    positions = {origin: channel for channel, origin in enumerate(origins) if origin is not None}
    groups = [tuple(positions[channel] for channel in group) for group in model.spec.channel_groups]
    spec = replace(model.spec, num_classes=len(origins) - 1, class_groups=(*groups, *((new,) if new else ())))
    fresh = MaskDecoder(spec.sam, spec.num_channels).state_dict(prefix="mask_decoder.")
    old = model.state_dict()
    state = {name: tensor for name, tensor in old.items() if name not in _BY_ROW and not name.startswith(_NETWORKS)}
    state |= {name: _rows(old[name], fresh[name], origins) for name in _BY_ROW}
    first = f"{_NETWORKS}0."
    for layer in (name.removeprefix(first) for name in old if name.startswith(first)):
        for channel, origin in enumerate(origins):
            name = f"{_NETWORKS}{channel}.{layer}"
            if origin is not None:
                state[name] = old[f"{_NETWORKS}{origin}.{layer}"]
            elif layer.startswith("layers.2."):
                state[name] = torch.zeros_like(old[first + layer])
            else:
                state[name] = fresh[name].to(old[first + layer])
    grown = empty_model(spec)
    grown.load_state_dict(state, assign=True)
    grown.card = model.card
    return grown.train(model.training)


def _rows(old: Tensor, fresh: Tensor, origins: Sequence[int | None]) -> Tensor:
    """Return the old rows at their new positions, and fresh rows for new classes."""
    rows = [fresh[channel].to(old) if origin is None else old[origin] for channel, origin in enumerate(origins)]
    return torch.stack(rows)
