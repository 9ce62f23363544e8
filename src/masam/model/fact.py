"""FacT-TT: low-rank increments of the query and value projections, with factors shared by all blocks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from masam.axes import Tokens
from masam.model.increments import Increments


class FacT(Increments):
    """Increments s * U * Sigma * V^T for query and value of encoder blocks.

    All blocks share U and V; each block has two R x R matrices, Sigma_q and Sigma_v. V is initialised with zeros, so an
    untrained increment is exactly zero.

    The arguments are the embedding width E, the rank R, and those of :class:`Increments`; dropout is between Sigma and
    V.

    Source:
        Paper, equations 1 and 2; FacT (arXiv 2212.03145), tensor-train form; initialisation as in paper.md 1.1.
    """

    def __init__(self, dim: int, blocks: tuple[int, ...], rank: int, scale: float = 1.0, dropout: float = 0.1) -> None:
        super().__init__(blocks, scale, dropout)
        depth = len(blocks)
        self.u = nn.Parameter(torch.empty(rank, dim))
        self.v = nn.Parameter(torch.zeros(dim, rank))
        self.sigma_q = nn.Parameter(torch.empty(depth, rank, rank))
        self.sigma_v = nn.Parameter(torch.empty(depth, rank, rank))
        # The bound of a default linear layer: 1 / sqrt(fan in).
        nn.init.uniform_(self.u, -1 / math.sqrt(dim), 1 / math.sqrt(dim))
        nn.init.uniform_(self.sigma_q, -1 / math.sqrt(rank), 1 / math.sqrt(rank))
        nn.init.uniform_(self.sigma_v, -1 / math.sqrt(rank), 1 / math.sqrt(rank))

    def _added(self, x: Tokens, row: int) -> tuple[Tokens, Tokens]:
        low_rank = F.linear(x, self.u)
        query = F.linear(self.dropout(F.linear(low_rank, self.sigma_q[row])), self.v)
        value = F.linear(self.dropout(F.linear(low_rank, self.sigma_v[row])), self.v)
        return query, value

    def _matrices(self, row: int) -> tuple[Float[Tensor, "E E"], Float[Tensor, "E E"]]:
        u, v = self.u.double(), self.v.double()
        query, value = (v @ sigma[row].double() @ u for sigma in (self.sigma_q, self.sigma_v))
        return query, value
