"""Published tensors in and out: SAM's and the official MA-SAM's names, strict in both directions.

Nothing here touches files; a state is a mapping of names to tensors, ``where`` the file that an error names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masam.errors import ModelError
from masam.model.masam import Masam
from masam.model.sam import Sam
from masam.model.sizes import IMAGE_SIZE_STEP, SIZES, MasamSpec, SamSize

State = Mapping[str, Tensor]

_FRESH_IN_MASAM = (
    "mask_decoder.mask_tokens.",
    "mask_decoder.output_hypernetworks_mlps.",
    "mask_decoder.iou_prediction_head.",
    "mask_decoder.output_upscaling.4.",
    "mask_decoder.output_upscaling.6.",
    "mask_decoder.output_upscaling.7.",
    "mask_decoder.output_upscaling.9.",
)
"""Decoder parts that depend on the classes or on the further upsamplings: SAM has none that fit (paper.md 1.3)."""


def infer_sam_size(state: State, decoder_heads: int = 8, where: object = None) -> SamSize:
    """Read a SAM's architecture off its tensors.

    Args:
        state: SAM's tensors under their official names.
        decoder_heads: Heads of the decoder's transformer, the one number that no shape tells.
        where: File to name in an error.

    Returns:
        The size, under its published name if it is one of those, else ``custom``.

    Raises:
        ModelError: The tensors are not a SAM's.
    """
    position = _require(state, "image_encoder.pos_embed", 4, where)
    grid, width = position.shape[1], position.shape[3]
    if position.shape[1] != position.shape[2]:
        raise ModelError(f"expected positions on a square grid, got {tuple(position.shape)}", where=where)
    depth = _count(state, "image_encoder.blocks.")
    lengths = [_require(state, f"image_encoder.blocks.{i}.attn.rel_pos_h", 2, where).shape[0] for i in range(depth)]
    head_dim = _require(state, "image_encoder.blocks.0.attn.rel_pos_h", 2, where).shape[1]
    global_length = 2 * grid - 1
    windowed = [length for length in lengths if length != global_length]
    size = SamSize(
        name="custom",
        embed_dim=width,
        depth=depth,
        num_heads=width // head_dim,
        global_blocks=tuple(i for i, length in enumerate(lengths) if length == global_length),
        attention_window=(windowed[0] + 1) // 2 if windowed else SIZES["vit_b"].attention_window,
        mlp_dim=_require(state, "image_encoder.blocks.0.mlp.lin1.weight", 2, where).shape[0],
        base_image_size=grid * IMAGE_SIZE_STEP,
        **_decoder_numbers(state, where),
        decoder_heads=decoder_heads,
    )
    return next((known for known in SIZES.values() if replace(size, name=known.name) == known), size)


def infer_masam_spec(
    sam: State,
    adapter: State,
    image_size: int,
    fact_scale: float,
    decoder_heads: int = 8,
    where: tuple[object, object] = (None, None),
) -> MasamSpec:
    """Read an adapted model's numbers off SAM's tensors and the official adapter's.

    Args:
        sam: SAM's tensors.
        adapter: Tensors of an official ``epoch_N.pth`` (paper.md 4.1).
        image_size: Input side in pixels; no tensor tells it.
        fact_scale: s; no tensor tells it.
        decoder_heads: Heads of the decoder's transformer; no tensor tells it.
        where: Files of ``sam`` and ``adapter`` to name in errors.

    Raises:
        ModelError: The two do not belong together, or one is not what it should be.
    """
    size = infer_sam_size(sam, decoder_heads, where[0])
    u = _require(adapter, "image_encoder.FacTu.weight", 2, where[1])
    depth = sum(name.startswith("q_FacTs_") for name in adapter)
    if (depth, u.shape[1]) != (size.depth, size.embed_dim):
        raise ModelError(
            f"the adapter belongs to an encoder of {depth} blocks of width {u.shape[1]}, "
            f"the SAM file holds one of {size.depth} blocks of width {size.embed_dim} ({size.name})",
            where=where[1],
            fix=f"use the SAM file of {_name_by_width(u.shape[1])}",
        )
    down = _require(adapter, f"{_OFFICIAL_BLOCK.format(0)}.adapter_linear_down.weight", 2, where[1])
    return MasamSpec(
        sam=replace(size, **_decoder_numbers(adapter, where[1])),
        num_classes=_require(adapter, "mask_decoder.mask_tokens.weight", 2, where[1]).shape[0] - 1,
        image_size=image_size,
        fact_rank=u.shape[0],
        fact_scale=fact_scale,
        adapter_channels=down.shape[0],
    )


def resize_positions(state: State, size: SamSize, image_size: int) -> dict[str, Tensor]:
    """Interpolate the position tables of SAM's image encoder to another image size, as the reference does.

    The grid of absolute positions is resized bilinearly (no antialias), the relative positions of global blocks along
    their length; windowed blocks keep theirs (paper.md 1.4 and quirk 17).

    Args:
        state: SAM's tensors.
        size: Its architecture.
        image_size: Wanted input side in pixels, a multiple of 16.
    """
    grid = image_size // IMAGE_SIZE_STEP
    resized = dict(state)
    name = "image_encoder.pos_embed"
    if state[name].shape[1] != grid:
        table = state[name].float().permute(0, 3, 1, 2)
        table = F.interpolate(table, (grid, grid), mode="bilinear", align_corners=False)
        resized[name] = table.permute(0, 2, 3, 1)
    for block in size.global_blocks:
        for axis in "hw":
            name = f"image_encoder.blocks.{block}.attn.rel_pos_{axis}"
            if state[name].shape[0] != 2 * grid - 1:
                table = state[name].float()[None, None]
                table = F.interpolate(table, (2 * grid - 1, table.shape[3]), mode="bilinear", align_corners=False)
                resized[name] = table[0, 0]
    return resized


def load_sam_state(model: Sam | Masam, state: State, size: SamSize, where: object = None) -> None:
    """Load SAM's tensors into a plain SAM, or into what MA-SAM takes from SAM.

    Args:
        model: Model of any image size; the state's positions are resized to it.
        state: SAM's tensors under their official names.
        size: The model's architecture, which the state must have.
        where: File to name in an error.

    Raises:
        ModelError: A tensor is missing, unexpected, misshapen or not finite; all of them are listed.
    """
    theirs = {name: tensor for name, tensor in state.items() if name not in ("pixel_mean", "pixel_std")}
    found = infer_sam_size(theirs, size.decoder_heads, where)
    if (found.embed_dim, found.depth) != (size.embed_dim, size.depth):
        raise ModelError(
            f"expected the weights of {size.name} ({size.depth} blocks of width {size.embed_dim}), "
            f"the file holds {found.name} ({found.depth} blocks of width {found.embed_dim})",
            where=where,
            fix=f"give the file of {size.name}" + (f", or build {found.name}" if found.name in SIZES else ""),
        )
    theirs = resize_positions(theirs, found, model.image_encoder.image_size)
    if isinstance(model, Masam):
        theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith(_FRESH_IN_MASAM)}
        kept = {name for name in model.state_dict() if name.startswith(_FRESH_IN_MASAM) or _is_adaptation(name)}
    else:
        kept = set()
    load_strictly(model, theirs, kept=kept, where=where)


def load_official_state(model: Masam, adapter: State, where: object = None) -> None:
    """Load the tensors of an official ``epoch_N.pth``: every tensor that MA-SAM trains.

    Raises:
        ModelError: A tensor is missing, unexpected, misshapen or not finite; all of them are listed.
    """
    kept = set(model.state_dict()) - model.trained_names()
    load_strictly(model, from_official_names(adapter), kept=kept, where=where)


def load_strictly(model: nn.Module, state: State, kept: Iterable[str] = (), where: object = None) -> None:
    """Copy a state into a model and list everything that does not fit.

    Args:
        model: Model whose tensors are overwritten.
        state: Tensors under the model's names.
        kept: Names that the state need not have; the model keeps its own.
        where: File to name in an error.

    Raises:
        ModelError: A tensor is missing, unexpected, misshapen or not finite.
    """
    own = model.state_dict()
    faults = [f"missing {name}" for name in sorted(set(own) - set(state) - set(kept))]
    faults += [f"unexpected {name}" for name in sorted(set(state) - set(own))]
    for name in sorted(set(own) & set(state)):
        if own[name].shape != state[name].shape:
            faults.append(f"{name} has shape {tuple(state[name].shape)}, expected {tuple(own[name].shape)}")
        elif not torch.isfinite(state[name]).all():
            faults.append(f"{name} holds values that are not finite")
    if faults:
        listed = ", ".join(faults[:12]) + (f", and {len(faults) - 12} more" if len(faults) > 12 else "")
        raise ModelError(f"{len(faults)} tensors do not fit the model: {listed}", where=where)
    model.load_state_dict(dict(state), strict=False)


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


def official_names(depth: int) -> dict[str, str]:
    """Map our adapter names to the official file's, for an encoder of ``depth`` blocks; FacT's Sigmas are apart."""
    names = {"image_encoder.fact.u": "image_encoder.FacTu.weight", "image_encoder.fact.v": "image_encoder.FacTv.weight"}
    for block in range(depth):
        for adapter, suffix in _ADAPTER_SUFFIXES.items():
            for ours, theirs in _ADAPTER_NAMES.items():
                name = f"image_encoder.blocks.{block}.{adapter}.{ours}"
                names[name] = f"{_OFFICIAL_BLOCK.format(block)}.{theirs.format(suffix)}"
    return names


def from_official_names(adapter: State) -> dict[str, Tensor]:
    """Rename an official adapter file's tensors to ours and stack its Sigmas; unknown names are passed on."""
    depth = sum(name.startswith("q_FacTs_") for name in adapter)
    theirs = {official: ours for ours, official in official_names(depth).items()}
    state = {theirs.get(name, name): tensor for name, tensor in adapter.items()}
    for letter in "qv":
        sigmas = [f"{letter}_FacTs_{block:03d}" for block in range(depth)]
        if sigmas and set(sigmas) <= set(state) and len({state[name].shape for name in sigmas}) == 1:
            state[f"image_encoder.fact.sigma_{letter}"] = torch.stack([state.pop(name) for name in sigmas])
    return state


def _decoder_numbers(state: State, where: object) -> dict[str, Any]:
    return {
        "out_channels": _require(state, "mask_decoder.iou_token.weight", 2, where).shape[1],
        "decoder_depth": _count(state, "mask_decoder.transformer.layers."),
        "decoder_mlp_dim": _require(state, "mask_decoder.transformer.layers.0.mlp.lin1.weight", 2, where).shape[0],
        "iou_hidden_dim": _require(state, "mask_decoder.iou_prediction_head.layers.0.weight", 2, where).shape[0],
        "mask_channels": _require(state, "prompt_encoder.mask_downscaling.3.weight", 4, where).shape[0],
    }


def _require(state: State, name: str, ndim: int, where: object) -> Tensor:
    tensor = state.get(name)
    if tensor is None or tensor.ndim != ndim:
        got = "none" if tensor is None else f"shape {tuple(tensor.shape)}"
        some = ", ".join(sorted(state)[:3])
        raise ModelError(
            f"expected a tensor {name} with {ndim} axes, got {got} (the file's names begin {some})",
            where=where,
            fix="check that this is the kind of file that was asked for",
        )
    return tensor


def _count(state: State, prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def _is_adaptation(name: str) -> bool:
    return name.startswith("image_encoder.fact.") or ".adapter_attention." in name or ".adapter_mlp." in name


def _name_by_width(width: int) -> str:
    return next((size.name for size in SIZES.values() if size.embed_dim == width), f"an encoder of width {width}")
