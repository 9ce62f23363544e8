"""What each patch is asked about itself: a dense lesson beside the few objects that are prompted for.

A prompt teaches the encoder about one object. Here the embedding of every patch says by one linear layer where borders
run in it and which of the pixels in it and around it belong to the object at its centre, as if every patch had been
clicked on. If asked, it also says what its pixels were, so that a decoder trained later finds fine detail in it.
The layer is thrown away in the end; what it needed to know stays in the encoder.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from masam.model.sizes import IMAGE_SIZE_STEP

_BORDER_CELL = 2
"""Side in pixels of the cells of a patch that do or do not hold a border."""

_REGION_STEP = 4
"""Pixels from one sample of the region around a patch to the next; the region is three patches wide."""

_BORDERS = IMAGE_SIZE_STEP // _BORDER_CELL
_REGION = 3 * IMAGE_SIZE_STEP // _REGION_STEP
_OUTSIDE = -1

_FLAT_SHARE = 0.1
"""Share of the mean variance within patches that is added to each patch's own: it bounds what flat patches weigh."""


class PatchHead(nn.Module):
    """The layer that reads a patch's embedding, and its loss.

    Args:
        channels: Channels D of the image embedding.
        pixel_weight: Factor of what is asked of the pixels; 0 does not ask.
    """

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
        """Return the mean cross-entropies of borders and of regions, and what is not known of the pixels, added up.

        Args:
            embeddings: Of the image encoder.
            visible: Number of the object that is seen at each pixel.
            images: The pictures, in any one range.

        Returns:
            The loss. Of the pixels it has two shares that the embeddings leave unexplained: that of the variance of
            the patches' means, and the mean share of the variance within a patch, so that weak contrast counts too.
        """
        said = self.read(embeddings.permute(0, 2, 3, 1)).float()
        borders, regions, pixels = said.tensor_split([_BORDERS**2, _BORDERS**2 + _REGION**2], dim=-1)
        loss = F.binary_cross_entropy_with_logits(borders, borders_of(visible))
        wanted, is_inside = regions_of(visible)
        loss = loss + F.binary_cross_entropy_with_logits(regions[is_inside], wanted[is_inside])
        if self.pixel_weight == 0:
            return loss
        return loss + self.pixel_weight * unexplained(pixels, _patches(images.mean(dim=1), IMAGE_SIZE_STEP))


def unexplained(said: Float[Tensor, "B h w c"], pixels: Float[Tensor, "B h w c"]) -> Float[Tensor, ""]:
    """Return the unknown share of the variance of patches' means, and the mean unknown share within a patch, added up.

    Args:
        said: What was said of each patch's pixels.
        pixels: What they are.
    """
    wrong, within = said - pixels, pixels.var(dim=-1, correction=0)
    of_means = wrong.mean(dim=-1).square().mean() / pixels.mean(dim=-1).var(correction=0)
    return of_means + (wrong.var(dim=-1, correction=0) / (within + _FLAT_SHARE * within.mean())).mean()


def borders_of(visible: Int[Tensor, "B H W"]) -> Float[Tensor, "B h w c"]:
    """Return for each patch which of its cells hold a pixel that differs from the one above it or left of it."""
    is_border = torch.zeros_like(visible, dtype=torch.bool)
    is_border[:, 1:] |= visible[:, 1:] != visible[:, :-1]
    is_border[:, :, 1:] |= visible[:, :, 1:] != visible[:, :, :-1]
    cells = F.max_pool2d(is_border[:, None].float(), _BORDER_CELL)[:, 0]
    return _patches(cells, _BORDERS)


def _patches(x: Float[Tensor, "B H W"], side: int) -> Float[Tensor, "B h w c"]:
    """Cut a map into squares, row by row."""
    return x.unfold(1, side, side).unfold(2, side, side).flatten(3)


def regions_of(visible: Int[Tensor, "B H W"]) -> tuple[Float[Tensor, "B h w c"], Bool[Tensor, "B h w c"]]:
    """Return for each patch which samples of the region around it are of its centre's object, and which there are.

    Returns:
        1 where a sample is of that object, row by row; and whether it lies in the picture.
    """
    middle = IMAGE_SIZE_STEP // 2
    own = visible[:, middle::IMAGE_SIZE_STEP, middle::IMAGE_SIZE_STEP, None]
    first, margin = _REGION_STEP // 2, IMAGE_SIZE_STEP // _REGION_STEP
    samples = F.pad(visible[:, first::_REGION_STEP, first::_REGION_STEP], [margin] * 4, value=_OUTSIDE)
    around = samples.unfold(1, _REGION, margin).unfold(2, _REGION, margin).flatten(3)
    return (around == own).float(), around != _OUTSIDE
