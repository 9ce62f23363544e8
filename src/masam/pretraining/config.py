"""Configuration of a pre-training run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from masam.config import Settings
from masam.model.sizes import IMAGE_SIZE_STEP
from masam.synthetic.pictures.picture import SMALLEST_SIDE


class PretrainConfig(Settings):
    """One pre-training run."""

    size: Literal["vit_h", "vit_l", "vit_b", "vit_t"] = Field(default="vit_t", description="encoder size of the SAM")
    image_size: int = Field(default=256, description="height and width of the pictures in pixels, a multiple of 32")
    half_size_share: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="fraction of steps with pictures of half the side, at a quarter of the cost, to train for both",
    )
    steps: int = Field(default=5_000, ge=1, description="optimiser steps")
    batch_pictures: int = Field(default=16, ge=1, description="pictures per optimiser step")
    objects: int = Field(default=2, ge=1, description="objects per picture, each with its own prompts")
    rounds: int = Field(
        default=2, ge=1, description="largest number of prompts per object: the first, then corrective clicks"
    )
    learning_rate: float = Field(default=5e-4, gt=0, description="largest learning rate of AdamW")
    weight_decay: float = Field(default=0.05, ge=0, description="weight decay of AdamW for all tensors")
    warmup_steps: int = Field(
        default=250, ge=0, description="steps of linear warm-up, at most a tenth of the run, before the linear decay"
    )
    clip_norm: float | None = Field(default=1.0, gt=0, description="largest norm of the gradient; null for no limit")
    focal_weight: float = Field(default=20.0, ge=0, description="weight of the focal loss")
    dice_weight: float = Field(default=1.0, ge=0, description="weight of the soft Dice loss")
    patch_weight: float = Field(
        default=1.0,
        ge=0,
        description="weight of the dense task of each patch; 0 for prompted masks only",
    )
    pixel_weight: float = Field(default=1.0, ge=0, description="weight of the pixel term within the dense task")
    iou_weight: float = Field(default=1.0, ge=0, description="weight of the squared error of the predicted IoU")
    unit_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="fraction of pictures that the encoder gets in 0..1, as in MA-SAM; the others have SAM's "
        "normalisation",
    )
    validate_every: int = Field(default=500, ge=1, description="steps between two validations")
    validation_pictures: int = Field(default=64, ge=1, description="held-out pictures, with one object each")
    max_bad_steps: int = Field(
        default=20, ge=1, description="consecutive steps with non-finite loss or gradients after which the run ends"
    )
    precision: Literal["auto", "float32", "bf16"] = Field(
        default="auto", description="number format of the forward pass; 'auto' is bf16 on GPUs that support it"
    )
    device: str = Field(default="auto", description="'auto', 'cpu', 'cuda' or 'cuda:1'")
    workers: int = Field(default=0, ge=0, description="threads that create pictures ahead; no effect on the result")
    seed: int = Field(default=1234, ge=0, description="seed of all random numbers")

    @field_validator("image_size")
    @classmethod
    def _require_multiple(cls, side: int) -> int:
        step, least = 2 * IMAGE_SIZE_STEP, 2 * SMALLEST_SIDE  # pictures of half the side must be valid too
        if side < least or side % step:
            raise ValueError(f"expected a multiple of {step} from {least}")
        return side
