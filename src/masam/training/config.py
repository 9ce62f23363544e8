"""Configuration of a training run; the defaults are the paper's recipe (paper.md 1.6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import Field, create_model, field_validator, model_validator

from masam.augment.settings import AugmentSettings
from masam.config import Settings, SettingsT
from masam.errors import ConfigError
from masam.model.spec import ModelOptions
from masam.preprocess.plan import Plan

# Type checkers see an inheritance; pydantic also needs the limits and descriptions in the fields' metadata.
if TYPE_CHECKING:

    class _OptionSettings(Settings, ModelOptions):
        pass

else:
    _TYPES = get_type_hints(ModelOptions)
    _OptionSettings = create_model(
        "_OptionSettings",
        __base__=Settings,
        **{entry.name: (_TYPES[entry.name], Field(entry.default, **entry.metadata)) for entry in fields(ModelOptions)},
    )


class ModelSettings(_OptionSettings):
    """The model to build: its options (:class:`masam.model.spec.ModelOptions`), and the weights to start from."""

    size: Literal["auto", "vit_h", "vit_l", "vit_b", "vit_t"] = Field(
        default="auto", description="encoder size; 'auto' uses the size of sam_checkpoint, or vit_b without one"
    )
    sam_checkpoint: str | None = Field(
        default=None,
        description="weights of SAM or MedSAM: a file or a published name; null starts from random weights",
    )
    init: str | None = Field(
        default=None,
        description="trained model to start from: a run folder or a model file. New classes are added to it; its own "
        "options replace the options of this section",
    )
    trained: Literal["adaptation", "everything", "decoder"] = Field(
        default="adaptation",
        description="'adaptation' freezes SAM's encoder as the paper does; 'everything' also trains the encoder, "
        "which an encoder without pre-trained weights requires; 'decoder' also freezes increments and adapters",
    )
    adapter_zero_start: bool = Field(
        default=False,
        description="initialise the adapters' up-projection with zeros, so that they initially change nothing; the "
        "paper does not",
    )

    @field_validator("adapter_depth_kernel")
    @classmethod
    def _require_odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError("expected an odd number")
        return kernel

    @field_validator("fact_blocks", "adapter_blocks", mode="before")
    @classmethod
    def _require_all_or_indices(cls, blocks: object) -> object:
        # Validated before the union, whose own message lists one expectation per member.
        if blocks == "all":
            return blocks
        indices = tuple(blocks) if isinstance(blocks, list | tuple) else (-1,)
        if not all(type(block) is int and block >= 0 for block in indices) or len(set(indices)) != len(indices):
            raise ValueError("expected all, or a list of different block indices from 0")
        return indices


class TrainConfig(Settings):
    """One training run."""

    model: ModelSettings = Field(default=ModelSettings(), description="the model to build")
    epochs: int = Field(default=160, ge=1, description="passes over all training windows")
    schedule_epochs: int | None = Field(
        default=None, ge=1, description="epochs until the learning rate reaches zero; null for all epochs"
    )
    batch_windows: int = Field(default=24, ge=1, description="windows per optimiser step")
    micro_batch_windows: int = Field(
        default=1, ge=1, description="windows per forward pass in each process; determines the memory"
    )
    window_depths: tuple[Annotated[int, Field(ge=1, le=63)], Annotated[int, Field(ge=1, le=63)]] | None = Field(
        default=None,
        description="smallest and largest number of slices per training window, drawn for each step; null for the "
        "window of the plan",
    )
    checkpointing: bool = Field(
        default=False,
        description="recompute the encoder's activations in the backward pass: less memory, more time, the same "
        "gradients",
    )
    frozen_dtype: Literal["float32", "bf16"] = Field(
        default="float32",
        description="number format of the encoder's frozen layers; 'bf16' requires precision bf16",
    )
    learning_rate: float = Field(default=8e-4, gt=0, description="largest learning rate of AdamW")
    weight_decay: float = Field(default=0.1, ge=0, description="weight decay of AdamW for all trained tensors")
    warmup_steps: int = Field(default=250, ge=0, description="steps of linear warm-up")
    power: float = Field(default=7.0, gt=0, description="exponent of the polynomial decay")
    clip_norm: float | None = Field(
        default=None, gt=0, description="largest norm of the gradient; null for no limit, as in the paper"
    )
    cross_entropy_weight: float = Field(default=0.2, ge=0, description="weight of the cross-entropy in the loss")
    dice_weight: float = Field(default=0.8, ge=0, description="weight of the soft Dice loss")
    dice_pooling: Literal["micro_batch", "batch"] = Field(
        default="micro_batch",
        description="windows over which the Dice loss is pooled: those of a micro-batch, or all of a step as in the "
        "paper, which needs a second forward pass if a process has several micro-batches",
    )
    augmentation: AugmentSettings = Field(
        default=AugmentSettings(),
        description="augmentation of samples: a preset (default, paper, paper-box, none), or individual keys",
    )
    prompt_rate: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="fraction of the windows that get a box, clicks or a mask, drawn from their labels; 0 for none",
    )
    corrective_clicks: int = Field(
        default=0,
        ge=0,
        le=20,
        description="largest number of clicks at errors of the model that a window with clicks also gets; 0 for none",
    )
    fold: int = Field(default=0, ge=0, description="fold of the split that is held out for validation")
    folds: int = Field(default=5, ge=2, description="number of folds of the split")
    validate_every: int = Field(
        default=20, ge=0, description="epochs between two validations on whole volumes; 0 for none"
    )
    validation_stride: int | None = Field(
        default=None, ge=1, description="stride of the windows in validation; null for the window size"
    )
    max_hours: float | None = Field(
        default=None, gt=0, description="time limit in hours: run and learning rate schedule are shortened to fit"
    )
    patience: int | None = Field(
        default=None, ge=1, description="validations without a better Dice after which the run ends; null for no limit"
    )
    max_bad_steps: int = Field(
        default=20,
        ge=1,
        description="consecutive steps with non-finite loss or gradients after which the run ends; fewer are skipped",
    )
    precision: Literal["auto", "float32", "bf16", "fp16"] = Field(
        default="auto", description="number format of the forward pass; 'auto' is bf16 on GPUs that support it"
    )
    device: str = Field(default="auto", description="'auto', 'cpu', 'cuda' or 'cuda:1'")
    sharing: Literal["ddp", "fsdp"] = Field(
        default="ddp",
        description="distribution over several processes: 'ddp' copies the model, 'fsdp' shards every tensor",
    )
    workers: int = Field(default=0, ge=0, description="threads that create samples in advance; no effect on the result")
    mlflow: str | None = Field(
        default=None,
        min_length=1,
        description="MLflow experiment that also gets the metrics, on the server MLFLOW_TRACKING_URI; null for none",
    )
    seed: int = Field(default=1234, ge=0, description="seed of all random numbers")

    @model_validator(mode="after")
    def _require_prompts(self) -> TrainConfig:
        if self.corrective_clicks > 0 and self.prompt_rate == 0:
            raise ValueError("corrective_clicks needs windows with prompts; set prompt_rate above 0")
        return self

    @field_validator("window_depths")
    @classmethod
    def _require_ascending(cls, depths: tuple[int, int] | None) -> tuple[int, int] | None:
        if depths is not None and depths[0] > depths[1]:
            raise ValueError("expected the smaller number first")
        return depths


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level: key b of the group a becomes ``a.b``."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def resolve_config(
    default: SettingsT, config: SettingsT | Mapping[str, Any] | None, suggested: Mapping[str, Any]
) -> SettingsT:
    """Return a complete configuration.

    Args:
        default: Values of keys that are neither given nor suggested.
        config: A complete configuration, which is returned unchanged, or some of its keys, nested or as ``a.b``.
        suggested: Values of keys that are not given.
    """
    if isinstance(config, Mapping) or config is None:
        return default.changed({**suggested, **flatten(config or {})}, where="options")
    return config


def suggested_settings(config: object, plan: Plan | None) -> dict[str, Any]:
    """Return the settings that a plan suggests (``masam plan --memory``), as keys for ``resolve_config``.

    Args:
        config: Given keys: the size of a SAM checkpoint or of a model to start from replaces the suggested one.
        plan: The plan; None suggests nothing.
    """
    best = None if plan is None else plan.suggestion
    if best is None:
        return {}
    given = flatten(config) if isinstance(config, Mapping) else {}
    has_size = given.get("model.sam_checkpoint") or given.get("model.init")
    sizes = {} if has_size else {"model.size": best.size}
    return {**sizes, "micro_batch_windows": best.micro_batch_windows, "checkpointing": best.checkpointing}


def require_no_settings(*given: object) -> None:
    """Refuse settings for a run that resumes.

    Args:
        given: All settings; None or empty if not given.

    Raises:
        ConfigError: A setting is given.
    """
    if any(given):
        raise ConfigError("a resumed run keeps its settings; give none", where="--resume", fix="or start a new run")
