"""Load published tensors into models. Missing and unexpected tensors are errors.

A state is a mapping of names to tensors; ``where`` is the file for error messages. No function here reads a file.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masam.errors import ModelError
from masam.model.masam import INCREMENT_PREFIXES, TRAINED_PARTS, Masam
from masam.model.sam import Sam
from masam.model.sizes import IMAGE_SIZE_STEP, SIZES, SamSize
from masam.weights.infer_spec import infer_sam_size
from masam.weights.sam_names import KINDS, State, fold_names, from_hugging_face, from_official, kind_of

_NOT_FROM_SAM = (
    "mask_decoder.mask_tokens.",
    "mask_decoder.output_hypernetworks_mlps.",
    "mask_decoder.iou_prediction_head.",
    "mask_decoder.output_upscaling.4.",
    "mask_decoder.output_upscaling.6.",
    "mask_decoder.output_upscaling.7.",
    "mask_decoder.output_upscaling.9.",
)
"""Decoder parts that depend on the classes or on the additional upsamplings, so SAM has none (paper.md 1.3)."""

_MAX_SHOWN = 12
"""Maximum number of (folded) names per fault in an error message; its ``faults`` list all of them."""


def require_sam(state: State, where: object = None) -> dict[str, Tensor]:
    """Return the tensors of SAM weights under SAM's own names.

    Raises ModelError if they are SAM weights neither under the original names nor under those of Hugging Face.
    """
    kind = kind_of(state)
    if kind == "sam-hugging-face":
        state = from_hugging_face(state, where)
    elif kind != "sam":
        raise _other_kind("SAM weights", state, where)
    return {name: tensor for name, tensor in state.items() if name not in ("pixel_mean", "pixel_std")}


def require_adapter(state: State, where: object = None) -> State:
    """Return the tensors unchanged; raise ModelError if they are not those of an official adapter."""
    if kind_of(state) != "ma-sam-adapter":
        raise _other_kind(KINDS["ma-sam-adapter"], state, where)
    return state


def _other_kind(expected: str, state: State, where: object) -> ModelError:
    kind = kind_of(state)
    got = KINDS[kind] if kind else f"other tensors ({', '.join(sorted(state)[:3]) or 'none'})"
    return ModelError(f"expected {expected}, got {got}", where=where, fix="check the order of the files")


def resize_positions(state: State, size: SamSize, image_size: int) -> dict[str, Tensor]:
    """Interpolate the position embeddings of SAM's image encoder to another image size, as the reference does.

    The absolute positions are resized bilinearly (no antialiasing), the relative positions of global blocks along their
    length; windowed blocks keep theirs (paper.md 1.4 and quirk 17).
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
            if name in state and state[name].ndim == 2 and state[name].shape[0] != 2 * grid - 1:
                table = state[name].float()[None, None]
                table = F.interpolate(table, (2 * grid - 1, table.shape[3]), mode="bilinear", align_corners=False)
                resized[name] = table[0, 0]
    return resized


def load_sam_state(model: Sam | Masam, state: State, size: SamSize, where: object = None) -> None:
    """Load SAM's tensors into a plain SAM, or into the parts of MA-SAM that come from SAM.

    The state must have the architecture ``size``; its position embeddings are resized to the model's image size. Errors
    are those of :func:`require_matching_state`.
    """
    theirs = require_sam(state, where)
    actual = infer_sam_size(theirs, size.decoder_heads, where)
    if (actual.embed_dim, actual.depth) != (size.embed_dim, size.depth):
        raise ModelError(
            f"expected the weights of {size.name} ({size.depth} blocks of width {size.embed_dim}), "
            f"the file contains {actual.name} ({actual.depth} blocks of width {actual.embed_dim})",
            where=where,
            fix=f"give the file of {size.name}" + (f", or build {actual.name}" if actual.name in SIZES else ""),
        )
    theirs = resize_positions(theirs, actual, model.image_encoder.image_size)
    if isinstance(model, Masam):
        theirs = {name: tensor for name, tensor in theirs.items() if not name.startswith(_NOT_FROM_SAM)}
        kept = {name for name in model.state_dict() if name.startswith(_NOT_FROM_SAM) or _is_adaptation(name)}
    else:
        kept = set()
    fix = f"give a complete SAM file of {size.name}" if size.name in SIZES else None
    load_strictly(model, theirs, kept=kept, where=where, fix=fix)


@torch.no_grad()
def initialise_classes(model: Masam, state: State) -> None:
    """Initialise every class with SAM's single mask, and the background with its negation.

    The published MA-SAM initialises tokens and networks of the classes randomly. With SAM's own decoder the model then
    responds to prompts as SAM does from the first step. The progressive decoder has different last layers, so it gets
    all layers of each network except the last.
    """
    theirs, decoder = require_sam(state), model.mask_decoder
    decoder.mask_tokens.weight.copy_(
        theirs["mask_decoder.mask_tokens.weight"][:1].expand_as(decoder.mask_tokens.weight)
    )
    for channel, network in enumerate(decoder.output_hypernetworks_mlps):
        for name, parameter in network.named_parameters():
            single = theirs[f"mask_decoder.output_hypernetworks_mlps.0.{name}"]
            if single.shape == parameter.shape:
                is_opposite = channel == 0 and name.startswith("layers.2.")
                parameter.copy_(-single if is_opposite else single)


def load_official_state(model: Masam, adapter: State, where: object = None) -> None:
    """Load the tensors of an official ``epoch_N.pth`` with :func:`load_strictly`: every tensor that MA-SAM trains."""
    kept = set(model.state_dict()) - model.trained_names()
    load_strictly(model, from_official(require_adapter(adapter, where)), kept=kept, where=where)


def load_strictly(
    model: nn.Module, state: State, kept: Iterable[str] = (), where: object = None, fix: str | None = None
) -> None:
    """Copy a state into a model, or assign copies if the model is on the meta device.

    Arguments and errors are those of :func:`require_matching_state`.
    """
    present = model.state_dict()
    require_matching_state(present, state, kept, where, fix)
    is_meta = any(tensor.is_meta for tensor in present.values())
    copies = {name: tensor.to(present[name].dtype, copy=True) for name, tensor in state.items()} if is_meta else state
    model.load_state_dict(dict(copies), strict=False, assign=is_meta)


def require_matching_state(
    expected: State, state: State, kept: Iterable[str] = (), where: object = None, fix: str | None = None
) -> None:
    """Compare a state with the tensors of a model, and report all differences at once.

    Args:
        expected: The model's tensors; only their shapes are used, so they may be on the meta device.
        state: Tensors under the model's names. The values of tensors on the meta device are not checked.
        kept: Names that may be missing.
        where: File for error messages.
        fix: Remedy for the error message.

    Raises:
        ModelError: A tensor is missing, unexpected, not finite, not of a floating-point type, or has the wrong shape.
            The message merges names that differ in a number only, ``faults`` has one entry per tensor.
    """
    missing, unexpected = sorted(set(expected) - set(state) - set(kept)), sorted(set(state) - set(expected))
    shapes: dict[str, list[str]] = {}
    not_floating, not_finite = [], []
    for name in sorted(set(expected) & set(state)):
        tensor, shape = state[name], tuple(expected[name].shape)
        if tensor.shape != shape:
            shapes.setdefault(f"{tuple(tensor.shape)}, expected {shape}", []).append(name)
        elif not tensor.is_floating_point():
            not_floating.append(name)
        elif not (tensor.is_meta or torch.isfinite(tensor).all()):
            not_finite.append(name)
    faults = [f"missing {name}" for name in missing] + [f"unexpected {name}" for name in unexpected]
    faults += [f"{name} has shape {difference}" for difference, names in shapes.items() for name in names]
    faults += [f"{name} is not of a floating-point type" for name in not_floating]
    faults += [f"{name} contains values that are not finite" for name in not_finite]
    if not faults:
        return
    groups = {
        "missing, so the file is incomplete": fold_names(missing),
        "unexpected, no part of the model has this name": fold_names(unexpected),
        "wrong shape, so the file belongs to another model": [
            f"{name} has {difference}" for difference, names in shapes.items() for name in fold_names(names)
        ],
        "not of a floating-point type": fold_names(not_floating),
        "not finite, so the file is damaged": fold_names(not_finite),
    }
    parts = []
    for reason, names in groups.items():
        more = [f"and {len(names) - _MAX_SHOWN} more"] if len(names) > _MAX_SHOWN else []
        parts += [f"{reason}: {', '.join(names[:_MAX_SHOWN] + more)}"] if names else []
    count = "1 tensor does" if len(faults) == 1 else f"{len(faults)} tensors do"
    raise ModelError(f"{count} not fit the model; {'; '.join(parts)}", where=where, fix=fix, faults=faults)


def _is_adaptation(name: str) -> bool:
    return name.startswith((*INCREMENT_PREFIXES, "input_projection.")) or any(part in name for part in TRAINED_PARTS)
