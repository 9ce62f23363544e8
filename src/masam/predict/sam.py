"""A plain SAM on a single picture: from a box, clicks or an earlier mask to masks on the picture's own grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from masam.axes import Embeddings
from masam.device import Precision, autocast, choose_device
from masam.errors import InputError
from masam.model.sam import Sam
from masam.weights.infer_spec import infer_sam_size
from masam.weights.model_file import read_base
from masam.weights.state_dict import load_sam_state

_LARGEST = 255


@dataclass(frozen=True, eq=False)
class EncodedPicture:
    """What a SAM has seen of a picture; any number of prompts can be answered from it.

    Attributes:
        embeddings: [1, D, h, w].
        shape: Rows and columns of the picture.
        seen: Rows and columns that it takes of the model's square input; the rest is padding.
    """

    embeddings: Embeddings
    shape: tuple[int, int]
    seen: tuple[int, int]


@dataclass(frozen=True, eq=False)
class PromptedMasks:
    """Answers to one prompt, the one that SAM trusts most first.

    Attributes:
        masks: [K, H, W] on the picture's grid.
        iou: [K] overlap with the object that SAM predicts for each.
        logits: [K, h, w] on a quarter of the model's input; one of them can be given back as ``mask``.
    """

    masks: Bool[NDArray[np.bool_], "K H W"]
    iou: Float[NDArray[np.float32], " K"]
    logits: Float[NDArray[np.float32], "K h w"]


class SamPredictor:
    """A SAM that answers prompts on 2D pictures.

    Args:
        sam: SAM's or MedSAM's weights, or those of ``masam pretrain``: a file or a published name; or a model.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``float32``, ``bf16`` or ``fp16``.
        image_size: Side of the model's square input in pixels; None is what the weights were trained with. A model has
            its own.

    Raises:
        ConfigError: A value is out of its range.
        InputError: The file cannot be opened, or is not on this machine yet.
        ModelError: The file is damaged or holds no SAM.
        ResourceError: The device is not there.
    """

    def __init__(
        self,
        sam: Sam | str | Path,
        device: str = "auto",
        precision: Precision = "auto",
        *,
        image_size: int | None = None,
    ) -> None:
        self.device, self.precision = choose_device(device), precision
        model = sam if isinstance(sam, Sam) else _load(sam, image_size)
        self.sam = model.to(self.device).eval()

    @torch.no_grad()
    def encode(self, picture: NDArray[Any]) -> EncodedPicture:
        """Let the model see a picture, which is the slow part.

        Its longer side becomes the model's input, the rest is padded, as SAM has it.

        Args:
            picture: [H, W] grey or [H, W, 3] red, green, blue, in 0..255.

        Raises:
            InputError: It has another shape or other values.
        """
        pixels = _as_rgb(picture)
        side, longest = self.sam.image_encoder.image_size, max(pixels.shape[2:])
        seen = tuple(max(1, int(length * side / longest + 0.5)) for length in pixels.shape[2:])
        if seen != pixels.shape[2:]:
            pixels = F.interpolate(pixels, size=seen, mode="bilinear", align_corners=False, antialias=True)
        normed = (pixels.to(self.device) - self.sam.pixel_mean) / self.sam.pixel_std
        # After the norm: SAM pads with zeros, not with black.
        padded = F.pad(normed, (0, side - seen[1], 0, side - seen[0]))
        with autocast(self.device, self.precision):
            embeddings = self.sam.image_encoder(padded)
        return EncodedPicture(embeddings.float(), (picture.shape[0], picture.shape[1]), (seen[0], seen[1]))

    @torch.no_grad()
    def predict(
        self,
        picture: EncodedPicture | NDArray[Any],
        *,
        box: ArrayLike | None = None,
        points: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        mask: Float[NDArray[np.float32], "h w"] | None = None,
        multimask: bool | None = None,
    ) -> PromptedMasks:
        """Answer a prompt: a box, points, or both, and perhaps an earlier mask.

        Args:
            picture: Of ``encode``, or a picture.
            box: x0, y0, x1, y1 in pixels of the picture.
            points: [P, 2] x and y in pixels of the picture.
            point_labels: P of them, 1 on the object, 0 off it; None is 1 for all.
            mask: Logits of an earlier answer.
            multimask: Give three masks, for a prompt that may mean several things, instead of one; None does so for a
                single point.

        Raises:
            InputError: There is no prompt, or it does not fit the picture.
        """
        encoded = picture if isinstance(picture, EncodedPicture) else self.encode(picture)
        prompts: dict[str, Tensor] = {}
        if points is not None:
            prompts |= _points(points, point_labels, encoded)
        elif point_labels is not None:
            raise InputError("labels of points were given without points", where="point_labels", fix="give points too")
        if box is not None:
            prompts["boxes"] = _box(box, encoded)
        if not prompts:
            raise InputError("expected a prompt, got none", where="prompt", fix="give a box or points")
        if mask is not None:
            prompts["masks"] = self._mask(mask)
        if multimask is None:
            multimask = box is None and mask is None and len(prompts["points"][0]) == 1
        placed = {name: prompt.to(self.device) for name, prompt in prompts.items()}
        with autocast(self.device, self.precision):
            out = self.sam.decode(encoded.embeddings, **placed, multimask=multimask)
        order = out.iou[0].argsort(descending=True)
        logits = out.logits[0, order].float()
        return PromptedMasks(
            self._on_the_grid(logits, encoded).cpu().numpy(),
            out.iou[0, order].float().cpu().numpy(),
            logits.cpu().numpy(),
        )

    def _mask(self, mask: NDArray[np.float32]) -> Tensor:
        side = self.sam.image_encoder.image_size // 4
        if mask.shape != (side, side):
            raise InputError(
                f"expected logits of {side} x {side}, got {mask.shape}",
                where="mask",
                fix="give one of the logits of an earlier answer",
            )
        return torch.from_numpy(np.ascontiguousarray(mask))[None, None]

    def _on_the_grid(self, logits: Float[Tensor, "K h w"], picture: EncodedPicture) -> Bool[Tensor, "K H W"]:
        """Bring logits to the picture's size, without the padding."""
        side = self.sam.image_encoder.image_size
        full = F.interpolate(logits[None], size=(side, side), mode="bilinear", align_corners=False)
        seen = full[..., : picture.seen[0], : picture.seen[1]]
        return F.interpolate(seen, size=picture.shape, mode="bilinear", align_corners=False)[0] > 0


def _load(name_or_path: str | Path, image_size: int | None) -> Sam:
    state, _ = read_base(name_or_path)
    size = infer_sam_size(state, where=name_or_path)
    sam = Sam(size, image_size or size.base_image_size)
    load_sam_state(sam, state, size, where=name_or_path)
    return sam


def _as_rgb(picture: NDArray[Any]) -> Float[Tensor, "1 3 H W"]:
    is_colour = picture.ndim == 3 and picture.shape[2] == 3
    if not (picture.ndim == 2 or is_colour) or 0 in picture.shape:
        raise InputError(f"expected a picture [H, W] or [H, W, 3], got {picture.shape}", where="picture")
    values = picture.astype(np.float32)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= _LARGEST):
        raise InputError(
            f"expected values from 0 to {_LARGEST}, got {values.min():g} to {values.max():g}",
            where="picture",
            fix=f"scale what shall be seen to 0 to {_LARGEST}",
        )
    planes = values.transpose(2, 0, 1) if is_colour else np.stack([values] * 3)
    return torch.from_numpy(np.ascontiguousarray(planes))[None]


def _scaled(places: NDArray[np.float32], picture: EncodedPicture, where: str) -> NDArray[np.float32]:
    """Bring x and y from the picture's pixels to the model's, as SAM does."""
    height, width = picture.shape
    is_inside = (places >= 0).all() and (places <= (width - 1, height - 1)).all()
    if not is_inside:  # NaN as well
        raise InputError(
            f"expected places in a picture of {width} x {height} pixels, got {places.tolist()}", where=where
        )
    scale = np.array([picture.seen[1] / width, picture.seen[0] / height], np.float32)
    scaled: NDArray[np.float32] = places * scale
    return scaled


def _points(points: ArrayLike, labels: ArrayLike | None, picture: EncodedPicture) -> dict[str, Tensor]:
    places = np.asarray(points, np.float32)
    if places.ndim != 2 or places.shape[1] != 2 or len(places) == 0:
        raise InputError(f"expected points [P, 2], got {places.shape}", where="points")
    kinds = np.ones(len(places), int) if labels is None else np.asarray(labels)
    if kinds.shape != (len(places),) or not np.isin(kinds, (0, 1)).all():
        raise InputError(f"expected {len(places)} labels of 0 or 1, got {kinds.tolist()}", where="point_labels")
    return {
        "points": torch.from_numpy(_scaled(places, picture, "points"))[None],
        "point_labels": torch.from_numpy(kinds.astype(np.int64))[None],
    }


def _box(box: ArrayLike, picture: EncodedPicture) -> Float[Tensor, "1 4"]:
    corners = np.asarray(box, np.float32)
    if corners.shape != (4,) or not (corners[:2] <= corners[2:]).all():
        raise InputError(f"expected x0, y0, x1, y1 with x0 <= x1 and y0 <= y1, got {corners.tolist()}", where="box")
    return torch.from_numpy(_scaled(corners.reshape(2, 2), picture, "box").reshape(1, 4))
