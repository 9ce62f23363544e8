"""The numbers of each model size, and of one adapted model, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from masam.errors import ConfigError

IMAGE_SIZE_STEP = 16
"""The patch size of every SAM, and so the step of allowed image sizes."""


@dataclass(frozen=True)
class SamSize:
    """Architecture of a SAM; its weights fix every number but the head counts' split.

    Attributes:
        name: vit_h, vit_l, vit_b, vit_t, or ``custom``.
        embed_dim: Width E of the image encoder.
        depth: Number of encoder blocks.
        num_heads: Attention heads of an encoder block.
        global_blocks: Indices of the blocks whose attention sees the whole grid; the others see windows.
        attention_window: Side of the attention windows, in patches.
        mlp_dim: Hidden width of an encoder block's MLP.
        out_channels: Channels D of the image embedding, and width of the decoder.
        decoder_depth: Two-way blocks of the decoder's transformer.
        decoder_heads: Attention heads of the decoder's transformer.
        decoder_mlp_dim: Hidden width of the decoder transformer's MLP.
        iou_hidden_dim: Hidden width of the IoU head.
        mask_channels: Channels of the prompt encoder's mask branch before its last layer.
        base_image_size: Image side in pixels that the published weights have positions for.
    """

    name: str
    embed_dim: int
    depth: int
    num_heads: int
    global_blocks: tuple[int, ...]
    attention_window: int
    mlp_dim: int
    out_channels: int = 256
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    iou_hidden_dim: int = 256
    mask_channels: int = 16
    base_image_size: int = 1024


SIZES: dict[str, SamSize] = {
    "vit_h": SamSize("vit_h", 1280, 32, 16, (7, 15, 23, 31), 14, 5120),
    "vit_l": SamSize("vit_l", 1024, 24, 16, (5, 11, 17, 23), 14, 4096),
    "vit_b": SamSize("vit_b", 768, 12, 12, (2, 5, 8, 11), 14, 3072),
    # Ours, for the demo and the tests: small enough to train on two cores. Windows of 8 divide its usual grids of
    # 16 and 8 patches (256 and 128 pixels), so none are padded.
    "vit_t": SamSize("vit_t", 192, 4, 3, (1, 3), 8, 384, decoder_mlp_dim=512, base_image_size=256),
}


def find_size(name: str) -> SamSize:
    """Return the size of this name.

    Raises:
        ConfigError: There is none.
    """
    if name not in SIZES:
        raise ConfigError(f"expected a model size of {', '.join(SIZES)}, got {name!r}", where="size")
    return SIZES[name]


@dataclass(frozen=True)
class MasamSpec:
    """One adapted model, in full: together with the tensors it is the model.

    Attributes:
        sam: Architecture of the SAM that is adapted.
        num_classes: Foreground classes; the model predicts one channel more.
        image_size: Side of the square input in pixels, a multiple of 16.
        window: Slices S of a window that the model is trained with; any number can be given to it.
        fact_rank: Rank R of the FacT increments; 0 is a model without, such as one that they are merged into.
        fact_scale: Factor s of the increments.
        fact_dropout: Dropout between Sigma and V while training, 0 to 1.
        adapter_channels: Width of the 3D adapters.

    Raises:
        ConfigError: A number is out of its range.
    """

    sam: SamSize
    num_classes: int
    image_size: int = 512
    window: int = 5
    fact_rank: int = 32
    fact_scale: float = 1.0
    fact_dropout: float = 0.1
    adapter_channels: int = 384

    def __post_init__(self) -> None:
        if self.image_size < IMAGE_SIZE_STEP or self.image_size % IMAGE_SIZE_STEP:
            raise ConfigError(
                f"expected a multiple of {IMAGE_SIZE_STEP} pixels, got {self.image_size}", where="image_size"
            )
        for name, least in (("num_classes", 1), ("window", 1), ("fact_rank", 0), ("adapter_channels", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"expected {least} or more, got {getattr(self, name)}", where=name)
        if not 0 <= self.fact_dropout < 1:
            raise ConfigError(f"expected 0 or more and less than 1, got {self.fact_dropout}", where="fact_dropout")

    @property
    def num_channels(self) -> int:
        """Channels K of the logits: the foreground classes and the background."""
        return self.num_classes + 1
