"""LoRA: low-rank increments of the query and value projections, with separate factors for each block."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from masam.axes import Tokens
from masam.model.increments import Increments


class LoRA(Increments):
    """Increments s * B * A for query and value of encoder blocks, with separate A and B for each block and projection.

    B is initialised with zeros, so an untrained increment is exactly zero. At equal rank, LoRA has about 2 L times the
    parameters of FacT.

    The arguments are the embedding width E, the rank R, and those of :class:`Increments`; dropout is between A and B,
    where SAMed has none.

    Source:
        LoRA (arXiv 2106.09685), on q and v of SAM's encoder as in SAMed (arXiv 2304.13785): A is initialised
        as a default linear layer, B with zeros; there is no factor alpha / R.
    """

    def __init__(self, dim: int, blocks: tuple[int, ...], rank: int, scale: float = 1.0, dropout: float = 0.1) -> None:
        super().__init__(blocks, scale, dropout)
        depth = len(blocks)
        self.a_q = nn.Parameter(torch.empty(depth, rank, dim))
        self.b_q = nn.Parameter(torch.zeros(depth, dim, rank))
        self.a_v = nn.Parameter(torch.empty(depth, rank, dim))
        self.b_v = nn.Parameter(torch.zeros(depth, dim, rank))
        for a in (self.a_q, self.a_v):
            nn.init.uniform_(a, -1 / math.sqrt(dim), 1 / math.sqrt(dim))

    def _added(self, x: Tokens, row: int) -> tuple[Tokens, Tokens]:
        query = F.linear(self.dropout(F.linear(x, self.a_q[row])), self.b_q[row])
        value = F.linear(self.dropout(F.linear(x, self.a_v[row])), self.b_v[row])
        return query, value

    def _matrices(self, row: int) -> tuple[Float[Tensor, "E E"], Float[Tensor, "E E"]]:
        return self.b_q[row].double() @ self.a_q[row].double(), self.b_v[row].double() @ self.a_v[row].double()
