"""The mask decoder's transformer: tokens attend to the image and the image to the tokens.

Tokens form groups, one more for each time that classes were added to a trained model. A group attends to itself and to
earlier groups, and the image attends only to the first group. Added groups therefore do not change the results of the
earlier ones, bit for bit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from masam.model.image_encoder import TokenMLP
from masam.model.initial_values import initialise_cross_attention


class Attention(nn.Module):
    """Multi-head attention with the inner width D / ``downsample``, which is 2 in SAM's cross-attention."""

    def __init__(self, dim: int, num_heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = dim // downsample
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)
        if downsample > 1:
            initialise_cross_attention(self.q_proj, self.k_proj)

    def forward(
        self, query: Float[Tensor, "N t D"], key: Float[Tensor, "N l D"], value: Float[Tensor, "N l D"]
    ) -> Float[Tensor, "N t D"]:
        """Attend from ``query`` to ``key`` and ``value``."""
        heads = [
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        ]
        return self.out_proj(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class TwoWayBlock(nn.Module):
    """Self-attention of tokens, attention of tokens to image, MLP, attention of image to tokens.

    The self-attention of the first block has neither positions nor a residual.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, num_heads, downsample=2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = TokenMLP(dim, mlp_dim, F.relu)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, num_heads, downsample=2)

    def forward(
        self,
        groups: list[Float[Tensor, "N _ D"]],
        image: Float[Tensor, "N l D"],
        positions: list[Float[Tensor, "N _ D"]],
        image_positions: Float[Tensor, "1 l D"],
    ) -> tuple[list[Float[Tensor, "N _ D"]], Float[Tensor, "N l D"]]:
        """Return the updated groups of tokens and the updated image."""
        positioned_image = image + image_positions
        updated = []
        for number, position in enumerate(positions):
            tokens = self._attend_to_groups(groups[: number + 1], positions[: number + 1])
            tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + position, positioned_image, image))
            updated.append(self.norm3(tokens + self.mlp(tokens)))
        first = updated[0]
        image = self.norm4(image + self.cross_attn_image_to_token(positioned_image, first + positions[0], first))
        return updated, image

    def _attend_to_groups(self, groups: list[Tensor], positions: list[Tensor]) -> Tensor:
        """Let the last group attend to all groups."""
        tokens, visible = groups[-1], torch.cat(groups, dim=1)
        if self.first:
            return self.norm1(self.self_attn(tokens, visible, visible))
        keys = visible + torch.cat(positions, dim=1)
        return self.norm1(tokens + self.self_attn(tokens + positions[-1], keys, visible))


class TwoWayTransformer(nn.Module):
    """Two-way blocks, followed by a final attention of the tokens to the image."""

    def __init__(self, dim: int, depth: int, num_heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(dim, num_heads, mlp_dim, first=i == 0) for i in range(depth))
        self.final_attn_token_to_image = Attention(dim, num_heads, downsample=2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(
        self,
        groups: list[Float[Tensor, "N _ D"]],
        image: Float[Tensor, "N l D"],
        image_positions: Float[Tensor, "1 l D"],
    ) -> tuple[list[Float[Tensor, "N _ D"]], Float[Tensor, "N l D"]]:
        """Return the groups of tokens and the image, updated by all blocks.

        As in SAM, the initial values of the tokens are their positions in every block.
        """
        positions = groups
        for layer in self.layers:
            groups, image = layer(groups, image, positions, image_positions)
        positioned_image = image + image_positions
        attended = [
            self.norm_final_attn(tokens + self.final_attn_token_to_image(tokens + position, positioned_image, image))
            for tokens, position in zip(groups, positions, strict=True)
        ]
        return attended, image
