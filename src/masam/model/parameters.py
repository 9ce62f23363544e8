"""Count the parameters of a model without allocating them."""

from __future__ import annotations

from typing import NamedTuple

from masam.model.masam import INCREMENT_PREFIXES, TRAINED_PARTS, empty_model
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
    sizes = {name: p.numel() for name, p in model.named_parameters()}

    def count(*parts: str) -> int:
        return sum(size for name, size in sizes.items() if any(part in name for part in parts))

    return ParameterCount(
        total=sum(sizes.values()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        fact=count(*INCREMENT_PREFIXES),
        adapters=count(*TRAINED_PARTS),
        prompt_encoder=count("prompt_encoder."),
        mask_decoder=count("mask_decoder."),
    )
