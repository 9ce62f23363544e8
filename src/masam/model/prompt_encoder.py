"""SAM's prompt encoder: points, boxes and masks as tokens and as a dense embedding."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from masam.axes import Boxes, Embeddings, MaskPrompts, PointLabels, Points
from masam.model.image_encoder import LayerNorm2d
from masam.model.sizes import IMAGE_SIZE_STEP, SamSize

_NEGATIVE, _POSITIVE, _BOX_START, _BOX_END = range(4)
"""Indices of the four learned point embeddings."""


class RandomFourierPositions(nn.Module):
    """Position encoding by sines and cosines of random projections; the projection is part of the weights."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, features))

    def forward(self, unit_xy: Float[Tensor, "*any 2"]) -> Float[Tensor, "*any D"]:
        """Encode (x, y), as fractions 0..1 of the image's side."""
        phase = 2 * math.pi * ((2 * unit_xy - 1) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([phase.sin(), phase.cos()], dim=-1)

    def grid(self, side: int) -> Float[Tensor, "D {side} {side}"]:
        """Encode the centres of a square grid."""
        matrix = self.positional_encoding_gaussian_matrix
        centres = (torch.arange(side, dtype=matrix.dtype, device=matrix.device) + 0.5) / side
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return self(torch.stack([x, y], dim=-1)).permute(2, 0, 1)


class PromptEncoder(nn.Module):
    """Encode the prompts of N slices; ``image_size`` in pixels is the unit of prompt coordinates."""

    def __init__(self, size: SamSize, image_size: int) -> None:
        super().__init__()
        dim, mask_channels = size.out_channels, size.mask_channels
        self.image_size = image_size
        self.grid = image_size // IMAGE_SIZE_STEP
        self.pe_layer = RandomFourierPositions(dim // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, dim) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, 2, 2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, 2, 2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, dim, 1),
        )
        self.no_mask_embed = nn.Embedding(1, dim)

    def dense_positions(self) -> Float[Tensor, "D h w"]:
        """Return the position encoding of the image embedding's grid."""
        return self.pe_layer.grid(self.grid)

    def forward(
        self,
        n: int,
        points: Points | None = None,
        point_labels: PointLabels | None = None,
        boxes: Boxes | None = None,
        masks: MaskPrompts | None = None,
    ) -> tuple[Float[Tensor, "N T D"], Embeddings]:
        """Encode the given prompts of ``n`` slices.

        Returns:
            Sparse tokens [N, T, D] (T = 0 without points and boxes) and a dense embedding [N, D, h, w].
        """
        dim = self.no_mask_embed.weight.shape[1]
        tokens = [self.no_mask_embed.weight.new_zeros(n, 0, dim)]
        if points is not None and point_labels is not None:
            tokens.append(self._embed_points(points, point_labels, pad=boxes is None))
        if boxes is not None:
            tokens.append(self._embed_boxes(boxes))
        if masks is None:
            dense = self.no_mask_embed.weight.reshape(1, dim, 1, 1).expand(n, dim, self.grid, self.grid)
        else:
            dense = self.mask_downscaling(masks)
        return torch.cat(tokens, dim=1), dense

    def _positions(self, pixels_xy: Float[Tensor, "N P 2"]) -> Float[Tensor, "N P D"]:
        # Half a pixel: coordinates denote pixels, the encoding their centres.
        return self.pe_layer((pixels_xy + 0.5) / self.image_size)

    def _embed_points(self, points: Points, labels: PointLabels, pad: bool) -> Float[Tensor, "N T D"]:
        if pad:  # SAM was trained with a padding point if there is no box
            points = torch.cat([points, points.new_zeros(len(points), 1, 2)], dim=1)
            labels = torch.cat([labels, labels.new_full((len(labels), 1), -1)], dim=1)
        kind = labels[..., None]
        embedding = torch.where(kind < 0, 0.0, self._positions(points)) + torch.where(
            kind < 0, self.not_a_point_embed.weight, 0.0
        )
        embedding = embedding + torch.where(kind == 0, self._learned(_NEGATIVE), 0.0)
        return embedding + torch.where(kind == 1, self._learned(_POSITIVE), 0.0)

    def _embed_boxes(self, boxes: Boxes) -> Float[Tensor, "N 2 D"]:
        corners = self._positions(boxes.reshape(-1, 2, 2))
        return corners + torch.cat([self._learned(_BOX_START), self._learned(_BOX_END)])

    def _learned(self, kind: int) -> Float[Tensor, "1 D"]:
        embedding = self.point_embeddings[kind]
        return embedding.get_parameter("weight")
