"""Fold FacT or LoRA into the projections: the same model in fewer operations, for use and not for further training."""

from __future__ import annotations

from dataclasses import replace

import torch

from masam.model.masam import INCREMENT_PREFIXES, Masam, empty_model


@torch.no_grad()
def merged(model: Masam) -> Masam:
    """Return a copy of a model with its increments added to the query and value weights.

    The copy's rank is 0. Its encoder is no longer that of any SAM file, so its card names none and ``save`` puts
    the whole encoder into the file.

    Args:
        model: The model; it stays as it is.

    Returns:
        A model of its own in evaluation mode, of the same type and on the same device.
    """
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    increments = model.image_encoder.increments
    if increments is not None:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(INCREMENT_PREFIXES)}
        for layer in increments.blocks:
            name = f"image_encoder.blocks.{layer}.attn.qkv.weight"
            state[name] = increments.merged(layer, state[name])
    copy = empty_model(replace(model.spec, fact_rank=0, increments="fact", fact_blocks="all"))
    copy.load_state_dict(state, assign=True)
    copy.card = model.card and replace(model.card, base=None)
    return copy.eval()
