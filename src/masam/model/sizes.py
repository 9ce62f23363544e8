"""The numbers of each model size, and of one adapted model, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from masam.errors import ConfigError

Increments = Literal["fact", "lora"]
AdapterPlaces = Literal["both", "attention", "mlp", "none"]
Decoder = Literal["progressive", "sam"]
Blocks = Literal["all"] | tuple[int, ...]
"""Encoder blocks by index, from 0; an empty tuple is none of them."""

SAM_CHANNELS = 3
"""SAM sees colour images."""

IMAGE_SIZE_STEP = 16
"""The patch size of every SAM, and so the step of allowed image sizes."""


_MAX_WIDTH = 2**16
_LIMITS = {
    "depth": 256, "num_classes": 4096, "image_size": 8192, "window": 4096, "decoder_depth": 64,
    "adapter_depth_kernel": 63, "adapter_dilation": 64,
}  # fmt: skip
"""Far above every model there is, far below what would exhaust a machine by names and shapes alone."""


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

    Raises:
        ConfigError: A number is out of its range, or heads do not divide their width.
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

    def __post_init__(self) -> None:
        _require_numbers(self, skipped=("name", "global_blocks"))
        if not (isinstance(self.name, str) and all(type(block) is int for block in self.global_blocks)):
            raise ConfigError(
                f"expected a name and block numbers, got {self.name!r}, {self.global_blocks}", where="sam"
            )
        if self.embed_dim % self.num_heads or self.out_channels % (2 * self.decoder_heads):
            raise ConfigError(
                f"expected heads that divide the width, got {self.num_heads} heads of {self.embed_dim} in the encoder, "
                f"{self.decoder_heads} of {self.out_channels} (halved for looks at the image) in the decoder",
                where="num_heads",
            )


def _require_numbers(record: SamSize | MasamSpec, skipped: tuple[str, ...]) -> None:
    """Refuse numbers that no model has; those of a file are judged before they take memory."""
    for one in fields(record):
        value = getattr(record, one.name)
        least, limit = int(one.name != "fact_rank"), _LIMITS.get(one.name, _MAX_WIDTH)
        if one.name not in skipped and not (type(value) is int and least <= value <= limit):
            raise ConfigError(f"expected a whole number from {least} to {limit}, got {value!r}", where=one.name)


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
        fact_rank: Rank R of the increments; 0 is a model without, such as one that they are merged into.
        fact_scale: Factor s of the increments.
        fact_dropout: Dropout inside the increments while training, 0 to 1.
        adapter_channels: Width of the 3D adapters.
        image_channels: Channels of the images: 1 is repeated for SAM's three, 3 go to them as they are, any other
            number through a small trained projection.
        increments: ``fact``, whose factors all blocks share, or ``lora``, each block with its own.
        fact_blocks: Blocks that get increments.
        adapter_blocks: Blocks that get 3D adapters.
        adapter_places: Where in such a block: before ``attention``, before the ``mlp``, ``both``, or ``none``.
        adapter_depth_kernel: Slices that an adapter's convolution spans, odd; 1 is a 2D adapter.
        adapter_dilation: Step between those slices.
        decoder: ``progressive``, up to the input's resolution, or ``sam``, up to a quarter of it.
        class_groups: Channels in the order of their tokens, those that a trained model began with, then a group for
            each time that classes were added to it (``masam.model.two_way_transformer``); empty is one group, in order.

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
    image_channels: int = 1
    increments: Increments = "fact"
    fact_blocks: Blocks = "all"
    adapter_blocks: Blocks = "all"
    adapter_places: AdapterPlaces = "both"
    adapter_depth_kernel: int = 3
    adapter_dilation: int = 1
    decoder: Decoder = "progressive"
    class_groups: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.image_size < IMAGE_SIZE_STEP or self.image_size % IMAGE_SIZE_STEP:
            raise ConfigError(
                f"expected a multiple of {IMAGE_SIZE_STEP} pixels, got {self.image_size}", where="image_size"
            )
        _require_numbers(self, skipped=("sam", "fact_scale", "fact_dropout", *_NO_NUMBERS))
        if not math.isfinite(self.fact_scale):
            raise ConfigError(f"expected a finite number, got {self.fact_scale}", where="fact_scale")
        if not 0 <= self.fact_dropout < 1:
            raise ConfigError(f"expected 0 or more and less than 1, got {self.fact_dropout}", where="fact_dropout")
        if self.adapter_depth_kernel % 2 == 0:
            raise ConfigError(
                f"expected an odd number of slices, got {self.adapter_depth_kernel}", where="adapter_depth_kernel"
            )
        for key, choices in _CHOICES.items():
            if getattr(self, key) not in choices:
                raise ConfigError(f"expected one of {', '.join(choices)}, got {getattr(self, key)!r}", where=key)
        for key in ("fact_blocks", "adapter_blocks"):
            _require_blocks(getattr(self, key), self.sam.depth, key)
        self._require_groups()

    def _require_groups(self) -> None:
        channels = [channel for group in self.class_groups for channel in group]
        is_whole = all(type(channel) is int for channel in channels) and all(self.class_groups)
        if self.class_groups and not (is_whole and sorted(channels) == list(range(self.num_channels))):
            raise ConfigError(
                f"expected each channel from 0 to {self.num_classes} in one group, got {self.class_groups}",
                where="class_groups",
            )

    @property
    def num_channels(self) -> int:
        """Channels K of the logits: the foreground classes and the background."""
        return self.num_classes + 1

    @property
    def channel_groups(self) -> tuple[tuple[int, ...], ...]:
        """Channels in the order of their tokens, by the time that their classes came."""
        return self.class_groups or (tuple(range(self.num_channels)),)

    @property
    def increment_blocks(self) -> tuple[int, ...]:
        """Indices of the blocks that get increments, in order."""
        return _resolve(self.fact_blocks if self.fact_rank else (), self.sam.depth)

    @property
    def adapted_blocks(self) -> tuple[int, ...]:
        """Indices of the blocks that get 3D adapters, in order."""
        return _resolve(() if self.adapter_places == "none" else self.adapter_blocks, self.sam.depth)

    @property
    def depth_reach(self) -> int:
        """Slices to either side that an adapter looks at; 0 where slices do not see each other."""
        return self.adapter_depth_kernel // 2 * self.adapter_dilation if self.adapted_blocks else 0

    @property
    def has_projection(self) -> bool:
        """Whether images go through a projection to SAM's three channels."""
        return self.image_channels not in (1, SAM_CHANNELS)

    @property
    def input_channels(self) -> int:
        """Channels of the model's input: those of the images, one of which is repeated three times."""
        return self.image_channels if self.has_projection else SAM_CHANNELS

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> MasamSpec:
        """Return the spec of plain values as JSON holds them: lists for tuples, a mapping for the SAM.

        Raises:
            ConfigError: A number is out of its range.
            TypeError: A value is missing, unknown or of another kind.
            KeyError: ``sam`` is missing.
        """
        plain = {key: _as_tuples(value) for key, value in values.items()}
        sam = {key: _as_tuples(value) for key, value in values["sam"].items()}
        return cls(**{**plain, "sam": SamSize(**sam)})

    def variations(self) -> dict[str, Any]:
        """Return what differs from the paper's model among the choices that most models leave alone."""
        names = (*_NO_NUMBERS, "adapter_depth_kernel", "adapter_dilation")
        return {
            one.name: getattr(self, one.name)
            for one in fields(self)
            if one.name in names and getattr(self, one.name) != one.default
        }


_CHOICES: dict[str, tuple[str, ...]] = {
    "increments": get_args(Increments),
    "adapter_places": get_args(AdapterPlaces),
    "decoder": get_args(Decoder),
}
_NO_NUMBERS = (*_CHOICES, "fact_blocks", "adapter_blocks", "class_groups")


def _require_blocks(blocks: Blocks, depth: int, key: str) -> None:
    if blocks == "all":
        return
    is_list = isinstance(blocks, tuple) and all(type(block) is int and 0 <= block < depth for block in blocks)
    if not is_list or len(set(blocks)) != len(blocks):
        raise ConfigError(f"expected all, or different block numbers from 0 to {depth - 1}, got {blocks!r}", where=key)


def _resolve(blocks: Blocks, depth: int) -> tuple[int, ...]:
    return tuple(range(depth)) if blocks == "all" else tuple(sorted(blocks))


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
