"""What a pre-training run can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from masam.config import Settings
from masam.model.sizes import IMAGE_SIZE_STEP
from masam.synthetic.pictures.picture import SMALLEST_SIDE


class PretrainConfig(Settings):
    """One pre-training run."""

    size: Literal["vit_h", "vit_l", "vit_b", "vit_t"] = Field(default="vit_t", description="size of the SAM")
    image_size: int = Field(default=256, description="side of the pictures in pixels, a multiple of 32")
    half_size_share: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="share of steps on pictures of half the side, which cost a quarter; the model then serves both",
    )
    steps: int = Field(default=5_000, ge=1, description="optimiser steps")
    batch_pictures: int = Field(default=16, ge=1, description="pictures of one optimiser step")
    objects: int = Field(default=2, ge=1, description="objects of a picture that are asked for, each by its own prompt")
    rounds: int = Field(
        default=2, ge=1, description="most rounds of prompts to an object: the first, and clicks that correct it"
    )
    learning_rate: float = Field(default=5e-4, gt=0, description="largest learning rate of AdamW")
    weight_decay: float = Field(default=0.05, ge=0, description="AdamW's weight decay, on every tensor")
    warmup_steps: int = Field(
        default=250, ge=0, description="steps of linear warm-up, at most a tenth of the run, before a linear decay"
    )
    clip_norm: float | None = Field(default=1.0, gt=0, description="largest norm of the gradient; null for no limit")
    focal_weight: float = Field(default=20.0, ge=0, description="factor of the focal loss")
    dice_weight: float = Field(default=1.0, ge=0, description="factor of the soft Dice loss")
    patch_weight: float = Field(
        default=1.0,
        ge=0,
        description="factor of what each patch is asked about itself; 0 for prompted masks alone",
    )
    pixel_weight: float = Field(
        default=1.0, ge=0, description="factor of what each patch is asked about its pixels, within patch_weight"
    )
    iou_weight: float = Field(default=1.0, ge=0, description="factor of the predicted overlap's squared error")
    unit_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of pictures that the encoder sees in 0..1, as MA-SAM gives it volumes; the others come in "
        "SAM's own normalisation",
    )
    validate_every: int = Field(default=500, ge=1, description="steps from one validation to the next")
    validation_pictures: int = Field(default=64, ge=1, description="held-out pictures, one object of each")
    max_bad_steps: int = Field(
        default=20, ge=1, description="steps in a row whose loss or gradients are not finite that end the run"
    )
    precision: Literal["auto", "float32", "bf16"] = Field(
        default="auto", description="number format of the forward pass; 'auto' is bf16 on a GPU that has it"
    )
    device: str = Field(default="auto", description="'auto', 'cpu', 'cuda' or 'cuda:1'")
    workers: int = Field(default=0, ge=0, description="threads that make pictures ahead; they do not change the result")
    seed: int = Field(default=1234, ge=0, description="seed of everything that is drawn")

    @field_validator("image_size")
    @classmethod
    def _whole_patches(cls, side: int) -> int:
        step, least = 2 * IMAGE_SIZE_STEP, 2 * SMALLEST_SIDE  # of which half the side is allowed too
        if side < least or side % step:
            raise ValueError(f"expected a multiple of {step} from {least}")
        return side
