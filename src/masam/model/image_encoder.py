"""SAM's image encoder: a plain ViT with windowed and global attention and decomposed relative positions.

Parameter names are those of the published SAM. Two operations are computed differently, with the same result:

* A token that pads the grid to complete windows is zero after the norm, so its query, key and value equal the
  projection's bias. Projections therefore run on real tokens only (at 512 pixels the padded grid has 72 % more tokens).
* The relative-position bias is a product, q . R_h + q . R_w, so it is folded into wider queries and keys, and attention
  is one fused call. No N x N matrix is stored, and gradients reach the position tables.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from masam.axes import Embeddings, Images, Tokens
from masam.model.adapter3d import Adapter3D
from masam.model.fact import FacT, Increments, LoRA
from masam.model.initial_values import initialise_encoder
from masam.model.sizes import IMAGE_SIZE_STEP, SamSize

Increment = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps the normed tokens of a block to the increments of its queries and values."""


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of a feature map [N, D, h, w]."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Embeddings) -> Embeddings:
        """Normalise the channels of each pixel."""
        variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        normed = (x - mean) * torch.rsqrt(variance + self.eps)
        return normed * self.weight[:, None, None] + self.bias[:, None, None]


class PatchEmbed(nn.Module):
    """Split the image into patches of 16 x 16 pixels and project each."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, IMAGE_SIZE_STEP, IMAGE_SIZE_STEP)

    def forward(self, images: Images) -> Tokens:
        """Return tokens [N, h, w, E]."""
        return self.proj(images).permute(0, 2, 3, 1)  # N h w E


class Attention(nn.Module):
    """Multi-head attention with relative positions, over windows of the token grid or the full grid.

    ``side`` is the side of the window, or of the grid for global attention, in patches.
    """

    def __init__(self, dim: int, num_heads: int, side: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.side = side
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, dim // num_heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, dim // num_heads))

    def forward(self, x: Tokens, increment: Increment | None = None) -> Tokens:
        """Attend within each window of the normed tokens ``x`` [N, h, w, E]."""
        h, w = x.shape[1:3]
        qkv = self.qkv(x)
        if increment is not None:
            query, key, value = qkv.chunk(3, dim=-1)
            query_increment, value_increment = increment(x)
            qkv = torch.cat([query + query_increment, key, value + value_increment], dim=-1)
        qkv = self._pad_with_bias(qkv)
        out = self._attend(split_windows(qkv, self.side))
        out = join_windows(out, self.side, qkv.shape[1], qkv.shape[2])
        return self.proj(out[:, :h, :w])

    def _pad_with_bias(self, qkv: Tensor) -> Tensor:
        n, h, w, width = qkv.shape
        rows, columns = (-(-length // self.side) * self.side for length in (h, w))
        if (rows, columns) == (h, w):
            return qkv
        padded = self.qkv.bias.to(qkv.dtype).expand(n, rows, columns, width).clone()
        padded[:, :h, :w] = qkv
        return padded

    def _attend(self, qkv: Float[Tensor, "M side side E3"]) -> Float[Tensor, "M side side E"]:
        side, heads = self.side, self.num_heads
        tokens = side * side
        query, key, value = qkv.reshape(-1, tokens, 3, heads, qkv.shape[-1] // (3 * heads)).permute(2, 0, 3, 1, 4)
        head_dim = query.shape[-1]
        offsets = torch.arange(side, device=qkv.device)
        offsets = offsets[:, None] - offsets[None, :] + side - 1  # query position, key position
        grid_query = query.unflatten(2, (side, side))
        # The bias is computed from the unscaled query (paper.md, quirk 6).
        bias_h = torch.einsum("mnhwd,hkd->mnhwk", grid_query, self.rel_pos_h[offsets].to(query.dtype)).flatten(2, 3)
        bias_w = torch.einsum("mnhwd,wkd->mnhwk", grid_query, self.rel_pos_w[offsets].to(query.dtype)).flatten(2, 3)
        one_hot = torch.eye(side, dtype=key.dtype, device=key.device)
        row, column = one_hot.repeat_interleave(side, dim=0), one_hot.repeat(side, 1)
        positions = torch.cat([row, column], dim=-1).expand(*key.shape[:2], tokens, 2 * side)
        # Fused kernels require equal widths of q, k and v, and in half precision a multiple of 8.
        pad = -(head_dim + 2 * side) % 8
        wide_query = F.pad(torch.cat([query * head_dim**-0.5, bias_h, bias_w], dim=-1), (0, pad))
        wide_key = F.pad(torch.cat([key, positions], dim=-1), (0, pad))
        wide_value = F.pad(value, (0, 2 * side + pad))
        out = F.scaled_dot_product_attention(wide_query, wide_key, wide_value, scale=1.0)[..., :head_dim]
        return out.transpose(1, 2).reshape(-1, side, side, heads * head_dim)


def split_windows(x: Float[Tensor, "N h w c"], side: int) -> Float[Tensor, "M {side} {side} c"]:
    """Split a grid whose sides are multiples of ``side`` into windows, row by row."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // side, side, w // side, side, c)
    return x.transpose(2, 3).reshape(-1, side, side, c)


def join_windows(x: Float[Tensor, "M {side} {side} c"], side: int, h: int, w: int) -> Float[Tensor, "N {h} {w} c"]:
    """Invert ``split_windows``."""
    x = x.reshape(-1, h // side, w // side, side, side, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, h, w, x.shape[-1])


class TokenMLP(nn.Module):
    """Two linear layers with an activation in between."""

    def __init__(self, dim: int, hidden: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.lin1 = nn.Linear(dim, hidden)
        self.lin2 = nn.Linear(hidden, dim)
        self.activation = activation

    def forward(self, x: Float[Tensor, "*tokens E"]) -> Float[Tensor, "*tokens E"]:
        """Transform each token."""
        return self.lin2(self.activation(self.lin1(x)))


class Block(nn.Module):
    """One encoder block, optionally with 3D adapters before attention and before the MLP (paper, figure 2)."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, side: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, side)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = TokenMLP(dim, mlp_dim, F.gelu)
        self.adapter_attention: Adapter3D | None = None
        self.adapter_mlp: Adapter3D | None = None

    def forward(self, x: Tokens, slices: int = 1, increment: Increment | None = None) -> Tokens:
        """Transform tokens [N, h, w, E], where N is a multiple of the ``slices`` of a window."""
        if self.adapter_attention is not None:
            x = self.adapter_attention(x, slices)
        x = x + self.attn(self.norm1(x), increment)
        if self.adapter_mlp is not None:
            x = self.adapter_mlp(x, slices)
        return x + self.mlp(self.norm2(x))


class ImageEncoder(nn.Module):
    """Encode square images of ``image_size`` pixels into embeddings with a sixteenth of their side.

    Attributes:
        checkpointing: Whether training stores only the tokens between blocks and repeats each block in the backward
            pass. This needs far less memory and one more forward pass of the encoder; the gradients are the same.
    """

    def __init__(self, size: SamSize, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.checkpointing = False
        grid = image_size // IMAGE_SIZE_STEP
        self.patch_embed = PatchEmbed(size.embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, size.embed_dim))
        sides = [grid if i in size.global_blocks else size.attention_window for i in range(size.depth)]
        self.blocks = nn.ModuleList(Block(size.embed_dim, size.num_heads, size.mlp_dim, side) for side in sides)
        self.neck = nn.Sequential(
            nn.Conv2d(size.embed_dim, size.out_channels, 1, bias=False),
            LayerNorm2d(size.out_channels),
            nn.Conv2d(size.out_channels, size.out_channels, 3, padding=1, bias=False),
            LayerNorm2d(size.out_channels),
        )
        # At most one of the two is set.
        self.fact: FacT | None = None
        self.lora: LoRA | None = None
        initialise_encoder(self, self.patch_embed.proj, self.pos_embed)

    def forward(self, images: Images, slices: int = 1) -> Embeddings:
        """Encode normalised images [N, 3, H, W], N a multiple of the ``slices`` of a window, to [N, D, h, w]."""
        x = self.patch_embed(images) + self.pos_embed
        for i, block in enumerate(self.blocks):
            if self.checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, slices, self._increment(i), use_reentrant=False)
            else:
                x = block(x, slices, self._increment(i))
        return self.neck(x.permute(0, 3, 1, 2))

    @property
    def increments(self) -> Increments | None:
        """The increments of queries and values: FacT, LoRA or None."""
        return self.fact if self.fact is not None else self.lora

    def _increment(self, layer: int) -> Increment | None:
        increments = self.increments
        return None if increments is None or layer not in increments.blocks else lambda x: increments(x, layer)
