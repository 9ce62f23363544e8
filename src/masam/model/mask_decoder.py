"""The mask decoder: one token per mask, whose hyper-network weights the upsampled image embedding.

SAM's own decoder upsamples twice, MA-SAM's four times to the input's full resolution (paper, section 3.3). Both
are this class with different channel divisors.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from masam.axes import Embeddings
from masam.model.image_encoder import LayerNorm2d
from masam.model.sizes import SamSize
from masam.model.two_way_transformer import TwoWayTransformer

SAM_UPSCALING = (4, 8)
PROGRESSIVE_UPSCALING = (4, 8, 16, 32)
"""Divisors of the embedding's channels, one for each 2 x upsampling."""


class MLP(nn.Module):
    """Linear layers with ReLUs in between."""

    def __init__(self, dim: int, hidden: int, out: int, depth: int = 3) -> None:
        super().__init__()
        widths = [dim] + [hidden] * (depth - 1) + [out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N out"]:
        """Transform each row."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def upscaling_stages(dim: int, divisors: tuple[int, ...]) -> nn.Sequential:
    """Return a 2 x transposed convolution with norm and GELU for each divisor; the last one has no norm."""
    stages: list[nn.Module] = []
    channels = dim
    for i, divisor in enumerate(divisors):
        stages.append(nn.ConvTranspose2d(channels, dim // divisor, 2, 2))
        if i < len(divisors) - 1:
            stages.append(LayerNorm2d(dim // divisor))
        stages.append(nn.GELU())
        channels = dim // divisor
    return nn.Sequential(*stages)


def upscale(stages: nn.Sequential, tokens: Float[Tensor, "N l D"]) -> Float[Tensor, "N c p"]:
    """Apply the stages of ``upscaling_stages`` to tokens instead of a feature map.

    A transposed convolution whose stride equals its kernel size is a linear layer from a pixel to 2 x 2 pixels. All
    other layers act on single pixels, so no permutation is needed between the stages. The tokens are in the order of
    rows; the resulting p = l * 4 ** U pixels after U upsamplings are in the order of ``unfold_pixels``.
    """
    x = tokens
    *earlier, last = stages
    for stage in earlier:
        if isinstance(stage, nn.ConvTranspose2d):
            weight = stage.weight.permute(2, 3, 1, 0).flatten(0, 2)  # 4c D
            bias = stage.get_parameter("bias").repeat(4)
            x = F.linear(x, weight, bias).unflatten(2, (4, -1)).flatten(1, 2)  # N 4l c
        elif isinstance(stage, LayerNorm2d):
            x = F.layer_norm(x, stage.weight.shape, stage.weight, stage.bias, stage.eps)
        else:
            x = stage(x)
    # Channels first before the last GELU: its gradient arrives from the masks in this layout.
    return last(x.transpose(1, 2).contiguous())


def unfold_pixels(x: Float[Tensor, "N K p"], h: int, w: int) -> Float[Tensor, "N K H W"]:
    """Arrange the pixels of ``upscale`` in rows and columns; ``h`` and ``w`` are those before upsampling.

    The index of a pixel consists of row, column, and for each upsampling the row and column in the 2 x 2 square.
    """
    order = torch.arange(x.shape[2], device=x.device).unflatten(0, (h, w, -1))
    while order.shape[2] > 1:
        order = order.unflatten(2, (2, 2, -1)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    rows, columns, _ = order.shape
    # Selecting columns of a matrix is fast, and so is its gradient, unlike with more axes.
    return x.flatten(0, 1).index_select(1, order.flatten()).reshape(*x.shape[:2], rows, columns)


class MaskDecoder(nn.Module):
    """Predict one logit map and one IoU per mask token.

    Args:
        size: Architecture.
        num_masks: Mask tokens K: classes and background, or SAM's four.
        upscaling: Channel divisors, one for each 2 x upsampling.
        groups: Masks in the order of their tokens: those of the first training, then one group for each time that
            classes were added. Earlier groups do not attend to later ones. Empty means one group, in order.
    """

    def __init__(
        self,
        size: SamSize,
        num_masks: int,
        upscaling: tuple[int, ...] = PROGRESSIVE_UPSCALING,
        groups: tuple[tuple[int, ...], ...] = (),
    ) -> None:
        super().__init__()
        dim = size.out_channels
        self.groups = [list(group) for group in groups] or [list(range(num_masks))]
        self.is_in_order = [mask for group in self.groups for mask in group] == list(range(num_masks))
        self.transformer = TwoWayTransformer(dim, size.decoder_depth, size.decoder_heads, size.decoder_mlp_dim)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(num_masks, dim)
        self.output_upscaling = upscaling_stages(dim, upscaling)
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(dim, dim, dim // upscaling[-1]) for _ in range(num_masks))
        self.iou_prediction_head = MLP(dim, size.iou_hidden_dim, num_masks)

    def forward(
        self,
        embeddings: Embeddings,
        positions: Float[Tensor, "D h w"],
        sparse: Float[Tensor, "N T D"],
        dense: Embeddings,
    ) -> tuple[Float[Tensor, "N K H W"], Float[Tensor, "N K"]]:
        """Decode image embeddings with their positions, T prompt tokens (T may be 0) and a dense prompt embedding.

        Returns:
            Logits [N, K, H, W], whose side is that of the embedding doubled by each upsampling, and IoU [N, K].
        """
        n, _, h, w = embeddings.shape
        first, *later = self.groups
        output_tokens = torch.cat([self.iou_token.weight, self._tokens_of(first)])
        groups = [torch.cat([output_tokens.expand(n, -1, -1), sparse], dim=1)]
        groups += [self._tokens_of(group).expand(n, -1, -1) for group in later]
        image = (embeddings + dense).flatten(2).transpose(1, 2)  # N hw D
        (tokens, *rest), image = self.transformer(groups, image, positions.flatten(1).T[None])
        upscaled = upscale(self.output_upscaling, image)
        masks = [self._weights(first, tokens[:, 1 : 1 + len(first)]) @ upscaled]
        masks += [self._weights(group, updated) @ upscaled for group, updated in zip(later, rest, strict=True)]
        logits = unfold_pixels(self._in_order(masks), h, w)
        return logits, self.iou_prediction_head(tokens[:, 0])

    def _tokens_of(self, masks: list[int]) -> Float[Tensor, "m D"]:
        # Indexing is avoided if possible, because its gradient is a scatter.
        is_all = self.is_in_order and len(self.groups) == 1
        return self.mask_tokens.weight if is_all else self.mask_tokens.weight[masks]

    def _weights(self, masks: list[int], tokens: Float[Tensor, "N m D"]) -> Float[Tensor, "N m c"]:
        """Return the output of each mask's hyper-network for its token."""
        networks = [self.output_hypernetworks_mlps[mask] for mask in masks]
        return torch.stack([network(tokens[:, i]) for i, network in enumerate(networks)], dim=1)

    def _in_order(self, groups: list[Float[Tensor, "N _ p"]]) -> Float[Tensor, "N K p"]:
        logits = groups[0] if len(groups) == 1 else torch.cat(groups, dim=1)
        if self.is_in_order:
            return logits
        order = [mask for group in self.groups for mask in group]
        return logits[:, sorted(range(len(order)), key=order.__getitem__)]
