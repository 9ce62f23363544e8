"""How a model without weights starts; weights that are loaded replace all of it.

SAM's own start (no positions, PyTorch's default layers) supposes a long pre-training. Ours serves short training from
nothing: a token first holds its patch as cosine waves of like strength, and its place.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

LINEAR_STD = 0.02
"""Standard deviation of linear layers: residual branches start small."""

TOKEN_SCALE = 0.5
"""Size of a token's parts, contents and place alike."""

_MEAN_PIXEL = 0.35
"""Pixels run from 0 to 1 and are mostly dark."""

# Over patches of the phantom's CT slices in 0..1, the amplitude of an orthonormal cosine wave of u and v half periods
# falls as 1.3 / (u^2 + v^2)^0.7; a patch's mean counts as a third of a half period.
_AMPLITUDE, _FALL, _MEAN_FREQUENCY = 1.3, 1.4, 1 / 3

_LOOK_SCALE = 2.0

# Wave lengths of positions reach from a patch to many times the grid, which counts as 16 patches whatever its number.
_GRID_LENGTH, _LONGEST = 16.0, 100.0


@torch.no_grad()
def initialise_encoder(encoder: nn.Module, projection: nn.Conv2d, positions: nn.Parameter) -> None:
    """Give a fresh image encoder its first values.

    Args:
        encoder: All of it, positions and projection included; its relative positions stay zero.
        projection: Patches to tokens, [E, 3, p, p].
        positions: [1, h, w, E].
    """
    for layer in encoder.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=LINEAR_STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    waves = patch_waves(projection.kernel_size[0], projection.out_channels)
    # Grey images are the case in hand; a wave of the three colours' mean serves colour images as well.
    projection.weight[: len(waves)] = waves[:, None] / projection.in_channels
    if projection.bias is not None:
        projection.bias.copy_(-_MEAN_PIXEL * projection.weight.sum(dim=(1, 2, 3)))
    positions.copy_(TOKEN_SCALE * grid_waves(*positions.shape[1:])[None])


@torch.no_grad()
def initialise_look(query: nn.Linear, key: nn.Linear) -> None:
    """Let a fresh look from tokens to the image, or back, begin between like places.

    Prompts and image carry the same encoding of their positions. Under one projection, like places have like queries
    and keys, so that a click or a box's corner finds its place in the image from the first step on; under two random
    ones thousands of steps go by before it does.

    Args:
        query: Projection of what looks; its weights are made larger, so that few places are looked at.
        key: Projection of what is looked at, which gets the same weights.
    """
    query.weight.mul_(_LOOK_SCALE)
    key.weight.copy_(query.weight)
    nn.init.zeros_(query.bias)
    nn.init.zeros_(key.bias)


def patch_waves(side: int, count: int) -> Float[Tensor, "n p p"]:
    """Return cosine waves over a patch (DCT-II), the longest first.

    Each is as strong as it takes for its coefficient to vary by about ``TOKEN_SCALE`` over patches of slices.

    Args:
        side: Side p of a patch in pixels.
        count: Waves wanted; there are no more than p * p.
    """
    half_periods = torch.arange(side, dtype=torch.float64)
    wave = torch.cos(torch.pi / side * half_periods[:, None] * (half_periods + 0.5)) * (2 / side) ** 0.5
    wave[0] *= 0.5**0.5
    frequency = torch.hypot(half_periods[:, None], half_periods)
    longest = frequency.flatten().argsort(stable=True)[:count]
    strength = TOKEN_SCALE / _AMPLITUDE * frequency.clamp(min=_MEAN_FREQUENCY) ** _FALL
    waves = torch.einsum("uv,ui,vj->uvij", strength, wave, wave).flatten(0, 1)
    return waves[longest].float()


def grid_waves(height: int, width: int, dim: int) -> Float[Tensor, "h w E"]:
    """Return sines and cosines of each place's row and column, a half of the width E for either.

    Args:
        height: Rows of the grid.
        width: Columns.
        dim: E.
    """
    rows, columns = _waves(height, dim // 2), _waves(width, dim - dim // 2)
    return torch.cat([rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1)], dim=-1)


def _waves(length: int, dim: int) -> Float[Tensor, "l d"]:
    place = torch.arange(length) * (_GRID_LENGTH / length)
    frequencies = (dim + 1) // 2
    phase = place[:, None] * _LONGEST ** -(torch.arange(frequencies) / max(frequencies, 1))
    return torch.cat([phase.sin(), phase.cos()], dim=1)[:, :dim]
