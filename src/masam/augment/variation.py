"""The augmentation of one sample, drawn in advance and then applied deterministically."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from masam.augment.settings import OPERATIONS, AugmentSettings, Operation

# More than a sample needs. All are drawn at once, so that changing one probability does not shift other draws.
_DRAWS = 64


@dataclass(frozen=True)
class Erase:
    """A box of noise, identical on all slices.

    Attributes:
        area: Fraction of the image.
        aspect: Width divided by height.
        place: Position between the first and last possible row and column, each 0 to 1.
    """

    area: float
    aspect: float
    place: tuple[float, float]


@dataclass(frozen=True)
class Variation:
    """Transforms of a window in order of application, see :class:`AugmentSettings`; the defaults are neutral."""

    quarter_turns: int = 0  # by 90 degrees, counter-clockwise as displayed
    flip: Literal["rows", "columns"] | None = None
    rotation_degrees: float = 0.0  # clockwise as displayed
    shear: tuple[float, float] = (0.0, 0.0)  # along x per pixel along y, then along y per pixel along x
    scale: float = 1.0
    translate: tuple[float, float] = (0.0, 0.0)  # to the right and down, as fractions of width and height
    elastic: float = 0.0  # maximum displacement of a control point, as a fraction of the shorter side
    elastic_points: int = 8  # control points along a side
    shading: float = 0.0  # natural logarithm of largest by smallest factor
    gamma: float = 1.0
    erase: Erase | None = None
    posterize_bits: int | None = None
    contrast: float = 1.0
    contrast_grey: float | None = 0.5  # None: the mean of the window
    brightness: float = 1.0
    brightness_shift: float = 0.0
    sharpness: float = 1.0
    blur_pixels: float = 0.0  # standard deviation
    low_resolution: float = 1.0  # downsampling factor
    noise: float = 0.0  # standard deviation
    seed: int = 0  # of the per-pixel randomness: deformation, shading, noise in the box, noise

    def summary(self) -> list[str]:
        """Return short descriptions of the transforms, for a caption."""
        applied = {
            f"turn {90 * self.quarter_turns}°": self.quarter_turns,
            f"flip {self.flip}": self.flip,
            f"rotate {self.rotation_degrees:+.0f}°": self.rotation_degrees,
            f"shear {self.shear[0]:+.2f}, {self.shear[1]:+.2f}": any(self.shear),
            f"scale {self.scale:.2f}": self.scale != 1,
            f"shift {self.translate[0]:+.0%}, {self.translate[1]:+.0%}": any(self.translate),
            f"elastic {self.elastic:.1%}": self.elastic,
            f"shading {math.exp(self.shading):.1f} x": self.shading,
            f"gamma {self.gamma:.2f}": self.gamma != 1,
            "erase": self.erase is not None,
            f"{self.posterize_bits} bits": self.posterize_bits is not None,
            f"contrast {self.contrast:.2f}": self.contrast != 1,
            f"brightness {self.brightness:.2f}": self.brightness != 1,
            f"brightness {self.brightness_shift:+.2f}": self.brightness_shift,
            f"sharpness {self.sharpness:.2f}": self.sharpness != 1,
            f"blur {self.blur_pixels:.1f} px": self.blur_pixels,
            f"resolution 1/{self.low_resolution:.1f}": self.low_resolution != 1,
            f"noise {self.noise:.3f}": self.noise,
        }
        return [text for text, is_applied in applied.items() if is_applied]


class _Draws:
    """Random numbers drawn in advance; each is consumed whether it is used or not."""

    def __init__(self, settings: AugmentSettings, generator: np.random.Generator) -> None:
        self._numbers = iter(generator.random(_DRAWS).tolist())
        self._is_linear = settings.factor_draw == "linear"
        ranks = {operation: self.share() for operation in OPERATIONS}
        self._picked = sorted(settings.pick_from, key=lambda operation: ranks[operation])[: settings.picks]
        self._may_move = self.happens(settings.geometry_probability)

    def share(self) -> float:
        """Return a number from 0 to 1."""
        return next(self._numbers)

    def happens(self, probability: float, operation: Operation | None = None) -> bool:
        """Return whether an operation is applied."""
        return self.share() < probability or operation in self._picked

    def moves(self, probability: float, operation: Operation | None = None) -> bool:
        """Return whether a spatial operation is applied, which also depends on ``geometry_probability``."""
        return self.happens(probability, operation) and self._may_move

    def amount(self, limits: tuple[float, float], happens: bool, neutral: float = 0.0) -> float:
        """Return a number within the limits, or the neutral one."""
        drawn = limits[0] + self.share() * (limits[1] - limits[0])
        return drawn if happens else neutral

    def factor(self, limits: tuple[float, float], happens: bool) -> float:
        """Return a factor within the limits, log-uniform or uniform, or 1."""
        if self._is_linear:
            return self.amount(limits, happens, 1.0)
        return math.exp(self.amount((math.log(limits[0]), math.log(limits[1])), happens))

    def integer(self, limits: tuple[int, int]) -> int:
        """Return an integer within the limits, inclusive."""
        return limits[0] + int(self.share() * (limits[1] - limits[0] + 1))


def draw_variation(settings: AugmentSettings, generator: np.random.Generator) -> Variation:
    """Draw the augmentation of a sample; every call consumes the same random numbers."""
    draws = _Draws(settings, generator)
    # The order of the calls determines the result for a seed; new operations go last.
    turned = draws.moves(settings.turn_probability)
    turns, flip = draws.integer((0, 3)), draws.integer((0, 1))
    rotation = draws.amount(settings.rotation_degrees, draws.moves(settings.rotation_probability))
    shear_x = draws.amount(settings.shear, draws.moves(settings.shear_probability, "shear_x"))
    shear_y = draws.amount(settings.shear, draws.moves(settings.shear_probability, "shear_y"))
    scaled = draws.moves(settings.scale_probability, "scale")
    if settings.scale_inverse:
        scale = 1 / draws.amount((1 / settings.scale[1], 1 / settings.scale[0]), scaled, 1.0)
    else:
        scale = draws.factor(settings.scale, scaled)
    shift_x = draws.amount(settings.translate, draws.moves(settings.translate_probability, "translate_x"))
    shift_y = draws.amount(settings.translate, draws.moves(settings.translate_probability, "translate_y"))
    elastic = draws.amount(settings.elastic_amplitude, draws.moves(settings.elastic_probability))
    gamma = draws.factor(settings.gamma, draws.happens(settings.gamma_probability))
    erased = draws.happens(settings.erase_probability)
    area, aspect = draws.amount(settings.erase_area, erased), draws.factor(settings.erase_aspect, erased)
    box = Erase(area, aspect, (draws.share(), draws.share()))
    posterized = draws.happens(settings.posterize_probability, "posterize")
    bits = draws.integer(settings.posterize_bits)
    contrast = draws.amount(settings.contrast, draws.happens(settings.contrast_probability, "contrast"), 1.0)
    brightened = draws.happens(settings.brightness_probability, "brightness")
    return Variation(
        quarter_turns=turns if turned else 0,
        flip=("rows", "columns")[flip] if turned else None,
        rotation_degrees=rotation,
        shear=(shear_x, shear_y),
        scale=scale,
        translate=(shift_x, shift_y),
        elastic=elastic,
        elastic_points=settings.elastic_points,
        gamma=gamma,
        erase=box if erased else None,
        posterize_bits=bits if posterized else None,
        contrast=contrast,
        contrast_grey=settings.contrast_grey,
        brightness=draws.amount(settings.brightness, brightened, 1.0),
        brightness_shift=draws.amount(settings.brightness_shift, brightened),
        sharpness=draws.amount(settings.sharpness, draws.happens(settings.sharpness_probability, "sharpness"), 1.0),
        blur_pixels=draws.amount(settings.blur_pixels, draws.happens(settings.blur_probability)),
        low_resolution=draws.amount(settings.low_resolution, draws.happens(settings.low_resolution_probability), 1.0),
        noise=draws.amount(settings.noise, draws.happens(settings.noise_probability)),
        shading=draws.amount(settings.shading, draws.happens(settings.shading_probability)),
        seed=int(generator.integers(2**63)),
    )
