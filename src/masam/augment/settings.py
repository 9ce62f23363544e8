"""Settings of augmentation: the probability and range of every operation, and presets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, model_serializer, model_validator

from masam.config import Settings

PresetName = Literal["default", "paper", "paper-box", "none"]
Outside = Literal["ignore", "background"]
Operation = Literal[
    "shear_x",
    "shear_y",
    "scale",
    "translate_x",
    "translate_y",
    "posterize",
    "contrast",
    "brightness",
    "sharpness",
    "identity",
]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
"""Operations of ``pick_from``: the ten of the paper."""


def _limits(expected: str, low: float, high: float = math.inf, *, above: bool = False) -> AfterValidator:
    """Return the check that two numbers lie from ``low`` (excluded with ``above``) to ``high``, in ascending order."""

    def check(limits: tuple[Any, Any]) -> tuple[Any, Any]:
        if not low <= limits[0] or limits[1] > high or (above and limits[0] == low):
            raise ValueError(f"expected {expected}")
        if limits[0] > limits[1]:
            raise ValueError("expected the smaller number first")
        return limits

    return AfterValidator(check)


Probability = Annotated[float, Field(ge=0, le=1)]
Span = Annotated[tuple[float, float], _limits("finite numbers", -math.inf)]
PositiveSpan = Annotated[tuple[float, float], _limits("numbers above 0", 0.0, above=True)]
AmountSpan = Annotated[tuple[float, float], _limits("numbers of 0 or more", 0.0)]
ShareSpan = Annotated[tuple[float, float], _limits("numbers from 0 to 1", 0.0, 1.0)]


class AugmentSettings(Settings):
    """Probability and range of every operation; omitted keys take the values of the preset.

    The default applies rotation, scaling, translation, gamma, contrast, brightness and noise, and no flips, since
    anatomy is not symmetric. Serialised settings contain the preset and the keys that differ from it.
    """

    preset: PresetName = Field(default="default", description="values of omitted keys")

    geometry_probability: Probability = Field(default=0.7, description="any spatial transformation")
    turn_probability: Probability = Field(default=0.0, description="quarter turns, then one flip, as in the paper")
    rotation_probability: Probability = Field(default=1.0, description="rotation, given a spatial transformation")
    rotation_degrees: Span = Field(default=(-15.0, 15.0), description="angle, clockwise as displayed")
    scale_probability: Probability = Field(default=1.0, description="scaling, given a spatial transformation")
    scale: PositiveSpan = Field(default=(0.8, 1.25), description="magnification")
    scale_inverse: bool = Field(
        default=False, description="draw 1 / magnification uniformly, as in the paper; otherwise see factor_draw"
    )
    shear_probability: Probability = Field(default=0.0, description="shear, independently per axis")
    shear: Span = Field(default=(-0.3, 0.3), description="displacement along one axis per pixel along the other")
    translate_probability: Probability = Field(default=1.0, description="translation, independently per axis")
    translate: Span = Field(default=(-0.1, 0.1), description="displacement as a fraction of the side, in whole pixels")
    elastic_probability: Probability = Field(default=0.0, description="smooth random deformation")
    elastic_amplitude: ShareSpan = Field(
        default=(0.005, 0.02), description="maximum displacement of a control point, as a fraction of the shorter side"
    )
    elastic_points: int = Field(default=8, ge=3, le=64, description="control points along a side")
    interpolation: Literal["linear", "cubic"] = Field(
        default="linear", description="interpolation of images; labels always use nearest neighbour"
    )
    outside: Outside = Field(default="ignore", description="label of pixels from outside the image")

    shading_probability: Probability = Field(default=0.0, description="uneven brightness, the same in every slice")
    shading: AmountSpan = Field(default=(0.0, 1.5), description="natural logarithm of largest by smallest factor")
    gamma_probability: Probability = Field(default=0.5, description="intensity to the power of 1 / gamma")
    gamma: PositiveSpan = Field(default=(0.6065, 1.6487), description="values above 1 brighten")
    erase_probability: Probability = Field(default=0.0, description="a box of uniform noise, the same in every slice")
    erase_area: ShareSpan = Field(default=(0.02, 0.05), description="fraction of the image")
    erase_aspect: PositiveSpan = Field(default=(0.3, 3.3), description="width divided by height")
    erase_label: Outside = Field(default="ignore", description="label inside the box")
    posterize_probability: Probability = Field(default=0.0, description="fewer grey levels")
    posterize_bits: Annotated[tuple[int, int], _limits("1 to 16 bits", 1.0, 16.0)] = Field(
        default=(4, 8), description="bits per grey value"
    )
    contrast_probability: Probability = Field(default=0.5, description="difference from a grey value, times a factor")
    contrast: AmountSpan = Field(default=(0.8, 1.2), description="the factor")
    contrast_grey: float | None = Field(
        default=0.5, ge=0, le=1, description="the grey value that is preserved; null: mean of the window (paper)"
    )
    brightness_probability: Probability = Field(default=0.5, description="intensity times a factor, plus an offset")
    brightness: AmountSpan = Field(default=(1.0, 1.0), description="the factor")
    brightness_shift: Span = Field(default=(-0.08, 0.08), description="the offset, as a fraction of the range")
    sharpness_probability: Probability = Field(default=0.0, description="blend with a smoothed image")
    sharpness: AmountSpan = Field(default=(0.1, 1.9), description="0 is the smoothed image; above 1 sharpens")
    blur_probability: Probability = Field(default=0.0, description="Gaussian blur within each slice")
    blur_pixels: AmountSpan = Field(default=(0.5, 1.5), description="its standard deviation, in pixels")
    low_resolution_probability: Probability = Field(default=0.0, description="downsampling followed by upsampling")
    low_resolution: AmountSpan = Field(default=(1.0, 2.0), description="downsampling factor, 1 or more")
    noise_probability: Probability = Field(default=0.3, description="Gaussian noise, independent per slice and channel")
    noise: AmountSpan = Field(default=(0.0, 0.05), description="its standard deviation, as a fraction of the range")

    picks: int = Field(default=0, ge=0, le=10, description="number of different operations to apply additionally")
    pick_from: tuple[Operation, ...] = Field(
        default=OPERATIONS, min_length=1, description="operations to pick from, regardless of their own probability"
    )
    factor_draw: Literal["log", "linear"] = Field(
        default="log", description="distribution of scale, gamma and aspect: log makes 1/2 as likely as 2"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: object) -> object:
        """Accept the name of a preset for the group, and use its values for omitted keys."""
        if isinstance(given, str):
            given = {"preset": given}
        if not isinstance(given, Mapping):
            return given
        values = PRESETS.get(str(given.get("preset", "default")), {}) | dict(given)
        # Strict models accept a list for a tuple only from JSON, and a validator's result is not JSON.
        return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}

    @model_validator(mode="after")
    def _possible(self) -> AugmentSettings:
        # The steepest slope of the field, between control points at opposite limits; from 1 on, the image folds.
        if 3 * self.elastic_amplitude[1] * (self.elastic_points - 1) >= 1:
            raise ValueError(
                f"expected 3 x elastic_amplitude x (elastic_points - 1) below 1, as the image would fold over itself, "
                f"got amplitude {self.elastic_amplitude[1]} with {self.elastic_points} points"
            )
        if self.low_resolution[0] < 1:
            raise ValueError("expected low_resolution of 1 or more")
        if len(set(self.pick_from)) < max(self.picks, len(self.pick_from)):
            raise ValueError(
                f"expected pick_from to name each operation once and {self.picks} or more, got {list(self.pick_from)}"
            )
        return self

    @model_serializer(mode="wrap")
    def _differences(self, full: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Return the preset and the keys that differ from it, so that the preset can be replaced."""
        base = type(self)(preset=self.preset)
        return {
            key: value
            for key, value in full(self).items()
            if key == "preset" or getattr(self, key) != getattr(base, key)
        }


_ALL = [name for name in AugmentSettings.model_fields if name.endswith("_probability")]

# paper.md 1.7; docs/concepts/augmentation.md lists the corrections of quirks 23 to 27.
_PAPER: dict[str, Any] = {
    **dict.fromkeys(_ALL, 0.0),
    "geometry_probability": 1.0,
    "turn_probability": 0.5,
    "rotation_probability": 0.5,
    # The reference multiplies the sampling coordinates by v from U(0.8, 1.2).
    "scale": (1 / 1.2, 1 / 0.8),
    "scale_inverse": True,
    "translate": (-0.2, 0.2),
    "outside": "background",
    "gamma_probability": 0.5,
    "gamma": (0.5, 3.5),
    "erase_probability": 0.5,
    "erase_label": "background",
    "contrast": (0.7, 1.3),
    "contrast_grey": None,
    "brightness": (0.7, 1.3),
    "brightness_shift": (0.0, 0.0),
    "picks": 2,
    "factor_draw": "linear",
}

PRESETS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "default": {},
        "paper": _PAPER,
        # paper.md 1.7, box variant: no erasing, shear, scale or translation.
        "paper-box": {**_PAPER, "erase_probability": 0.0, "pick_from": OPERATIONS[OPERATIONS.index("posterize") :]},
        "none": dict.fromkeys(_ALL, 0.0),
    }
)
"""Values that differ from the fields' defaults, by preset."""
