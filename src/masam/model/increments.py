"""Increments: the low-rank additions to the frozen query and value projections of the image encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
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
