"""The plain SAM: a promptable model of single 2D images, from which MA-SAM starts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from masam.axes import Boxes, Embeddings, Images, MaskPrompts, PointLabels, Points
from masam.model.image_encoder import ImageEncoder
from masam.model.mask_decoder import PROGRESSIVE_UPSCALING, SAM_UPSCALING, MaskDecoder
from masam.model.prompt_encoder import PromptEncoder
from masam.model.sizes import IMAGE_SIZE_STEP, SamSize

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
"""ImageNet's statistics on 0..255, which SAM's weights were trained with."""

SAM_MASKS = 4
"""SAM predicts one mask for clear prompts and three nested ones for ambiguous ones."""


def build_prompt_encoder(size: SamSize, image_size: int) -> PromptEncoder:
    """Return a fresh prompt encoder of this size."""
    return PromptEncoder(size.out_channels, image_size, image_size // IMAGE_SIZE_STEP, size.mask_channels)


def build_mask_decoder(
    size: SamSize,
    num_masks: int,
    upscaling: tuple[int, ...] = PROGRESSIVE_UPSCALING,
    groups: tuple[tuple[int, ...], ...] = (),
) -> MaskDecoder:
    """Return a fresh mask decoder of this size."""
    return MaskDecoder(
        size.out_channels,
        size.decoder_depth,
        size.decoder_heads,
        size.decoder_mlp_dim,
        num_masks,
        size.iou_hidden_dim,
        upscaling,
        groups,
    )


class SamOutput(NamedTuple):
    """What SAM predicts for N prompted images."""

    logits: Float[Tensor, "N K lowH lowW"]
    """Mask logits at a quarter of the input's size; K is 3 (multimask), 1, or 4 for all of them."""
    iou: Float[Tensor, "N K"]
    """Predicted overlap of each mask with the object."""


class Sam(nn.Module):
    """Image encoder, prompt encoder and mask decoder with SAM's published parameter names.

    Args:
        size: Architecture.
        image_size: Side of the square input in pixels, a multiple of 16.
        num_masks: Mask tokens: one for a clear prompt and the rest for ambiguous ones.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, size: SamSize, image_size: int, num_masks: int = SAM_MASKS) -> None:
        super().__init__()
        self.image_encoder = ImageEncoder(size, image_size)
        self.prompt_encoder = build_prompt_encoder(size, image_size)
        self.mask_decoder = build_mask_decoder(size, num_masks, SAM_UPSCALING)
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).reshape(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).reshape(3, 1, 1), persistent=False)

    def encode(self, images: Images) -> Embeddings:
        """Encode RGB images [N, 3, H, W] in 0..255 of the model's size."""
        return self.image_encoder((images - self.pixel_mean) / self.pixel_std)

    def decode(
        self,
        embeddings: Embeddings,
        points: Points | None = None,
        point_labels: PointLabels | None = None,
        boxes: Boxes | None = None,
        masks: MaskPrompts | None = None,
        multimask: bool = True,
    ) -> SamOutput:
        """Predict masks for one prompt an image; arguments as in ``PromptEncoder.forward``.

        Args:
            embeddings: [N, D, h, w] of ``encode``.
            points: [N, P, 2].
            point_labels: [N, P].
            boxes: [N, 4].
            masks: [N, 1, 4h, 4w].
            multimask: Return the three masks for an ambiguous prompt, else the one for a clear prompt.
        """
        every = self.decode_all(embeddings, points, point_labels, boxes, masks)
        kept = slice(1, None) if multimask else slice(0, 1)
        return SamOutput(every.logits[:, kept], every.iou[:, kept])

    def decode_all(
        self,
        embeddings: Embeddings,
        points: Points | None = None,
        point_labels: PointLabels | None = None,
        boxes: Boxes | None = None,
        masks: MaskPrompts | None = None,
    ) -> SamOutput:
        """Predict the mask for a clear prompt and, after it, those for an ambiguous one; arguments as of ``decode``."""
        sparse, dense = self.prompt_encoder(len(embeddings), points, point_labels, boxes, masks)
        return SamOutput(*self.mask_decoder(embeddings, self.prompt_encoder.dense_positions(), sparse, dense))
