"""Architecture of the SAM that is adapted: the published sizes and our small one."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from masam.errors import ConfigError

SAM_CHANNELS = 3
"""Channels of SAM's input: colour images."""

IMAGE_SIZE_STEP = 16
"""Patch size of every SAM; image sizes are multiples of it."""

_MAX_WIDTH = 2**16
"""Default upper limit: far above every known model, and low enough that names and shapes alone fit into memory."""


@dataclass(frozen=True)
class SamSize:
    """Architecture of a SAM model. Tensor shapes determine every value except the numbers of heads.

    Attributes:
        name: vit_h, vit_l, vit_b, vit_t, or ``custom``.
        embed_dim: Width E of the image encoder.
        depth: Number of encoder blocks.
        num_heads: Attention heads of an encoder block.
        global_blocks: Indices of the blocks whose attention covers the full grid; the other blocks use windows.
        attention_window: Side of the attention windows, in patches.
        mlp_dim: Hidden width of an encoder block's MLP.
        out_channels: Channels D of the image embedding, and width of the decoder.
        decoder_depth: Two-way blocks of the decoder's transformer.
        decoder_heads: Attention heads of the decoder's transformer.
        decoder_mlp_dim: Hidden width of the decoder transformer's MLP.
        iou_hidden_dim: Hidden width of the IoU head.
        mask_channels: Channels of the prompt encoder's mask branch before its last layer.
        base_image_size: Image side in pixels for which the published weights have position embeddings.

    Raises:
        ConfigError: A value is out of range, or the width is not divisible by the number of heads.
    """

    name: str
    embed_dim: int
    depth: int = field(metadata={"le": 256})
    num_heads: int
    global_blocks: tuple[int, ...]
    attention_window: int
    mlp_dim: int
    out_channels: int = 256
    decoder_depth: int = field(default=2, metadata={"le": 64})
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    iou_hidden_dim: int = 256
    mask_channels: int = 16
    base_image_size: int = 1024

    def __post_init__(self) -> None:
        require_integers_in_range(self)
        if not (isinstance(self.name, str) and all(type(block) is int for block in self.global_blocks)):
            raise ConfigError(
                f"expected a name and block indices, got {self.name!r}, {self.global_blocks}", where="sam"
            )
        if self.embed_dim % self.num_heads or self.out_channels % (2 * self.decoder_heads):
            raise ConfigError(
                f"expected widths divisible by the number of heads, got {self.num_heads} heads for {self.embed_dim} in "
                f"the encoder, {self.decoder_heads} for {self.out_channels} (halved in cross-attention) in the decoder",
                where="num_heads",
            )


def require_integers_in_range(record: Any) -> None:
    """Check the integer fields of a dataclass, whose metadata hold the limits ``ge`` and ``le``.

    Values read from a file are checked here before any memory is allocated for them.
    """
    for entry in fields(record):
        value = getattr(record, entry.name)
        low, high = entry.metadata.get("ge", 1), entry.metadata.get("le", _MAX_WIDTH)
        if entry.type == "int" and not (type(value) is int and low <= value <= high):
            raise ConfigError(f"expected an integer from {low} to {high}, got {value!r}", where=entry.name)


SIZES: dict[str, SamSize] = {
    "vit_h": SamSize("vit_h", 1280, 32, 16, (7, 15, 23, 31), 14, 5120),
    "vit_l": SamSize("vit_l", 1024, 24, 16, (5, 11, 17, 23), 14, 4096),
    "vit_b": SamSize("vit_b", 768, 12, 12, (2, 5, 8, 11), 14, 3072),
    # Our own size for the demonstration and the tests: it trains on two cores. Windows of 8 patches divide its usual
    # grids of 16 and 8 patches (256 and 128 pixels), so no window is padded.
    "vit_t": SamSize("vit_t", 192, 4, 3, (1, 3), 8, 384, decoder_mlp_dim=512, base_image_size=256),
}


def find_size(name: str) -> SamSize:
    """Return the size with this name; raise ConfigError if it is unknown."""
    if name not in SIZES:
        raise ConfigError(f"expected a model size of {', '.join(SIZES)}, got {name!r}", where="size")
    return SIZES[name]
