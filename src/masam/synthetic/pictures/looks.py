"""Imaging modalities: the intensities of shapes, and the artefacts that the scanner or camera adds."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from masam.synthetic.pictures.noise import Field

Look = Literal["ct", "mr", "ultrasound", "colour"]
LOOKS: tuple[Look, ...] = get_args(Look)

TEXTURE = {"ct": 0.03, "mr": 0.05, "ultrasound": 0.08, "colour": 0.09}
"""Typical strength of textures; CT images consist of plateaus."""

_LEAST_CONTRAST, _MOST_CONTRAST = 0.05, 0.45


def draw_level(generator: np.random.Generator, look: Look, below: NDArray[np.float32]) -> NDArray[np.float32]:
    """Draw the intensity [C] of a shape that covers one of intensity ``below``; contrasts are log-uniform."""
    step = math.exp(generator.uniform(math.log(_LEAST_CONTRAST), math.log(_MOST_CONTRAST)))
    if look == "colour":
        # Half of the contrasts are mostly in brightness, since tissues differ less in hue than random colours do.
        shared = generator.standard_normal() * 2 * (generator.random() < 0.5)
        direction = generator.standard_normal(3) + shared
        moved = below + 1.6 * step * direction / max(float(np.linalg.norm(direction)), 1e-6)
        inside: NDArray[np.float32] = _folded(moved).astype(np.float32)
        return inside
    sign = 1 if generator.random() < 0.5 else -1
    if not 0.02 <= below[0] + sign * step <= 0.98:
        sign = -sign
    return np.array([below[0] + sign * step], np.float32)


def draw_ground(generator: np.random.Generator, look: Look) -> NDArray[np.float32]:
    """Draw the intensity [C] behind all shapes."""
    return generator.uniform(0.1, 0.9, 3 if look == "colour" else 1).astype(np.float32)


def draw_body(
    generator: np.random.Generator, look: Look, ground: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw the intensities [C] around a body (``ground`` in colour images, dark air otherwise) and of the body."""
    if look == "colour":
        return ground, draw_level(generator, look, ground)
    level = generator.uniform((0.0, 0.25), (0.08, 0.75)).astype(np.float32)
    return level[:1], level[1:]


def _folded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Reflect values at 0 and 1; clipping could give a shape the intensity of the one below it."""
    return np.abs(np.mod(values + 1, 2) - 1) if (values < 0).any() or (values > 1).any() else values


def take_picture(
    generator: np.random.Generator, look: Look, values: NDArray[np.float32], fields: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return a scene [C, H, W], about 0 to 1, with the artefacts of a modality.

    The scene is overwritten, and the result is not clipped to 0 to 1. The last two of the random fields
    [n, H, W] are of low frequency.
    """
    match look:
        case "ct":
            return _ct(generator, values)
        case "mr":
            return _exposed(generator, _mr(generator, values))
        case "ultrasound":
            return _exposed(generator, _ultrasound(generator, values))
        case "colour":
            return _camera(generator, values, fields)


def _exposed(generator: np.random.Generator, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale intensities without a unit by a high quantile, as for display."""
    bright = float(np.quantile(values[..., ::4, ::4], generator.uniform(0.97, 1)))
    return values * np.float32(1 / max(bright, 0.1))


def _ct(generator: np.random.Generator, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Add correlated noise as from reconstruction, and in some images streaks from one point."""
    side = values.shape[-1]
    grain = generator.standard_normal((side, side), np.float32)
    grain = ndimage.uniform_filter(grain, int(generator.integers(1, 4)))
    values += np.float32(generator.exponential(0.02)) * grain / max(float(grain.std()), 1e-6)
    if generator.random() < 0.2:
        x, y = _grid(side, generator.uniform(0, side, 2))
        rays = generator.standard_normal(256).astype(np.float32)
        index = ((np.arctan2(y, x) / np.float32(math.pi) + 1) * 128).astype(np.int32) % 256
        values += np.float32(generator.uniform(0.02, 0.1)) * rays[index] * np.exp(-np.hypot(x, y) / (side / 3))
    return values


def _mr(generator: np.random.Generator, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply the bias field of a coil and add Rician noise."""
    side = values.shape[-1]
    x, y = _grid(side, (side / 2, side / 2))
    a, b, c, d = (np.float32(v) for v in generator.normal(0, 0.35, 4))
    values *= np.exp((a * x + b * y) / side + (c * x * x + d * x * y) * np.float32(4 / side**2))
    noise = np.float32(generator.exponential(0.025)) * generator.standard_normal((2, side, side), np.float32)
    both: NDArray[np.float32] = np.hypot(values + noise[0], noise[1])
    return both


def _ultrasound(generator: np.random.Generator, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply speckle and attenuation with depth."""
    side = values.shape[-1]
    echoes = generator.standard_normal((2, side, side), np.float32)
    grain = generator.uniform(0.6, 1.3), generator.uniform(0.8, 2.2)
    echoes = ndimage.gaussian_filter(echoes, (0, *grain), truncate=2)
    speckle = np.hypot(echoes[0], echoes[1])
    strength = np.float32(generator.uniform(0.3, 1))
    values *= 1 + strength * (speckle / max(float(speckle.mean()), 1e-6) - 1)
    depth = np.linspace(0, 1, side, dtype=np.float32)[:, None]
    values *= np.exp(-np.float32(generator.uniform(0, 1)) * depth)
    return values


def _camera(
    generator: np.random.Generator, values: NDArray[np.float32], fields: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Light the scene from one point, with folds and the highlights of wet surfaces."""
    side = values.shape[-1]
    x, y = _grid(side, generator.uniform(0, side, 2))
    falloff = np.float32(generator.uniform(0, 0.8) / side**2)
    values *= 1 - falloff * np.minimum(x * x + y * y, np.float32(side**2)) * np.float32(0.8)
    values *= 1 + np.float32(generator.uniform(0, 0.12)) * fields[-1]
    if generator.random() < 0.35:
        high = fields[-2] * np.float32(0.7) + fields[0] * np.float32(0.5)
        values += np.clip((high - np.float32(generator.uniform(1.8, 2.6))) * 3, 0, 1) * np.float32(0.8)
    return values


def _grid(side: int, centre: tuple[float, float] | NDArray[np.float64]) -> tuple[Field, Field]:
    x = np.arange(side, dtype=np.float32) - np.float32(centre[0])
    y = np.arange(side, dtype=np.float32)[:, None] - np.float32(centre[1])
    return x[None], y
