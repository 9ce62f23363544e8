"""The original SAM: a promptable model for single 2D images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from masam.axes import Boxes, Embeddings, Images, MaskPrompts, PointLabels, Points
from masam.model.image_encoder import ImageEncoder
from masam.model.mask_decoder import SAM_UPSCALING, MaskDecoder
from masam.model.prompt_encoder import PromptEncoder
from masam.model.sizes import SamSize

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
"""Statistics of ImageNet on 0..255, with which SAM was trained."""

SAM_MASKS = 4
"""SAM predicts one mask for unambiguous prompts and three nested masks for ambiguous ones."""


class SamOutput(NamedTuple):
    """Prediction of SAM for N prompted images."""

    logits: Float[Tensor, "N K lowH lowW"]
    """Mask logits at a quarter of the input's size; K is 3 (multimask), 1, or 4 for all of them."""
    iou: Float[Tensor, "N K"]
    """Predicted overlap of each mask with the object."""


class Sam(nn.Module):
    """Image encoder, prompt encoder and mask decoder with SAM's published parameter names.

    Args:
        size: Architecture.
        image_size: Side of the square input in pixels, a multiple of 16.
        num_masks: Mask tokens: one for unambiguous prompts, the others for ambiguous ones.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, size: SamSize, image_size: int, num_masks: int = SAM_MASKS) -> None:
        super().__init__()
        self.image_encoder = ImageEncoder(size, image_size)
        self.prompt_encoder = PromptEncoder(size, image_size)
        self.mask_decoder = MaskDecoder(size, num_masks, SAM_UPSCALING)
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).reshape(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).reshape(3, 1, 1), persistent=False)

    def encode(self, images: Images) -> Embeddings:
        """Encode RGB images [N, 3, H, W] of the model's size with values in 0..255."""
        return self.image_encoder((images - self.pixel_mean) / self.pixel_std)

    def decode(
        self,
        embeddings: Embeddings,
        points: Points | None = None,
        point_labels: PointLabels | None = None,
        boxes: Boxes | None = None,
        masks: MaskPrompts | None = None,
        multimask: bool | None = True,
    ) -> SamOutput:
        """Predict masks for the prompts of each image.

        ``multimask`` selects the three masks for ambiguous prompts (True), the single mask (False), or the single mask
        followed by the three (None).
        """
        sparse, dense = self.prompt_encoder(len(embeddings), points, point_labels, boxes, masks)
        logits, iou = self.mask_decoder(embeddings, self.prompt_encoder.dense_positions(), sparse, dense)
        kept = {True: slice(1, None), False: slice(0, 1), None: slice(None)}[multimask]
        return SamOutput(logits[:, kept], iou[:, kept])
