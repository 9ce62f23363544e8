"""FacT-TT: low-rank increments of the query and value projections, with factors shared by all blocks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from masam.axes import Tokens


class FacT(nn.Module):
    """Increments s * U * Sigma * V^T for query and value of every encoder block.

    One U and one V serve the whole encoder; a block owns two R x R matrices, Sigma_q and Sigma_v. V starts at zero, so
    an untrained increment is exactly zero.

    Args:
        dim: Embedding width E.
        depth: Number of blocks L.
        rank: R.
        scale: s.
        dropout: Probability of the dropout between Sigma and V while training.

    Source:
        Paper, equations 1 and 2; FacT (arXiv 2212.03145), tensor-train form; initialisation as in paper.md 1.1.
    """

    def __init__(self, dim: int, depth: int, rank: int, scale: float = 1.0, dropout: float = 0.1) -> None:
        super().__init__()
        self.scale = scale
        self.u = nn.Parameter(torch.empty(rank, dim))
        self.v = nn.Parameter(torch.zeros(dim, rank))
        self.sigma_q = nn.Parameter(torch.empty(depth, rank, rank))
        self.sigma_v = nn.Parameter(torch.empty(depth, rank, rank))
        self.dropout = nn.Dropout(dropout)
        # The bound of a default linear layer: 1 / sqrt(fan in).
        nn.init.uniform_(self.u, -1 / math.sqrt(dim), 1 / math.sqrt(dim))
        nn.init.uniform_(self.sigma_q, -1 / math.sqrt(rank), 1 / math.sqrt(rank))
        nn.init.uniform_(self.sigma_v, -1 / math.sqrt(rank), 1 / math.sqrt(rank))

    def forward(self, x: Tokens, layer: int) -> tuple[Tokens, Tokens]:
        """Return what block ``layer`` adds to its queries and to its values.

        Args:
            x: [N, h, w, E] normed input of the block's attention.
            layer: Index of the block.
        """
        low_rank = F.linear(x, self.u)
        query = F.linear(self.dropout(F.linear(low_rank, self.sigma_q[layer])), self.v)
        value = F.linear(self.dropout(F.linear(low_rank, self.sigma_v[layer])), self.v)
        return self.scale * query, self.scale * value

    @torch.no_grad()
    def merged(self, layer: int, qkv_weight: Float[Tensor, "E3 E"]) -> Float[Tensor, "E3 E"]:
        """Return a qkv weight with the block's increments added, computed in float64 and rounded once."""
        u, v = self.u.double(), self.v.double()
        query, value = (self.scale * v @ sigma[layer].double() @ u for sigma in (self.sigma_q, self.sigma_v))
        increment = torch.cat([query, torch.zeros_like(query), value])
        return (qkv_weight.double() + increment).to(qkv_weight.dtype)
