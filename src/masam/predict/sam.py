"""SAM on a single 2D image: masks from a box, points or an earlier mask."""

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
    """The embedding of an image, for any number of prompts.

    Attributes:
        embeddings: [1, D, h, w].
        shape: Rows and columns of the image.
        resized: Rows and columns of the image in the model's square input; the rest is padding.
    """

    embeddings: Embeddings
    shape: tuple[int, int]
    resized: tuple[int, int]


@dataclass(frozen=True, eq=False)
class PromptedMasks:
    """The masks for one prompt, sorted by predicted IoU, best first.

    Attributes:
        masks: [K, H, W] at the size of the image.
        iou: [K] IoU with the object, as predicted by SAM.
        logits: [K, h, w] at a quarter of the model's input size; one of them can be the ``mask`` of the next prompt.
    """

    masks: Bool[NDArray[np.bool_], "K H W"]
    iou: Float[NDArray[np.float32], " K"]
    logits: Float[NDArray[np.float32], "K h w"]


class SamPredictor:
    """SAM with prompts on 2D images.

    Args:
        sam: Weights of SAM, MedSAM or ``masam pretrain``, as a file or a published name; or a model.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``float32``, ``bf16`` or ``fp16``.
        image_size: Side of the model's square input in pixels; None for the size that the weights were trained with.
            Ignored if ``sam`` is a model.

    Raises:
        ConfigError: A value is out of its range.
        InputError: The file cannot be opened, or has not been downloaded.
        ModelError: The file is damaged or is not a SAM model.
        ResourceError: The device is not available.
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
        """Run the image encoder, which takes most of the time.

        As in SAM, the longer side is resized to the model's input size and the rest is padded.

        Args:
            picture: [H, W] grey values or [H, W, 3] RGB, in 0..255.

        Raises:
            InputError: The image has another shape or other values.
        """
        pixels = _as_rgb(picture)
        side, longest = self.sam.image_encoder.image_size, max(pixels.shape[2:])
        resized = tuple(max(1, int(length * side / longest + 0.5)) for length in pixels.shape[2:])
        if resized != pixels.shape[2:]:
            pixels = F.interpolate(pixels, size=resized, mode="bilinear", align_corners=False, antialias=True)
        normed = (pixels.to(self.device) - self.sam.pixel_mean) / self.sam.pixel_std
        # After normalisation: SAM pads with zeros, not with black.
        padded = F.pad(normed, (0, side - resized[1], 0, side - resized[0]))
        with autocast(self.device, self.precision):
            embeddings = self.sam.image_encoder(padded)
        return EncodedPicture(embeddings.float(), (picture.shape[0], picture.shape[1]), (resized[0], resized[1]))

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
        """Predict masks from a box, points, or both, optionally with an earlier mask.

        Args:
            picture: An image, or the result of :meth:`encode`.
            box: x0, y0, x1, y1 in pixels of the image.
            points: [P, 2] x and y in pixels of the image.
            point_labels: [P] 1 on the object, 0 off it; None for 1.
            mask: Logits of an earlier prediction.
            multimask: Return three masks, for an ambiguous prompt, instead of one; None does so for a single point.

        Raises:
            InputError: There is no prompt, or it does not fit the image.
        """
        encoded = picture if isinstance(picture, EncodedPicture) else self.encode(picture)
        prompts: dict[str, Tensor] = {}
        if points is not None:
            prompts |= _points(points, point_labels, encoded)
        elif point_labels is not None:
            raise InputError("point_labels were given without points", where="point_labels", fix="give points too")
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
            self._resize(logits, encoded).cpu().numpy(),
            out.iou[0, order].float().cpu().numpy(),
            logits.cpu().numpy(),
        )

    def _mask(self, mask: NDArray[np.float32]) -> Tensor:
        side = self.sam.image_encoder.image_size // 4
        if mask.shape != (side, side):
            raise InputError(
                f"expected logits of {side} x {side}, got {mask.shape}",
                where="mask",
                fix="give one of the logits of an earlier prediction",
            )
        return torch.from_numpy(np.ascontiguousarray(mask))[None, None]

    def _resize(self, logits: Float[Tensor, "K h w"], picture: EncodedPicture) -> Bool[Tensor, "K H W"]:
        """Return masks at the size of the image, without the padding."""
        side = self.sam.image_encoder.image_size
        full = F.interpolate(logits[None], size=(side, side), mode="bilinear", align_corners=False)
        unpadded = full[..., : picture.resized[0], : picture.resized[1]]
        return F.interpolate(unpadded, size=picture.shape, mode="bilinear", align_corners=False)[0] > 0


def _load(name_or_path: str | Path, image_size: int | None) -> Sam:
    state, _ = read_base(name_or_path)
    size = infer_sam_size(state, where=name_or_path)
    sam = Sam(size, image_size or size.base_image_size)
    load_sam_state(sam, state, size, where=name_or_path)
    return sam


def _as_rgb(picture: NDArray[Any]) -> Float[Tensor, "1 3 H W"]:
    is_colour = picture.ndim == 3 and picture.shape[2] == 3
    if not (picture.ndim == 2 or is_colour) or 0 in picture.shape:
        raise InputError(f"expected an image [H, W] or [H, W, 3], got {picture.shape}", where="picture")
    values = picture.astype(np.float32)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= _LARGEST):
        raise InputError(
            f"expected values from 0 to {_LARGEST}, got {values.min():g} to {values.max():g}",
            where="picture",
            fix=f"scale the intensities to 0 to {_LARGEST}",
        )
    planes = values.transpose(2, 0, 1) if is_colour else np.stack([values] * 3)
    return torch.from_numpy(np.ascontiguousarray(planes))[None]


def _scaled(points: NDArray[np.float32], picture: EncodedPicture, where: str) -> NDArray[np.float32]:
    """Convert x and y from pixels of the image to pixels of the model's input, as SAM does."""
    height, width = picture.shape
    is_inside = (points >= 0).all() and (points <= (width - 1, height - 1)).all()
    if not is_inside:  # also for NaN
        raise InputError(
            f"expected points inside an image of {width} x {height} pixels, got {points.tolist()}", where=where
        )
    scale = np.array([picture.resized[1] / width, picture.resized[0] / height], np.float32)
    scaled: NDArray[np.float32] = points * scale
    return scaled


def _points(points: ArrayLike, labels: ArrayLike | None, picture: EncodedPicture) -> dict[str, Tensor]:
    xy = np.asarray(points, np.float32)
    if xy.ndim != 2 or xy.shape[1] != 2 or len(xy) == 0:
        raise InputError(f"expected points [P, 2], got {xy.shape}", where="points")
    kinds = np.ones(len(xy), int) if labels is None else np.asarray(labels)
    if kinds.shape != (len(xy),) or not np.isin(kinds, (0, 1)).all():
        raise InputError(f"expected {len(xy)} labels of 0 or 1, got {kinds.tolist()}", where="point_labels")
    return {
        "points": torch.from_numpy(_scaled(xy, picture, "points"))[None],
        "point_labels": torch.from_numpy(kinds.astype(np.int64))[None],
    }


def _box(box: ArrayLike, picture: EncodedPicture) -> Float[Tensor, "1 4"]:
    corners = np.asarray(box, np.float32)
    if corners.shape != (4,) or not (corners[:2] <= corners[2:]).all():
        raise InputError(f"expected x0, y0, x1, y1 with x0 <= x1 and y0 <= y1, got {corners.tolist()}", where="box")
    return torch.from_numpy(_scaled(corners.reshape(2, 2), picture, "box").reshape(1, 4))
