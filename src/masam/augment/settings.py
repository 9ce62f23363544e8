"""What augmentation may do: the probability and the range of every operation, and presets of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, model_serializer, model_validator

from masam.config import Settings

PresetName = Literal["default", "paper", "none"]
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
"""What ``pick_from`` may name: the paper's ten."""


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    if not limits[0] <= limits[1]:
        raise ValueError("expected the smaller number first")
    return limits


def _positive(limits: tuple[float, float]) -> tuple[float, float]:
    if not limits[0] > 0:
        raise ValueError("expected numbers above 0")
    return _ordered(limits)


def _not_negative(limits: tuple[float, float]) -> tuple[float, float]:
    if not limits[0] >= 0:
        raise ValueError("expected numbers of 0 or more")
    return _ordered(limits)


def _shares(limits: tuple[float, float]) -> tuple[float, float]:
    if not limits[1] <= 1:
        raise ValueError("expected shares of at most 1")
    return _not_negative(limits)


def _bits(limits: tuple[int, int]) -> tuple[int, int]:
    if not 1 <= limits[0] <= limits[1] <= 16:
        raise ValueError("expected 1 to 16 bits, the smaller number first")
    return limits


Probability = Annotated[float, Field(ge=0, le=1)]
Span = Annotated[tuple[float, float], AfterValidator(_ordered)]
PositiveSpan = Annotated[tuple[float, float], AfterValidator(_positive)]
AmountSpan = Annotated[tuple[float, float], AfterValidator(_not_negative)]
ShareSpan = Annotated[tuple[float, float], AfterValidator(_shares)]


class AugmentSettings(Settings):
    """Probability and range of every operation; keys that are left out take the preset's value.

    The default draws rotation, scale and shift, gamma, contrast, brightness and noise, and mirrors nothing: anatomy has
    a left and a right. Written out, only the preset and what differs from it appear.
    """

    preset: PresetName = Field(default="default", description="values of the keys that are left out")

    geometry_probability: Probability = Field(default=0.7, description="that the window is moved at all")
    turn_probability: Probability = Field(default=0.0, description="quarter turns, then one flip, as in the paper")
    rotation_probability: Probability = Field(default=1.0, description="rotation, where the window is moved")
    rotation_degrees: Span = Field(default=(-15.0, 15.0), description="angle, clockwise as displayed")
    scale_probability: Probability = Field(default=1.0, description="scale about the centre, where it is moved")
    scale: PositiveSpan = Field(default=(0.8, 1.25), description="magnification of what the image shows")
    shear_probability: Probability = Field(default=0.0, description="shear, each axis by itself")
    shear: Span = Field(default=(-0.3, 0.3), description="shift along one axis for each pixel along the other")
    translate_probability: Probability = Field(default=1.0, description="shift, each axis by itself")
    translate: Span = Field(default=(-0.1, 0.1), description="shift, as a share of the side; whole pixels are taken")
    elastic_probability: Probability = Field(default=0.0, description="smooth random deformation")
    elastic_amplitude: ShareSpan = Field(
        default=(0.005, 0.02), description="largest shift of a control point, as a share of the shorter side"
    )
    elastic_points: int = Field(default=8, ge=3, le=64, description="control points along a side")
    interpolation: Literal["linear", "cubic"] = Field(
        default="linear", description="how moved images are read; labels are always read as the nearest pixel"
    )
    outside: Literal["ignore", "background"] = Field(
        default="ignore", description="label of pixels that come from outside the image"
    )

    shading_probability: Probability = Field(
        default=0.0, description="uneven brightness, as near and far from a coil; the same on every slice"
    )
    shading: AmountSpan = Field(
        default=(0.0, 1.5), description="natural logarithm of the brightest place's factor by the darkest's"
    )
    gamma_probability: Probability = Field(default=0.5, description="intensity to the power of 1 / gamma")
    gamma: PositiveSpan = Field(default=(0.6065, 1.6487), description="above 1 brightens")
    erase_probability: Probability = Field(default=0.0, description="a box of uniform noise, the same on every slice")
    erase_area: ShareSpan = Field(default=(0.02, 0.05), description="share of the image")
    erase_aspect: PositiveSpan = Field(default=(0.3, 3.3), description="width by height")
    erase_label: Literal["ignore", "background"] = Field(default="ignore", description="label inside the box")
    posterize_probability: Probability = Field(default=0.0, description="fewer grey levels")
    posterize_bits: Annotated[tuple[int, int], AfterValidator(_bits)] = Field(
        default=(4, 8), description="levels are 2 to the power of this"
    )
    contrast_probability: Probability = Field(default=0.5, description="distance to a grey, times a factor")
    contrast: AmountSpan = Field(default=(0.8, 1.2), description="the factor")
    contrast_grey: float | None = Field(
        default=0.5, ge=0, le=1, description="the grey that stays; null is the window's mean, as in the paper"
    )
    brightness_probability: Probability = Field(default=0.5, description="intensity times a factor, plus a shift")
    brightness: AmountSpan = Field(default=(1.0, 1.0), description="the factor")
    brightness_shift: Span = Field(default=(-0.08, 0.08), description="the shift, in units of the whole range")
    sharpness_probability: Probability = Field(default=0.0, description="blend with a smoothed image")
    sharpness: AmountSpan = Field(default=(0.1, 1.9), description="0 is the smoothed image; above 1 sharpens")
    blur_probability: Probability = Field(default=0.0, description="Gaussian blur within each slice")
    blur_pixels: AmountSpan = Field(default=(0.5, 1.5), description="its standard deviation, in pixels")
    low_resolution_probability: Probability = Field(default=0.0, description="fewer pixels and back")
    low_resolution: AmountSpan = Field(default=(1.0, 2.0), description="pixels of this size, 1 or more")
    noise_probability: Probability = Field(default=0.3, description="Gaussian noise, new for each slice and channel")
    noise: AmountSpan = Field(default=(0.0, 0.05), description="its standard deviation, in units of the whole range")

    picks: int = Field(default=0, ge=0, le=10, description="different operations that each sample also undergoes")
    pick_from: tuple[Operation, ...] = Field(
        default=OPERATIONS, min_length=1, description="operations to pick from, whatever their own probability"
    )
    factor_draw: Literal["log", "linear"] = Field(
        default="log", description="how scale, gamma and aspect are drawn: log makes 1/2 as likely as 2"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: object) -> object:
        """Take a preset's name for the whole group, and its values for the keys that are left out."""
        if isinstance(given, str):
            given = {"preset": given}
        if not isinstance(given, Mapping):
            return given
        values = PRESETS.get(str(given.get("preset", "default")), {}) | dict(given)
        # Strict settings take a list for a tuple only straight from JSON, which a value from here is no more.
        return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}

    @model_validator(mode="after")
    def _possible(self) -> AugmentSettings:
        # The field's steepest slope, between control points at opposite ends; from 1 on, tissue would fold over itself.
        if 3 * self.elastic_amplitude[1] * (self.elastic_points - 1) >= 1:
            raise ValueError(
                f"expected 3 x elastic_amplitude x (elastic_points - 1) below 1, as more would fold the image over, "
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
        """Write the preset and what differs from it, so that another preset can be set in its place."""
        base = type(self)(preset=self.preset)
        return {
            key: value
            for key, value in full(self).items()
            if key == "preset" or getattr(self, key) != getattr(base, key)
        }


_ALL = [name for name in AugmentSettings.model_fields if name.endswith("_probability")]

PRESETS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "default": {},
        # paper.md 1.7; quirks 23 to 27 say what is done right instead, the docs on augmentation list it.
        "paper": {
            **dict.fromkeys(_ALL, 0.0),
            "geometry_probability": 1.0,
            "turn_probability": 0.5,
            "rotation_probability": 0.5,
            # The reference multiplies the coordinates that it reads, by 0.8 to 1.2.
            "scale": (0.8333, 1.25),
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
        },
        "none": dict.fromkeys(_ALL, 0.0),
    }
)
"""Values that differ from the fields' defaults, by preset."""
