"""A dense auxiliary task for each patch, in addition to the few objects that are prompted.

A prompt trains the encoder on one object. In addition, a linear layer predicts from the embedding of every patch where
object borders cross it and which pixels in and around it belong to the object at its centre, as if every patch had been
clicked. Optionally it predicts the pixels of the patch, so that a decoder trained later finds fine detail. The layer is
discarded after training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from masam.model.sizes import IMAGE_SIZE_STEP

_BORDER_CELL = 2
"""Side in pixels of the cells of a patch for which a border is predicted."""

_REGION_STEP = 4
"""Distance in pixels of the samples of the region around a patch; the region is three patches wide."""

_BORDERS = IMAGE_SIZE_STEP // _BORDER_CELL
_REGION = 3 * IMAGE_SIZE_STEP // _REGION_STEP
_OUTSIDE = -1

_FLAT_SHARE = 0.1
"""Fraction of the mean variance within patches that is added to that of each patch, to limit flat ones."""


class PatchHead(nn.Module):
    """The linear layer, for embeddings of D channels, and its loss; ``pixel_weight`` 0 disables the pixel term."""

    def __init__(self, channels: int, pixel_weight: float) -> None:
        super().__init__()
        self.pixel_weight = pixel_weight
        self.read = nn.Linear(channels, _BORDERS**2 + _REGION**2 + (IMAGE_SIZE_STEP**2 if pixel_weight > 0 else 0))

    def forward(
        self,
        embeddings: Float[Tensor, "B D h w"],
        visible: Int[Tensor, "B H W"],
        images: Float[Tensor, "B 3 H W"],
    ) -> Float[Tensor, ""]:
        """Return the sum of the cross-entropies of borders and regions and the weighted ``unexplained`` pixels.

        ``visible`` holds the number of the object that is visible at each pixel; the pictures may have any range.
        """
        outputs = self.read(embeddings.permute(0, 2, 3, 1)).float()
        borders, regions, pixels = outputs.tensor_split([_BORDERS**2, _BORDERS**2 + _REGION**2], dim=-1)
        loss = F.binary_cross_entropy_with_logits(borders, borders_of(visible))
        target, is_inside = regions_of(visible)
        loss = loss + F.binary_cross_entropy_with_logits(regions[is_inside], target[is_inside])
        if self.pixel_weight == 0:
            return loss
        return loss + self.pixel_weight * unexplained(pixels, _patches(images.mean(dim=1), IMAGE_SIZE_STEP))


def unexplained(predicted: Float[Tensor, "B h w c"], pixels: Float[Tensor, "B h w c"]) -> Float[Tensor, ""]:
    """Return the unexplained fraction of the variance between patch means plus the mean fraction within patches.

    The second term is relative to the contrast of each patch, so that weak contrast counts too.
    """
    error, within = predicted - pixels, pixels.var(dim=-1, correction=0)
    of_means = error.mean(dim=-1).square().mean() / pixels.mean(dim=-1).var(correction=0)
    return of_means + (error.var(dim=-1, correction=0) / (within + _FLAT_SHARE * within.mean())).mean()


def borders_of(visible: Int[Tensor, "B H W"]) -> Float[Tensor, "B h w c"]:
    """Return for each patch which of its cells have a pixel that differs from the pixel above or to the left."""
    is_border = torch.zeros_like(visible, dtype=torch.bool)
    is_border[:, 1:] |= visible[:, 1:] != visible[:, :-1]
    is_border[:, :, 1:] |= visible[:, :, 1:] != visible[:, :, :-1]
    cells = F.max_pool2d(is_border[:, None].float(), _BORDER_CELL)[:, 0]
    return _patches(cells, _BORDERS)


def _patches(x: Float[Tensor, "B H W"], side: int) -> Float[Tensor, "B h w c"]:
    """Divide a map into squares, row by row."""
    return x.unfold(1, side, side).unfold(2, side, side).flatten(3)


def regions_of(visible: Int[Tensor, "B H W"]) -> tuple[Float[Tensor, "B h w c"], Bool[Tensor, "B h w c"]]:
    """Return for each patch which samples around it belong to the object at its centre, and which are in the picture.

    Returns:
        1 for samples of that object and 0 for others, row by row; and whether each sample is in the picture.
    """
    middle = IMAGE_SIZE_STEP // 2
    centre = visible[:, middle::IMAGE_SIZE_STEP, middle::IMAGE_SIZE_STEP, None]
    first, margin = _REGION_STEP // 2, IMAGE_SIZE_STEP // _REGION_STEP
    samples = F.pad(visible[:, first::_REGION_STEP, first::_REGION_STEP], [margin] * 4, value=_OUTSIDE)
    around = samples.unfold(1, _REGION, margin).unfold(2, _REGION, margin).flatten(3)
    return (around == centre).float(), around != _OUTSIDE
