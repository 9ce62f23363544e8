"""Infer the architecture of a SAM, and the options of an official MA-SAM adapter, from tensor shapes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from masam.errors import ConfigError, ModelError
from masam.model.sizes import IMAGE_SIZE_STEP, SIZES, SamSize
from masam.model.spec import MasamSpec
from masam.weights.sam_names import FIRST_CONVOLUTION, State, official_depth

USUAL_DECODER_HEADS = 8
"""Attention heads in the decoder of every published SAM."""


def infer_sam_size(state: State, decoder_heads: int | None = None, where: object = None) -> SamSize:
    """Infer the architecture of a SAM, named as published or ``custom``, from its tensors under SAM's names.

    No shape determines the heads of the decoder's transformer. Without ``decoder_heads``, they are those of the
    published size, or the usual number. Raises ModelError if the tensors are not those of a SAM.
    """
    position = _require(state, "image_encoder.pos_embed", 4, where)
    grid, width = position.shape[1], position.shape[3]
    if position.shape[1] != position.shape[2]:
        raise ModelError(f"expected positions on a square grid, got {tuple(position.shape)}", where=where)
    # Missing tensors are replaced by the shapes of the published size of this width: loading then lists all of them.
    likely = next((size for size in SIZES.values() if size.embed_dim == width), None)
    depth = _count(state, "image_encoder.blocks.")
    if depth > len(state):
        raise ModelError(f"its blocks are numbered up to {depth - 1}, it has {len(state)} tensors", where=where)
    global_length = 2 * grid - 1
    lengths = []
    for block in range(depth):
        default = None
        if likely is not None:
            default = global_length if block in likely.global_blocks else 2 * likely.attention_window - 1
        lengths.append(_side(state, f"image_encoder.blocks.{block}.attn.rel_pos_h", 0, 2, default, where))
    windowed = [length for length in lengths if length != global_length]
    usual_head_dim = None if likely is None else likely.embed_dim // likely.num_heads
    head_dim = _side(state, "image_encoder.blocks.0.attn.rel_pos_h", 1, 2, usual_head_dim, where)
    try:
        size = SamSize(
            name="custom",
            embed_dim=width,
            depth=depth,
            num_heads=width // head_dim,
            global_blocks=tuple(i for i, length in enumerate(lengths) if length == global_length),
            attention_window=(windowed[0] + 1) // 2 if windowed else SIZES["vit_b"].attention_window,
            base_image_size=grid * IMAGE_SIZE_STEP,
            **_widths(state, likely, where),
            decoder_heads=decoder_heads or USUAL_DECODER_HEADS,
        )
    except ConfigError as error:
        raise ModelError(f"its tensors are not those of a SAM ({error})", where=where) from error
    for known in SIZES.values():
        heads = decoder_heads or known.decoder_heads
        if replace(known, base_image_size=size.base_image_size) == replace(size, name=known.name, decoder_heads=heads):
            return replace(size, name=known.name, decoder_heads=heads)
    return size


def infer_masam_spec(
    sam: State,
    adapter: State,
    image_size: int,
    fact_scale: float,
    decoder_heads: int = USUAL_DECODER_HEADS,
    where: tuple[object, object] = (None, None),
) -> MasamSpec:
    """Infer the specification of an adapted model from the tensors of SAM and of an official adapter.

    No tensor determines the image size, the factor of FacT and the heads of the decoder. ``where`` names the two files.
    Raises ModelError if the two do not match, or one has the wrong content.
    """
    size = infer_sam_size(sam, decoder_heads, where[0])
    inferred = infer_adapter(adapter, where[1])
    if (inferred.depth, inferred.embed_dim) != (size.depth, size.embed_dim):
        raise ModelError(
            f"the adapter belongs to an encoder of {inferred.depth} blocks of width {inferred.embed_dim}, "
            f"the SAM file contains one of {size.depth} blocks of width {size.embed_dim} ({size.name})",
            where=where[1],
            fix=f"use the SAM file of {inferred.size}",
        )
    return MasamSpec(
        sam=replace(size, **_widths(adapter, size, where[1])),
        num_classes=inferred.num_classes,
        image_size=image_size,
        fact_rank=inferred.fact_rank,
        fact_scale=fact_scale,
        adapter_channels=inferred.adapter_channels,
    )


@dataclass(frozen=True)
class AdapterOptions:
    """Options of an official adapter that its tensors determine.

    ``size`` is the name of the published size with the width of its encoder, or a description. ``depth`` counts encoder
    blocks, ``num_classes`` foreground classes, and ``depth_kernel`` is the kernel size along the slices.
    """

    size: str
    depth: int
    embed_dim: int
    num_classes: int
    fact_rank: int
    adapter_channels: int
    depth_kernel: int


def infer_adapter(adapter: State, where: object = None) -> AdapterOptions:
    """Infer the options of an official adapter; raise ModelError if a required tensor is missing or misshapen."""
    u = _require(adapter, "image_encoder.FacTu.weight", 2, where)
    tokens = _require(adapter, "mask_decoder.mask_tokens.weight", 2, where)
    convolution = _require(adapter, FIRST_CONVOLUTION, 5, where)
    rank, width = u.shape
    if len(tokens) < 2:
        raise ModelError(f"expected mask tokens for background and classes, got {len(tokens)}", where=where)
    published = next((size.name for size in SIZES.values() if size.embed_dim == width), f"an encoder of width {width}")
    return AdapterOptions(
        size=published,
        depth=official_depth(adapter),
        embed_dim=width,
        num_classes=len(tokens) - 1,
        fact_rank=rank,
        adapter_channels=convolution.shape[0],
        depth_kernel=convolution.shape[2],
    )


def _widths(state: State, likely: SamSize | None, where: object) -> dict[str, Any]:
    """Infer widths and the decoder's depth; a missing tensor has the width of the likely size."""
    sources = {
        "mlp_dim": ("image_encoder.blocks.0.mlp.lin1.weight", 0, 2),
        "out_channels": ("mask_decoder.iou_token.weight", 1, 2),
        "decoder_mlp_dim": ("mask_decoder.transformer.layers.0.mlp.lin1.weight", 0, 2),
        "iou_hidden_dim": ("mask_decoder.iou_prediction_head.layers.0.weight", 0, 2),
        "mask_channels": ("prompt_encoder.mask_downscaling.3.weight", 0, 4),
    }
    widths = {
        field: _side(state, name, axis, ndim, getattr(likely, field, None), where)
        for field, (name, axis, ndim) in sources.items()
    }
    return widths | {"decoder_depth": _count(state, "mask_decoder.transformer.layers.")}


def _side(state: State, name: str, axis: int, ndim: int, default: int | None, where: object) -> int:
    """Return the length of one axis of a tensor, or the default, if given, for a missing tensor."""
    if name not in state and default is not None:
        return default
    return _require(state, name, ndim, where).shape[axis]


def _require(state: State, name: str, ndim: int, where: object) -> Tensor:
    tensor = state.get(name)
    if tensor is None or tensor.ndim != ndim or 0 in tensor.shape:
        got = "none" if tensor is None else f"shape {tuple(tensor.shape)}"
        raise ModelError(
            f"expected a tensor {name} with {ndim} axes, got {got} (its names begin {', '.join(sorted(state)[:3])})",
            where=where,
            fix="check that the file is of the expected kind",
        )
    return tensor


def _count(state: State, prefix: str) -> int:
    """Return the highest block number plus one, so that gaps are reported as missing tensors."""
    numbers = {name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)}
    return max((int(number) + 1 for number in numbers if number.isdecimal()), default=0)
