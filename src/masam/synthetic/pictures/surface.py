"""Surfaces of shapes: an intensity or colour with a texture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masam.synthetic.pictures.noise import Field, cut


@dataclass(frozen=True, eq=False)
class Surface:
    """Intensity and texture of a shape."""

    level: NDArray[np.float32]  # [C] mean intensity, 0 to 1; one channel for grey, three for colour
    noise: NDArray[np.float32]  # [C] amplitude of the noise
    field: int  # index of the random field that provides the noise
    offset: tuple[int, int]  # shift of that field in rows and columns
    slope: tuple[float, float] = (0.0, 0.0)  # change over the reach of the shape, along x and along y
    stripes: float = 0.0  # amplitude of stripes
    stripe_wave: tuple[float, float] = (0.0, 0.0)  # wave vector of the stripes, x and y, in radians per pixel
    relief: float = 0.0  # relative brightness of the middle compared with the rim, 0 to 1


def draw_surface(
    generator: np.random.Generator, level: NDArray[np.float32], strength: float, fields: int, side: int
) -> Surface:
    """Draw a texture of typical ``strength`` (0 to 1) from a number of random fields; one shape in four is flat."""
    kind = generator.random(4)
    angle, wave = generator.uniform(0, 2 * math.pi), 2 * math.pi / generator.uniform(3, 24)
    amount = strength * generator.exponential(0.7) * (kind[0] > 0.25)
    slope = strength * generator.normal(0, 1.5, 2) * (kind[1] < 0.35)
    noise = amount * generator.uniform(0.5, 1, len(level))
    down, right = generator.integers(0, side, 2)
    return Surface(
        level,
        noise.astype(np.float32),
        int(generator.integers(fields)),
        (int(down), int(right)),
        (float(slope[0]), float(slope[1])),
        float(strength * generator.uniform(0.5, 1.5)) if kind[2] < 0.12 else 0.0,
        (wave * math.cos(angle), wave * math.sin(angle)),
        float(generator.uniform(0, 4) * strength) if kind[3] < 0.4 else 0.0,
    )


def paint(
    surface: Surface, fields: NDArray[np.float32], rows: slice, columns: slice, x: Field, y: Field, depth: Field
) -> NDArray[np.float32]:
    """Return the intensities [C, h, w] of a surface in a box, not clipped to 0 to 1.

    Args:
        surface: Surface to paint.
        fields: [n, H, W] random fields of the image.
        rows: Rows of the box.
        columns: Columns of the box.
        x: [h, w] position relative to the centre of the shape, in pixels.
        y: Likewise.
        depth: [h, w] distance to the rim divided by the reach, 0 to 1.
    """
    values = np.broadcast_to(surface.level[:, None, None], (len(surface.level), *x.shape)).copy()
    if surface.noise.any():
        values += surface.noise[:, None, None] * cut(fields[surface.field], rows, columns, surface.offset)
    if any(surface.slope):
        reach = np.float32(1 / max(len(x), 1))
        values += x * (np.float32(surface.slope[0]) * reach) + y * (np.float32(surface.slope[1]) * reach)
    if surface.stripes:
        across, down = (np.float32(wave) for wave in surface.stripe_wave)
        values += np.float32(surface.stripes) * np.sin(across * x + down * y)
    if surface.relief:
        values *= 1 + np.float32(surface.relief) * (depth - np.float32(0.3))
    return values
