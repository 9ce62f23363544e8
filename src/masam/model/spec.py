"""The options of an adapted model, declared once, and the full specification of one model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from masam.errors import ConfigError
from masam.model.sizes import IMAGE_SIZE_STEP, SAM_CHANNELS, SamSize, require_integers_in_range

Increments = Literal["fact", "lora"]
AdapterPlaces = Literal["both", "attention", "mlp", "none"]
Decoder = Literal["progressive", "sam"]
Blocks = Literal["all"] | tuple[int, ...]
"""Encoder blocks: all of them, or those with the given indices, from 0; an empty tuple selects none."""


def _about(description: str, **limits: int) -> dict[str, Any]:
    """Return the metadata of an option: its description and its limits ``ge``, ``le`` and ``lt``."""
    return {"description": description, **limits}


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Options that a training configuration can set. The defaults are those of the paper.

    This is their only declaration: :class:`MasamSpec` inherits them, ``masam.build_masam`` accepts them as keyword
    arguments, and the ``model`` section of ``config.yaml`` takes types, defaults, descriptions and limits from here.
    """

    increments: Increments = field(
        default="fact",
        metadata=_about("low-rank update of query and value: 'fact' shares factors between blocks, 'lora' does not"),
    )
    fact_blocks: Blocks = field(
        default="all", metadata=_about("encoder blocks with increments: 'all', or a list of indices from 0")
    )
    fact_rank: int = field(default=32, metadata=_about("rank of the increments; 0 disables them", ge=0))
    fact_scale: float = field(default=1.0, metadata=_about("factor of the increments"))
    fact_dropout: float = field(
        default=0.1, metadata=_about("dropout probability in the increments during training", ge=0, lt=1)
    )
    adapter_blocks: Blocks = field(
        default="all", metadata=_about("encoder blocks with 3D adapters: 'all', or a list of indices from 0")
    )
    adapter_places: AdapterPlaces = field(
        default="both", metadata=_about("position of the adapters: before attention, before the MLP, both, none")
    )
    adapter_channels: int = field(default=384, metadata=_about("width of the 3D adapters", ge=1))
    adapter_depth_kernel: int = field(
        default=3, metadata=_about("kernel size of the adapters along the slices, odd; 1 for 2D adapters", ge=1, le=63)
    )
    adapter_dilation: int = field(default=1, metadata=_about("dilation of that kernel, in slices", ge=1, le=64))
    decoder: Decoder = field(
        default="progressive",
        metadata=_about("'progressive' upsamples to the input's size as in the paper, 'sam' to a quarter of it"),
    )


_CHOICES = {name: get_args(kind) for name, kind in get_type_hints(ModelOptions).items() if get_origin(kind) is Literal}
_IN_OFFICIAL_FORMAT = ("fact_rank", "fact_scale", "fact_dropout", "adapter_channels")


@dataclass(frozen=True)
class MasamSpec(ModelOptions):
    """Full specification of one adapted model: the specification and the tensors define the model.

    Attributes:
        sam: Architecture of the SAM that is adapted.
        num_classes: Foreground classes; the model predicts one channel more.
        image_size: Side of the square input in pixels, a multiple of 16.
        window: Slices S of a training window; the model accepts any number of slices.
        image_channels: Channels of the images. 1 is repeated for SAM's three channels, 3 are passed on unchanged, any
            other number goes through a small trained projection.
        class_groups: Channels in the order of their tokens: those of the first training, then one group for each time
            that classes were added (``masam.model.two_way_transformer``). Empty means one group, in order.

    Raises:
        ConfigError: A value is out of range.
    """

    sam: SamSize
    num_classes: int = field(metadata={"le": 4096})
    image_size: int = field(default=512, metadata={"le": 8192})
    window: int = field(default=5, metadata={"le": 4096})
    _: KW_ONLY
    image_channels: int = 1
    class_groups: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.image_size < IMAGE_SIZE_STEP or self.image_size % IMAGE_SIZE_STEP:
            raise ConfigError(
                f"expected a multiple of {IMAGE_SIZE_STEP} pixels, got {self.image_size}", where="image_size"
            )
        require_integers_in_range(self)
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
        is_valid = all(type(channel) is int for channel in channels) and all(self.class_groups)
        if self.class_groups and not (is_valid and sorted(channels) == list(range(self.num_channels))):
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
        """Channels in the order of their tokens, grouped by when their classes were added."""
        return self.class_groups or (tuple(range(self.num_channels)),)

    @property
    def increment_blocks(self) -> tuple[int, ...]:
        """Indices of the blocks with increments, in order."""
        return _indices(self.fact_blocks if self.fact_rank else (), self.sam.depth)

    @property
    def adapted_blocks(self) -> tuple[int, ...]:
        """Indices of the blocks with 3D adapters, in order."""
        return _indices(() if self.adapter_places == "none" else self.adapter_blocks, self.sam.depth)

    @property
    def depth_reach(self) -> int:
        """Number of neighbouring slices on either side that an adapter uses; 0 without 3D adapters."""
        return self.adapter_depth_kernel // 2 * self.adapter_dilation if self.adapted_blocks else 0

    @property
    def has_projection(self) -> bool:
        """Whether images go through a projection to SAM's three channels."""
        return self.image_channels not in (1, SAM_CHANNELS)

    @property
    def input_channels(self) -> int:
        """Channels of the model's input; a single image channel is repeated three times."""
        return self.image_channels if self.has_projection else SAM_CHANNELS

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> MasamSpec:
        """Return the specification given as plain JSON values: lists for tuples, a mapping for the SAM.

        Raises:
            ConfigError: A value is out of range.
            TypeError: A value is missing, unknown or of the wrong type.
            KeyError: ``sam`` is missing.
        """
        plain = {key: _as_tuples(value) for key, value in values.items()}
        sam = {key: _as_tuples(value) for key, value in values["sam"].items()}
        return cls(**{**plain, "sam": SamSize(**sam)})

    def variations(self) -> dict[str, Any]:
        """Return the options that differ from the paper's model and that the official file format cannot store."""
        names = {entry.name for entry in fields(ModelOptions)} - {*_IN_OFFICIAL_FORMAT} | {"class_groups"}
        values = {entry.name: (getattr(self, entry.name), entry.default) for entry in fields(self)}
        return {name: value for name, (value, default) in values.items() if name in names and value != default}


def _require_blocks(blocks: Blocks, depth: int, key: str) -> None:
    if blocks == "all":
        return
    is_list = isinstance(blocks, tuple) and all(type(block) is int and 0 <= block < depth for block in blocks)
    if not is_list or len(set(blocks)) != len(blocks):
        raise ConfigError(f"expected all, or different block indices from 0 to {depth - 1}, got {blocks!r}", where=key)


def _indices(blocks: Blocks, depth: int) -> tuple[int, ...]:
    return tuple(range(depth)) if blocks == "all" else tuple(sorted(blocks))


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value
