"""The mask decoder's transformer: tokens attend to the image and the image to the tokens.

Tokens may come in groups, one for each time that classes were added to a trained model. A group sees itself and the
groups before it, never a later one, and the image attends to the first group alone. What the first tokens and the image
become is therefore computed as if no other had been added, by the same operations on the same shapes: bit for bit.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from masam.model.initial_values import initialise_look


class Attention(nn.Module):
    """Multi-head attention whose inner width may be smaller than the model's.

    Args:
        dim: Width D.
        num_heads: Heads; they divide the inner width.
        downsample: D over the inner width; SAM halves it between tokens and image.
    """

    def __init__(self, dim: int, num_heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = dim // downsample
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)
        if downsample > 1:
            initialise_look(self.q_proj, self.k_proj)

    def forward(
        self, query: Float[Tensor, "N t D"], key: Float[Tensor, "N l D"], value: Float[Tensor, "N l D"]
    ) -> Float[Tensor, "N t D"]:
        """Attend from ``query`` to ``key`` and ``value``."""
        heads = [
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        ]
        return self.out_proj(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class TokenMLP(nn.Module):
    """Two linear layers with a ReLU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "N t D"]) -> Float[Tensor, "N t D"]:
        """Transform each token."""
        return self.lin2(F.relu(self.lin1(x)))


class TwoWayBlock(nn.Module):
    """Self-attention of tokens, tokens to image, MLP, image to tokens.

    Args:
        dim: Width D.
        num_heads: Heads.
        mlp_dim: Hidden width of the MLP.
        first: The first block's self-attention has neither positions nor a residual.
    """

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, num_heads, downsample=2)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = TokenMLP(dim, mlp_dim)
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
        """Return updated groups of tokens and image."""
        placed_image = image + image_positions
        updated = []
        for number, place in enumerate(positions):
            tokens = self._among_themselves(groups[: number + 1], positions[: number + 1])
            tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + place, placed_image, image))
            updated.append(self.norm3(tokens + self.mlp(tokens)))
        first = updated[0]
        image = self.norm4(image + self.cross_attn_image_to_token(placed_image, first + positions[0], first))
        return updated, image

    def _among_themselves(self, groups: list[Tensor], positions: list[Tensor]) -> Tensor:
        """Let the last of some groups attend to all of them."""
        tokens, seen = groups[-1], torch.cat(groups, dim=1)
        if self.first:
            return self.norm1(self.self_attn(tokens, seen, seen))
        placed = seen + torch.cat(positions, dim=1)
        return self.norm1(tokens + self.self_attn(tokens + positions[-1], placed, seen))


class TwoWayTransformer(nn.Module):
    """A few two-way blocks and a last look of the tokens at the image."""

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
        """Run all blocks; the tokens' first values serve as their positions throughout, as in SAM.

        Args:
            groups: Tokens [N, t, D]; with classes that were added later one group more for each addition.
            image: [N, l, D], row by row.
            image_positions: [1, l, D].

        Returns:
            The groups and the image after it.
        """
        positions = groups
        for layer in self.layers:
            groups, image = layer(groups, image, positions, image_positions)
        placed_image = image + image_positions
        looked = [
            self.norm_final_attn(tokens + self.final_attn_token_to_image(tokens + place, placed_image, image))
            for tokens, place in zip(groups, positions, strict=True)
        ]
        return looked, image
