"""What a training run can be told; the defaults are the paper's recipe (paper.md 1.6)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from masam.augment.settings import AugmentSettings
from masam.config import Settings


class ModelSettings(Settings):
    """The model to build."""

    size: Literal["auto", "vit_h", "vit_l", "vit_b", "vit_t"] = Field(
        default="auto", description="encoder size; 'auto' is that of sam_checkpoint, vit_b without one"
    )
    sam_checkpoint: str | None = Field(
        default=None,
        description="SAM's or MedSAM's weights: a file or a published name; null starts from random numbers",
    )
    trained: Literal["adaptation", "everything"] = Field(
        default="adaptation",
        description="'adaptation' freezes SAM's encoder as the paper does; 'everything' also trains the encoder, "
        "which one without pre-trained weights needs",
    )
    fact_rank: int = Field(default=32, ge=1, description="rank of the FacT increments")
    fact_scale: float = Field(default=1.0, description="factor of the FacT increments")
    fact_dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout inside FacT while training")
    adapter_channels: int = Field(default=384, ge=1, description="width of the 3D adapters")
    adapter_zero_start: bool = Field(
        default=False,
        description="start the adapters' up-projection at zero: they change nothing at first; the paper does not",
    )


class TrainConfig(Settings):
    """One training run."""

    model: ModelSettings = Field(default=ModelSettings(), description="the model to build")
    epochs: int = Field(default=160, ge=1, description="passes over all windows of the training cases")
    schedule_epochs: int | None = Field(
        default=None, ge=1, description="epochs that the learning rate takes to reach zero; null for all of them"
    )
    batch_windows: int = Field(default=24, ge=1, description="windows that one optimiser step is made of")
    micro_batch_windows: int = Field(
        default=1, ge=1, description="windows that go through the model at once in each process; decides the memory"
    )
    learning_rate: float = Field(default=8e-4, gt=0, description="largest learning rate of AdamW")
    weight_decay: float = Field(default=0.1, ge=0, description="AdamW's weight decay, on every trained tensor")
    warmup_steps: int = Field(default=250, ge=0, description="steps of linear warm-up")
    power: float = Field(default=7.0, gt=0, description="exponent of the polynomial decay")
    clip_norm: float | None = Field(
        default=None, gt=0, description="largest norm of the gradient; null for no limit, as in the paper"
    )
    cross_entropy_weight: float = Field(default=0.2, ge=0, description="factor of the cross-entropy in the loss")
    dice_weight: float = Field(default=0.8, ge=0, description="factor of the soft Dice loss")
    dice_pooling: Literal["micro_batch", "batch"] = Field(
        default="micro_batch",
        description="windows over which the Dice loss is pooled: those that go through the model at once, or all of a "
        "step as in the paper, which costs a second forward pass where a process has several micro-batches",
    )
    augmentation: AugmentSettings = Field(
        default=AugmentSettings(),
        description="random variation of training samples: a preset (default, paper, none), or keys of their own",
    )
    fold: int = Field(default=0, ge=0, description="which fold of the split is held out for validation")
    folds: int = Field(default=5, ge=2, description="number of folds of the split")
    validate_every: int = Field(
        default=20, ge=0, description="epochs from one validation on whole volumes to the next; 0 for none"
    )
    validation_stride: int | None = Field(
        default=None, ge=1, description="stride of windows in validation; null for the window's size, the fastest"
    )
    max_hours: float | None = Field(
        default=None, gt=0, description="hours that the run may take: it is shortened to fit, its learning rate too"
    )
    patience: int | None = Field(
        default=None, ge=1, description="validations without a better Dice after which the run ends; null for no limit"
    )
    max_bad_steps: int = Field(
        default=20,
        ge=1,
        description="steps in a row whose loss or gradients are not finite that end the run; fewer are skipped",
    )
    precision: Literal["auto", "float32", "bf16", "fp16"] = Field(
        default="auto", description="number format of the forward pass; 'auto' is bf16 on a GPU that has it"
    )
    device: str = Field(default="auto", description="'auto', 'cpu', 'cuda' or 'cuda:1'")
    sharing: Literal["ddp", "fsdp"] = Field(
        default="ddp",
        description="how several processes hold the model: 'ddp' each the whole, 'fsdp' each a part of every tensor",
    )
    workers: int = Field(default=0, ge=0, description="threads that make samples ahead; they do not change the result")
    mlflow: str | None = Field(
        default=None,
        min_length=1,
        description="MLflow experiment that also gets the figures, on the server of MLFLOW_TRACKING_URI; null for none",
    )
    seed: int = Field(default=1234, ge=0, description="seed of everything that is drawn")
