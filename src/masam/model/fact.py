"""FacT-TT and LoRA: low-rank increments of the frozen query and value projections of the image encoder."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from masam.axes import Tokens


class Increments(nn.Module, ABC):
    """Low-rank increments of query and value in some blocks of the encoder, zero before training.

    Args:
        blocks: Indices of the L blocks with increments, in order.
        scale: Factor s.
        dropout: Dropout probability inside the increments during training.
    """

    def __init__(self, blocks: tuple[int, ...], scale: float, dropout: float) -> None:
        super().__init__()
        self.blocks = blocks
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self._row = {block: row for row, block in enumerate(blocks)}

    def forward(self, x: Tokens, layer: int) -> tuple[Tokens, Tokens]:
        """Return the increments of queries and values for the normed tokens ``x`` of block ``layer``."""
        query, value = self._added(x, self._row[layer])
        return self.scale * query, self.scale * value

    @torch.no_grad()
    def merged(self, layer: int, qkv_weight: Float[Tensor, "E3 E"]) -> Float[Tensor, "E3 E"]:
        """Return a qkv weight with the increments of block ``layer`` added, computed in float64 and rounded once."""
        query, value = (self.scale * matrix for matrix in self._matrices(self._row[layer]))
        increment = torch.cat([query, torch.zeros_like(query), value])
        return (qkv_weight.double() + increment).to(qkv_weight.dtype)

    @abstractmethod
    def _added(self, x: Tokens, row: int) -> tuple[Tokens, Tokens]:
        """Return the unscaled increments of queries and values for the ``row``-th of the blocks."""

    @abstractmethod
    def _matrices(self, row: int) -> tuple[Float[Tensor, "E E"], Float[Tensor, "E E"]]:
        """Return them as float64 matrices by which the block's input is multiplied from the left."""


class FacT(Increments):
    """Increments s * U * Sigma * V^T for query and value, with dropout between Sigma and V.

    All blocks share U and V; each block has two R x R matrices, Sigma_q and Sigma_v. V is initialised with zeros, so an
    untrained increment is exactly zero.

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


class LoRA(Increments):
    """Increments s * B * A for query and value, with separate A and B for each block and projection.

    B is initialised with zeros, so an untrained increment is exactly zero. Dropout is between A and B, where SAMed has
    none. At equal rank, LoRA has about 2 L times the parameters of FacT.

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
