"""Published tensors into models, strict in both directions.

Nothing here touches files; a state is a mapping of names to tensors, ``where`` the file that an error names.
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


_SHOWN = 12
"""Most (folded) names of one fault that go into an error's line; its ``faults`` have all."""


def require_sam(state: State, where: object = None) -> dict[str, Tensor]:
    """Return SAM's tensors under SAM's own names.

    Args:
        state: Tensors of a file of SAM's authors, of MedSAM's, or of either as Hugging Face hosts it.
        where: File to name in an error.

    Raises:
        ModelError: They are something else.
    """
    kind = kind_of(state)
    if kind == "sam-hugging-face":
        state = from_hugging_face(state, where)
    elif kind != "sam":
        raise _other_kind("SAM weights", state, where)
    return {name: tensor for name, tensor in state.items() if name not in ("pixel_mean", "pixel_std")}


def require_adapter(state: State, where: object = None) -> State:
    """Return an official adapter's tensors as they are.

    Raises:
        ModelError: They are something else.
    """
    if kind_of(state) != "ma-sam-adapter":
        raise _other_kind(KINDS["ma-sam-adapter"], state, where)
    return state


def _other_kind(expected: str, state: State, where: object) -> ModelError:
    kind = kind_of(state)
    got = KINDS[kind] if kind else f"other tensors (their names begin {', '.join(sorted(state)[:3]) or 'nowhere'})"
    return ModelError(f"expected {expected}, got {got}", where=where, fix="check which file belongs where")


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
            if name in state and state[name].ndim == 2 and state[name].shape[0] != 2 * grid - 1:
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
    theirs = require_sam(state, where)
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
    fix = f"give a whole SAM file of {size.name}" if size.name in SIZES else None
    load_strictly(model, theirs, kept=kept, where=where, fix=fix)


@torch.no_grad()
def begin_classes(model: Masam, state: State) -> None:
    """Let every class begin as SAM's own single mask, and the background as its opposite.

    Published MA-SAM starts tokens and networks of its classes from random numbers. With SAM's own decoder a prompt
    then means what it meant to SAM from the first step on; with the progressive one, whose last layers are other, all
    but the last layer of each network is SAM's.

    Args:
        model: Model that holds SAM's other tensors.
        state: SAM's tensors, under any of their names.
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
    """Load the tensors of an official ``epoch_N.pth``: every tensor that MA-SAM trains.

    Raises:
        ModelError: A tensor is missing, unexpected, misshapen or not finite; all of them are listed.
    """
    kept = set(model.state_dict()) - model.trained_names()
    load_strictly(model, from_official(require_adapter(adapter, where)), kept=kept, where=where)


def load_strictly(
    model: nn.Module, state: State, kept: Iterable[str] = (), where: object = None, fix: str | None = None
) -> None:
    """Copy a state into a model.

    Args:
        model: Model whose tensors are overwritten. On the meta device it gets the copies themselves.
        state: Tensors under the model's names.
        kept: Names that the state need not have; the model keeps its own.
        where: File to name in an error.
        fix: What to do if it does not fit.

    Raises:
        ModelError: A tensor is missing, unexpected, misshapen, not of floating-point numbers, or not finite.
    """
    own = model.state_dict()
    require_fit(own, state, kept, where, fix)
    is_empty = any(tensor.is_meta for tensor in own.values())
    copies = {name: tensor.to(own[name].dtype, copy=True) for name, tensor in state.items()} if is_empty else state
    model.load_state_dict(dict(copies), strict=False, assign=is_empty)


def require_fit(
    expected: State, state: State, kept: Iterable[str] = (), where: object = None, fix: str | None = None
) -> None:
    """Compare a state with what a model expects, and say all that is wrong with it at once.

    Args:
        expected: The model's tensors; shapes count, on the meta device as well.
        state: Tensors under the model's names. Those on the meta device are judged by their shapes.
        kept: Names that the state need not have.
        where: File to name in an error.
        fix: What to do if it does not fit.

    Raises:
        ModelError: A tensor is missing, unexpected, misshapen, not of floating-point numbers, or not finite; the line
            folds names that differ in a number only, ``faults`` has one entry a tensor.
    """
    both = sorted(set(expected) & set(state))
    misshapen: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str]] = {}
    for name in both:
        got, wanted = tuple(state[name].shape), tuple(expected[name].shape)
        if got != wanted:
            misshapen.setdefault((got, wanted), []).append(name)
    fitting = [name for name in both if state[name].shape == expected[name].shape]
    no_floats = [name for name in fitting if not state[name].is_floating_point()]
    endless = [name for name in fitting if name not in no_floats and not _is_finite(state[name])]
    missing, unexpected = set(expected) - set(state) - set(kept), set(state) - set(expected)
    faults = [f"missing {name}" for name in sorted(missing)] + [f"unexpected {name}" for name in sorted(unexpected)]
    faults += [f"{name} has shape {g}, expected {w}" for (g, w), names in misshapen.items() for name in names]
    faults += [f"{name} holds no floating-point numbers" for name in no_floats]
    faults += [f"{name} holds values that are not finite" for name in endless]
    if not faults:
        return
    shapes = [f"{name} has {g}, expected {w}" for (g, w), names in misshapen.items() for name in fold_names(names)]
    groups = {
        "missing, so the file is incomplete": fold_names(missing),
        "unexpected, as no part of the model is called so": fold_names(unexpected),
        "of another shape, so made for another model": shapes,
        "no floating-point numbers": fold_names(no_floats),
        "not finite, so damaged": fold_names(endless),
    }
    said = "; ".join(f"{reason}: {_listed(names)}" for reason, names in groups.items() if names)
    count = "1 tensor does" if len(faults) == 1 else f"{len(faults)} tensors do"
    raise ModelError(f"{count} not fit the model; {said}", where=where, fix=fix, faults=faults)


def _is_finite(tensor: Tensor) -> bool:
    return tensor.is_meta or bool(torch.isfinite(tensor).all())


def _listed(names: list[str]) -> str:
    left = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f", and {left} more" if left > 0 else "")


def _is_adaptation(name: str) -> bool:
    return name.startswith((*INCREMENT_PREFIXES, "input_projection.")) or any(part in name for part in TRAINED_PARTS)
