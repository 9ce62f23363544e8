"""The 3D adapter: the only part of the model that mixes the slices of a window."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from masam.axes import Tokens


class DepthConv(nn.Module):
    """Conv3d with kernel (D, 1, 1) along the slices, zero-padded to the same number of slices; ``kernel`` D is odd.

    It is computed as one matrix product for all taps and a sum of shifted results, so the tokens keep the channels-last
    layout of the transformer.
    """

    def __init__(self, channels: int, kernel: int = 3, dilation: int = 1) -> None:
        super().__init__()
        self.dilation = dilation
        self.weight = nn.Parameter(torch.empty(channels, channels, kernel, 1, 1))
        self.bias = nn.Parameter(torch.empty(channels))
        bound = 1 / math.sqrt(channels * kernel)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Float[Tensor, "B S L c"]) -> Float[Tensor, "B S L c"]:
        """Convolve along the slices."""
        channels, _, kernel = self.weight.shape[:3]
        slices = x.shape[1]
        weight = self.weight[..., 0, 0].permute(2, 0, 1).reshape(kernel * channels, channels)
        taps = F.linear(x, weight).unflatten(-1, (kernel, channels))
        centre = kernel // 2
        out = taps[..., centre, :] + self.bias
        for tap in range(kernel):
            shift = (tap - centre) * self.dilation
            if shift == 0 or abs(shift) >= slices:
                continue
            neighbour = taps[:, max(shift, 0) : slices + min(shift, 0), :, tap]
            out = out + F.pad(neighbour, (0, 0, 0, 0, max(-shift, 0), max(shift, 0)))
        return out


class Adapter3D(nn.Module):
    """x + up(GELU(depth convolution(down(norm(x))))), with ``channels`` channels between down and up.

    Source:
        Paper, equation 3; order, norm and default initialisation (no layer is zero) as in paper.md 1.2.
    """

    def __init__(self, dim: int, channels: int, kernel: int = 3, dilation: int = 1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.down = nn.Linear(dim, channels, bias=False)
        self.conv = DepthConv(channels, kernel, dilation)
        self.up = nn.Linear(channels, dim, bias=False)

    def forward(self, x: Tokens, slices: int) -> Tokens:
        """Mix the ``slices`` slices of each window in ``x`` [N, h, w, E], N = B * slices."""
        n, h, w, _ = x.shape
        narrow = self.down(self.norm(x)).reshape(n // slices, slices, h * w, -1)
        mixed = F.gelu(self.conv(narrow)).reshape(n, h, w, -1)
        return x + self.up(mixed)
