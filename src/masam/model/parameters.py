"""Count the parameters of a model without allocating them."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from masam.model.masam import INCREMENT_PREFIXES, empty_model
from masam.model.spec import MasamSpec


class ParameterCount(NamedTuple):
    """Numbers of parameters, excluding buffers; ``fact`` counts the increments, FacT or LoRA."""

    total: int
    trainable: int
    fact: int
    adapters: int
    prompt_encoder: int
    mask_decoder: int


def count_parameters(spec: MasamSpec) -> ParameterCount:
    """Count the parameters of a model, which is built on the meta device."""
    model = empty_model(spec)

    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    encoder = model.image_encoder
    adapters = sum(
        p.numel() for name, p in encoder.named_parameters() if ".adapter_attention." in name or ".adapter_mlp." in name
    )
    return ParameterCount(
        total=count(model),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        fact=sum(p.numel() for name, p in model.named_parameters() if name.startswith(INCREMENT_PREFIXES)),
        adapters=adapters,
        prompt_encoder=count(model.prompt_encoder),
        mask_decoder=count(model.mask_decoder),
    )
