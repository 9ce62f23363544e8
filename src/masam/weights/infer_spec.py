"""A model's numbers read off its tensors: which SAM a file is, and which MA-SAM stands on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from masam.errors import ConfigError, ModelError
from masam.model.sizes import IMAGE_SIZE_STEP, SIZES, SamSize
from masam.model.spec import MasamSpec
from masam.weights.sam_names import FIRST_CONVOLUTION, State, official_depth

USUAL_DECODER_HEADS = 8
"""What every published SAM's decoder has."""


def infer_sam_size(state: State, decoder_heads: int | None = None, where: object = None) -> SamSize:
    """Read a SAM's architecture off its tensors.

    Args:
        state: SAM's tensors under their official names.
        decoder_heads: Heads of the decoder's transformer, the one number that no shape tells; None takes those of the
            published size, or else the usual ones.
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
    # What a damaged file lacks is taken from the published size of that width, so that loading can list all of it.
    likely = next((known for known in SIZES.values() if known.embed_dim == width), None)
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
    usual = None if likely is None else likely.embed_dim // likely.num_heads
    head_dim = _side(state, "image_encoder.blocks.0.attn.rel_pos_h", 1, 2, usual, where)
    try:
        size = SamSize(
            name="custom",
            embed_dim=width,
            depth=depth,
            num_heads=width // head_dim,
            global_blocks=tuple(i for i, length in enumerate(lengths) if length == global_length),
            attention_window=(windowed[0] + 1) // 2 if windowed else SIZES["vit_b"].attention_window,
            mlp_dim=_side(
                state, "image_encoder.blocks.0.mlp.lin1.weight", 0, 2, None if likely is None else likely.mlp_dim, where
            ),
            base_image_size=grid * IMAGE_SIZE_STEP,
            **_decoder_numbers(state, likely, where),
            decoder_heads=decoder_heads or USUAL_DECODER_HEADS,
        )
    except ConfigError as error:
        raise ModelError(f"its tensors are no SAM's ({error})", where=where) from error
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
    found = infer_adapter(adapter, where[1])
    if (found.depth, found.embed_dim) != (size.depth, size.embed_dim):
        raise ModelError(
            f"the adapter belongs to an encoder of {found.depth} blocks of width {found.embed_dim}, "
            f"the SAM file holds one of {size.depth} blocks of width {size.embed_dim} ({size.name})",
            where=where[1],
            fix=f"use the SAM file of {found.size}",
        )
    return MasamSpec(
        sam=replace(size, **_decoder_numbers(adapter, size, where[1])),
        num_classes=found.num_classes,
        image_size=image_size,
        fact_rank=found.fact_rank,
        fact_scale=fact_scale,
        adapter_channels=found.adapter_channels,
    )


@dataclass(frozen=True)
class AdapterNumbers:
    """What an official adapter file tells of itself.

    Attributes:
        size: Published size of its encoder's width, or a description of it.
        depth: Encoder blocks.
        embed_dim: Width of the encoder.
        num_classes: Foreground classes.
        fact_rank: Rank of FacT.
        adapter_channels: Width of the 3D adapters.
        depth_kernel: Slices that an adapter's convolution spans.
    """

    size: str
    depth: int
    embed_dim: int
    num_classes: int
    fact_rank: int
    adapter_channels: int
    depth_kernel: int


def infer_adapter(adapter: State, where: object = None) -> AdapterNumbers:
    """Read an official adapter's numbers off its tensors.

    Args:
        adapter: Tensors of an official ``epoch_N.pth`` (paper.md 4.1).
        where: File to name in an error.

    Raises:
        ModelError: A tensor that tells a number is missing or misshapen.
    """
    u = _require(adapter, "image_encoder.FacTu.weight", 2, where)
    tokens = _require(adapter, "mask_decoder.mask_tokens.weight", 2, where)
    convolution = _require(adapter, FIRST_CONVOLUTION, 5, where)
    rank, width = u.shape
    if len(tokens) < 2:
        raise ModelError(f"expected mask tokens for background and classes, got {len(tokens)}", where=where)
    published = next((size.name for size in SIZES.values() if size.embed_dim == width), f"an encoder of width {width}")
    return AdapterNumbers(
        size=published,
        depth=official_depth(adapter),
        embed_dim=width,
        num_classes=len(tokens) - 1,
        fact_rank=rank,
        adapter_channels=convolution.shape[0],
        depth_kernel=convolution.shape[2],
    )


def _decoder_numbers(state: State, likely: SamSize | None, where: object) -> dict[str, Any]:
    """Read the decoder's and the prompt encoder's numbers; those of a missing tensor are the likely size's."""
    places = {
        "out_channels": ("mask_decoder.iou_token.weight", 1, 2),
        "decoder_mlp_dim": ("mask_decoder.transformer.layers.0.mlp.lin1.weight", 0, 2),
        "iou_hidden_dim": ("mask_decoder.iou_prediction_head.layers.0.weight", 0, 2),
        "mask_channels": ("prompt_encoder.mask_downscaling.3.weight", 0, 4),
    }
    numbers = {
        field: _side(state, name, axis, ndim, None if likely is None else getattr(likely, field), where)
        for field, (name, axis, ndim) in places.items()
    }
    return numbers | {"decoder_depth": _count(state, "mask_decoder.transformer.layers.")}


def _side(state: State, name: str, axis: int, ndim: int, default: int | None, where: object) -> int:
    """Return the length of one axis of a tensor, or the default if there is one and no such tensor."""
    if name not in state and default is not None:
        return default
    return _require(state, name, ndim, where).shape[axis]


def _require(state: State, name: str, ndim: int, where: object) -> Tensor:
    tensor = state.get(name)
    if tensor is None or tensor.ndim != ndim or 0 in tensor.shape:
        got = "none" if tensor is None else f"shape {tuple(tensor.shape)}"
        some = ", ".join(sorted(state)[:3])
        raise ModelError(
            f"expected a tensor {name} with {ndim} axes, got {got} (the file's names begin {some})",
            where=where,
            fix="check that this is the kind of file that was asked for",
        )
    return tensor


def _count(state: State, prefix: str) -> int:
    """Return how many numbered parts there are: the highest number counts, so that gaps show up as missing."""
    numbers = {name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)}
    return max((int(number) + 1 for number in numbers if number.isdecimal()), default=0)
