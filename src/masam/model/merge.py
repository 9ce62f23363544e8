"""Merge FacT or LoRA into the projections: the same model with fewer operations, for inference."""

from __future__ import annotations

from dataclasses import replace

import torch

from masam.model.masam import INCREMENT_PREFIXES, Masam, empty_model


@torch.no_grad()
def merged(model: Masam) -> Masam:
    """Return a copy of a model with its increments added to the query and value weights, in evaluation mode.

    The copy has rank 0, and the type and device of the model. Its encoder differs from every SAM file, so its card
    names none, and ``save`` writes the full encoder.
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
