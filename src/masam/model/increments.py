"""Increments: what adaptation adds to the frozen query and value projections of the image encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from masam.axes import Tokens


class Increments(nn.Module, ABC):
    """Low-rank increments of query and value in some of the encoder's blocks, zero before training.

    Args:
        blocks: Indices of the blocks that have increments, in order.
        scale: Factor s.
        dropout: Probability of the dropout inside while training.
    """

    def __init__(self, blocks: tuple[int, ...], scale: float, dropout: float) -> None:
        super().__init__()
        self.blocks = blocks
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self._row = {block: row for row, block in enumerate(blocks)}

    def forward(self, x: Tokens, layer: int) -> tuple[Tokens, Tokens]:
        """Return what a block adds to its queries and to its values.

        Args:
            x: [N, h, w, E] normed input of the block's attention.
            layer: Index of the block, one of ``blocks``.
        """
        query, value = self._added(x, self._row[layer])
        return self.scale * query, self.scale * value

    @torch.no_grad()
    def merged(self, layer: int, qkv_weight: Float[Tensor, "E3 E"]) -> Float[Tensor, "E3 E"]:
        """Return a qkv weight with the block's increments added, computed in float64 and rounded once."""
        query, value = (self.scale * matrix for matrix in self._matrices(self._row[layer]))
        increment = torch.cat([query, torch.zeros_like(query), value])
        return (qkv_weight.double() + increment).to(qkv_weight.dtype)

    @abstractmethod
    def _added(self, x: Tokens, row: int) -> tuple[Tokens, Tokens]:
        """Return the additions to queries and values, without the scale, of the ``row``-th of the blocks."""

    @abstractmethod
    def _matrices(self, row: int) -> tuple[Float[Tensor, "E E"], Float[Tensor, "E E"]]:
        """Return the same as float64 matrices that act on the block's input from the left."""
