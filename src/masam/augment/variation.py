"""What happens to one sample: drawn at once from the generator, then applied without chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from masam.augment.settings import OPERATIONS, AugmentSettings, Operation

# More than any sample takes. All are drawn at once, so that a change of one probability shifts no other draw.
_DRAWS = 64


@dataclass(frozen=True)
class Erase:
    """A box of noise, the same on every slice.

    Attributes:
        area: Share of the image.
        aspect: Width by height.
        place: Where between the first and the last possible row and column it lies, each 0 to 1.
    """

    area: float
    aspect: float
    place: tuple[float, float]


@dataclass(frozen=True)
class Variation:
    """What is done to a window, in the order of the attributes; each default leaves it as it is.

    Attributes:
        quarter_turns: Turns by 90 degrees, counter-clockwise as displayed.
        flip: Axis that is mirrored then.
        rotation_degrees: Rotation about the centre, clockwise as displayed.
        shear: Along x for each pixel along y, then along y for each along x.
        scale: Magnification about the centre.
        translate: Shift to the right and down, as shares of width and height.
        elastic: Largest shift of a control point, as a share of the shorter side.
        elastic_points: Control points along a side.
        shading: Natural logarithm of the brightest place's factor by the darkest's.
        gamma: Intensity to the power of 1 / gamma.
        erase: Box of noise.
        posterize_bits: Levels are 2 to the power of this.
        contrast: Factor of the distance to ``contrast_grey``.
        contrast_grey: The grey that stays; None is the window's mean.
        brightness: Factor of the intensity.
        brightness_shift: Added to it.
        sharpness: 0 is smoothed, 1 as it is, above sharpened.
        blur_pixels: Standard deviation of the blur.
        low_resolution: Size of the simulated pixels.
        noise: Standard deviation of the noise.
        seed: Seed of what is drawn place by place: deformation, shading, noise in the box, noise.
    """

    quarter_turns: int = 0
    flip: Literal["rows", "columns"] | None = None
    rotation_degrees: float = 0.0
    shear: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    translate: tuple[float, float] = (0.0, 0.0)
    elastic: float = 0.0
    elastic_points: int = 8
    shading: float = 0.0
    gamma: float = 1.0
    erase: Erase | None = None
    posterize_bits: int | None = None
    contrast: float = 1.0
    contrast_grey: float | None = 0.5
    brightness: float = 1.0
    brightness_shift: float = 0.0
    sharpness: float = 1.0
    blur_pixels: float = 0.0
    low_resolution: float = 1.0
    noise: float = 0.0
    seed: int = 0

    def words(self) -> list[str]:
        """Say briefly what is done, for a caption."""
        found = {
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
        return [word for word, applies in found.items() if applies]


class _Draws:
    """Numbers that are taken one after another, each whether it is used or not.

    Args:
        settings: Which operations are picked, and how factors are drawn.
        generator: Source of all of them.
    """

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
        """Decide whether an operation takes place."""
        return self.share() < probability or operation in self._picked

    def moves(self, probability: float, operation: Operation | None = None) -> bool:
        """Decide whether a move takes place; none does where the window is not moved at all."""
        return self.happens(probability, operation) and self._may_move

    def amount(self, limits: tuple[float, float], happens: bool, neutral: float = 0.0) -> float:
        """Return an amount between limits, or the neutral one."""
        drawn = limits[0] + self.share() * (limits[1] - limits[0])
        return drawn if happens else neutral

    def factor(self, limits: tuple[float, float], happens: bool) -> float:
        """Return a factor between limits as the settings say, or 1."""
        if self._is_linear:
            return self.amount(limits, happens, 1.0)
        return math.exp(self.amount((math.log(limits[0]), math.log(limits[1])), happens))

    def whole(self, limits: tuple[int, int]) -> int:
        """Return a whole number between limits, both included."""
        return limits[0] + int(self.share() * (limits[1] - limits[0] + 1))


def draw_variation(settings: AugmentSettings, generator: np.random.Generator) -> Variation:
    """Draw what happens to a sample; every call draws the same number of times.

    Args:
        settings: Probabilities and ranges.
        generator: Source of all draws.
    """
    draws = _Draws(settings, generator)
    turned = draws.moves(settings.turn_probability)
    turns, flip = draws.whole((0, 3)), draws.whole((0, 1))
    rotation = draws.amount(settings.rotation_degrees, draws.moves(settings.rotation_probability))
    shear_x = draws.amount(settings.shear, draws.moves(settings.shear_probability, "shear_x"))
    shear_y = draws.amount(settings.shear, draws.moves(settings.shear_probability, "shear_y"))
    scale = draws.factor(settings.scale, draws.moves(settings.scale_probability, "scale"))
    shift_x = draws.amount(settings.translate, draws.moves(settings.translate_probability, "translate_x"))
    shift_y = draws.amount(settings.translate, draws.moves(settings.translate_probability, "translate_y"))
    elastic = draws.amount(settings.elastic_amplitude, draws.moves(settings.elastic_probability))
    gamma = draws.factor(settings.gamma, draws.happens(settings.gamma_probability))
    erased = draws.happens(settings.erase_probability)
    area, aspect = draws.amount(settings.erase_area, erased), draws.factor(settings.erase_aspect, erased)
    box = Erase(area, aspect, (draws.share(), draws.share()))
    posterized, bits = draws.happens(settings.posterize_probability, "posterize"), draws.whole(settings.posterize_bits)
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
        # Drawn last, as it came last: the draws of the others are those of earlier versions.
        shading=draws.amount(settings.shading, draws.happens(settings.shading_probability)),
        seed=int(generator.integers(2**63)),
    )
