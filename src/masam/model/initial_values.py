"""Initialisation of a model without pre-trained weights; loaded weights replace it.

SAM's own initialisation (zero positions, PyTorch's default layers) requires a long pre-training. This one is for short
training from scratch: an initial token holds its patch as cosine waves of similar amplitude, and its position.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

LINEAR_STD = 0.02
"""Standard deviation of linear layers, small so that residual branches start small."""

TOKEN_SCALE = 0.5
"""Standard deviation of a token's content, and amplitude of its position."""

_MEAN_PIXEL = 0.35
"""Mean of pixels in 0..1, which are mostly dark."""

# Measured on patches of the phantom's CT slices in 0..1: the amplitude of an orthonormal cosine wave with u and v half
# periods decreases as 1.3 / (u^2 + v^2)^0.7; the mean of a patch counts as a third of a half period.
_AMPLITUDE, _DECAY, _MEAN_FREQUENCY = 1.3, 1.4, 1 / 3

_QUERY_SCALE = 2.0

# Wavelengths of positions range from a patch to many times the grid, whose side counts as 16 patches at every size.
_GRID_LENGTH, _LONGEST = 16.0, 100.0


@torch.no_grad()
def initialise_encoder(encoder: nn.Module, projection: nn.Conv2d, positions: nn.Parameter) -> None:
    """Initialise an image encoder with its projection of patches [E, 3, p, p] and its positions [1, h, w, E].

    Its relative positions stay zero.
    """
    for layer in encoder.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=LINEAR_STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    waves = patch_waves(projection.kernel_size[0], projection.out_channels)
    # Waves of the mean of the three colours: most images are grey.
    projection.weight[: len(waves)] = waves[:, None] / projection.in_channels
    if projection.bias is not None:
        projection.bias.copy_(-_MEAN_PIXEL * projection.weight.sum(dim=(1, 2, 3)))
    positions.copy_(TOKEN_SCALE * grid_waves(*positions.shape[1:])[None])


@torch.no_grad()
def initialise_cross_attention(query: nn.Linear, key: nn.Linear) -> None:
    """Initialise cross-attention between tokens and image to match positions.

    Prompts and image have the same position encoding. With equal projections, equal positions have equal queries and
    keys, so a click or the corner of a box attends to its position in the image from the first step. With independent
    random projections, training needs thousands of steps for this. The weights are scaled up to focus attention on few
    positions.
    """
    query.weight.mul_(_QUERY_SCALE)
    key.weight.copy_(query.weight)
    nn.init.zeros_(query.bias)
    nn.init.zeros_(key.bias)


def patch_waves(side: int, count: int) -> Float[Tensor, "n p p"]:
    """Return the ``count`` longest of the ``side`` ** 2 cosine waves over a patch (DCT-II), the longest first.

    The amplitudes are chosen so that the coefficients vary by about ``TOKEN_SCALE`` over patches of slices.
    """
    half_periods = torch.arange(side, dtype=torch.float64)
    wave = torch.cos(torch.pi / side * half_periods[:, None] * (half_periods + 0.5)) * (2 / side) ** 0.5
    wave[0] *= 0.5**0.5
    frequency = torch.hypot(half_periods[:, None], half_periods)
    longest = frequency.flatten().argsort(stable=True)[:count]
    amplitude = TOKEN_SCALE / _AMPLITUDE * frequency.clamp(min=_MEAN_FREQUENCY) ** _DECAY
    waves = torch.einsum("uv,ui,vj->uvij", amplitude, wave, wave).flatten(0, 1)
    return waves[longest].float()


def grid_waves(height: int, width: int, dim: int) -> Float[Tensor, "h w E"]:
    """Return sines and cosines of each grid position's row and column; each takes half of the width E = ``dim``."""
    rows, columns = _waves(height, dim // 2), _waves(width, dim - dim // 2)
    return torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=-1)


def _waves(length: int, dim: int) -> Float[Tensor, "l d"]:
    position = torch.arange(length) * (_GRID_LENGTH / length)
    frequencies = (dim + 1) // 2
    phase = position[:, None] * _LONGEST ** -(torch.arange(frequencies) / max(frequencies, 1))
    return torch.cat([phase.sin(), phase.cos()], dim=1)[:, :dim]
