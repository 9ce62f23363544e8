"""Translate the tensor names of SAM, Hugging Face and the official MA-SAM to those of masam.

masam uses SAM's own names, so that SAM's files load unchanged. FacT and adapters have names that follow the paper.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from masam.errors import ModelError

State = Mapping[str, Tensor]
Kind = Literal["sam", "sam-hugging-face", "ma-sam-adapter"]

KINDS: dict[Kind, str] = {
    "sam": "SAM weights",
    "sam-hugging-face": "SAM weights under Hugging Face's names",
    "ma-sam-adapter": "an official MA-SAM adapter",
}

_CHARACTERISTIC_NAME: dict[Kind, str] = {
    "sam": "image_encoder.pos_embed",
    "sam-hugging-face": "vision_encoder.pos_embed",
    "ma-sam-adapter": "image_encoder.FacTu.weight",
}


def kind_of(names: Iterable[str]) -> Kind | None:
    """Identify published weights by their tensor names; None if unknown."""
    present = set(names)
    return next((kind for kind, name in _CHARACTERISTIC_NAME.items() if name in present), None)


# Hugging Face's names to SAM's, in this order (paper.md 4.3). ``layers`` becomes ``blocks`` in the encoder only.
_FROM_HUGGING_FACE = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
        (r"^vision_encoder\.", "image_encoder."),
        (r"\.patch_embed\.projection\.", ".patch_embed.proj."),
        (r"\.neck\.conv1\.", ".neck.0."),
        (r"\.neck\.layer_norm1\.", ".neck.1."),
        (r"\.neck\.conv2\.", ".neck.2."),
        (r"\.neck\.layer_norm2\.", ".neck.3."),
        (
            r"^(prompt_encoder\.shared_embedding|shared_image_embedding)\.positional_embedding$",
            "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        ),
        (r"\.point_embed\.", ".point_embeddings."),
        (r"\.mask_embed\.conv1\.", ".mask_downscaling.0."),
        (r"\.mask_embed\.layer_norm1\.", ".mask_downscaling.1."),
        (r"\.mask_embed\.conv2\.", ".mask_downscaling.3."),
        (r"\.mask_embed\.layer_norm2\.", ".mask_downscaling.4."),
        (r"\.mask_embed\.conv3\.", ".mask_downscaling.6."),
        (r"\.upscale_conv1\.", ".output_upscaling.0."),
        (r"\.upscale_layer_norm\.", ".output_upscaling.1."),
        (r"\.upscale_conv2\.", ".output_upscaling.3."),
        (r"(hypernetworks_mlps\.\d+|iou_prediction_head)\.proj_out\.", r"\1.layers.2."),
        (r"(hypernetworks_mlps\.\d+|iou_prediction_head)\.layers\.0\.", r"\1.layers.1."),
        (r"(hypernetworks_mlps\.\d+|iou_prediction_head)\.proj_in\.", r"\1.layers.0."),
        (r"\.layer_norm", ".norm"),
    )
]


def from_hugging_face(state: State, where: object = None) -> dict[str, Tensor]:
    """Rename the tensors of transformers' ``SamModel`` to SAM's own names; unknown names are kept.

    Raises ModelError if the two copies of the position encoding's matrix differ.
    """
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        ours = name
        for pattern, replacement in _FROM_HUGGING_FACE:
            ours = pattern.sub(replacement, ours)
        known = renamed.setdefault(ours, tensor)
        if known is not tensor and not known.is_meta and not torch.equal(known, tensor):
            raise ModelError(f"{name} and its copy under another name differ", where=where, fix="download it again")
    return renamed


_OFFICIAL_BLOCK = "image_encoder.ImageEncoderViT.blocks.{}.Block"
_ADAPTER_NAMES = {
    "norm.weight": "adapter_norm{}.weight",
    "norm.bias": "adapter_norm{}.bias",
    "down.weight": "adapter_linear_down{}.weight",
    "conv.weight": "adapter_conv{}.weight",
    "conv.bias": "adapter_conv{}.bias",
    "up.weight": "adapter_linear_up{}.weight",
}
_ADAPTER_SUFFIXES = {"adapter_attention": "", "adapter_mlp": "_2"}
FIRST_CONVOLUTION = f"{_OFFICIAL_BLOCK.format(0)}.adapter_conv.weight"


def official_names(depth: int) -> dict[str, str]:
    """Map our names to those of the official file, for an encoder of ``depth`` blocks, except for FacT's Sigmas."""
    names = {"image_encoder.fact.u": "image_encoder.FacTu.weight", "image_encoder.fact.v": "image_encoder.FacTv.weight"}
    for block in range(depth):
        for adapter, suffix in _ADAPTER_SUFFIXES.items():
            for ours, theirs in _ADAPTER_NAMES.items():
                name = f"image_encoder.blocks.{block}.{adapter}.{ours}"
                names[name] = f"{_OFFICIAL_BLOCK.format(block)}.{theirs.format(suffix)}"
    return names


def official_depth(adapter: State) -> int:
    """Return the number of encoder blocks of an official adapter file."""
    return sum(name.startswith("q_FacTs_") for name in adapter)


def from_official(adapter: State) -> dict[str, Tensor]:
    """Rename the tensors of an official adapter file to ours and stack its Sigmas; unknown names are kept."""
    depth = official_depth(adapter)
    theirs = {official: ours for ours, official in official_names(depth).items()}
    state = {theirs.get(name, name): tensor for name, tensor in adapter.items()}
    for letter in "qv":
        sigmas = [f"{letter}_FacTs_{block:03d}" for block in range(depth)]
        if sigmas and set(sigmas) <= set(state) and len({state[name].shape for name in sigmas}) == 1:
            state[f"image_encoder.fact.sigma_{letter}"] = torch.stack([state.pop(name) for name in sigmas])
    return state


def to_official(state: State, depth: int) -> dict[str, Tensor]:
    """Invert ``from_official``: return trained tensors with the names and order of an official file (paper.md 4.1)."""
    rest, names = dict(state), official_names(depth)
    official: dict[str, Tensor] = {}
    for letter in "qv":
        for block, sigma in enumerate(rest.pop(f"image_encoder.fact.sigma_{letter}")):
            official[f"{letter}_FacTs_{block:03d}"] = sigma
    return official | {names.get(name, name): tensor for name, tensor in rest.items()}


def fold_names(names: Iterable[str]) -> list[str]:
    """Merge names that differ in one number only, in sorted order: ``blocks.{0-3, 7}.norm1.weight``."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(re.sub(r"(?<=[._])\d+(?=\.|$)", "#", name, count=1), []).append(name)
    folded = []
    for pattern, members in groups.items():
        if len(members) == 1:
            folded += members
        else:
            head, _, tail = pattern.partition("#")
            numbers = sorted(int(name[len(head) : len(name) - len(tail)]) for name in members)
            folded.append(f"{head}{{{_ranges(numbers)}}}{tail}")
    return folded


def _ranges(numbers: list[int]) -> str:
    """Format ascending numbers, such as 0-3, 7."""
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
