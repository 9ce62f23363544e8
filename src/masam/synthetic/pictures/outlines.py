"""Outlines of shapes as signed distance functions: negative inside, in pixels near the edge.

An outline is a function of positions relative to its centre and can be evaluated on any grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from masam.synthetic.pictures.noise import Field

Outline = Callable[[Field, Field], Field]
"""Maps positions x and y relative to the centre, in pixels, to signed distances."""

OutlineKind = Literal["harmonics", "polygon", "tube", "arc", "blob"]
OUTLINES: tuple[OutlineKind, ...] = get_args(OutlineKind)

_ANGLES = 720
"""Entries of a table of radii by angle, which are less than a pixel apart at 100 pixels from the centre."""


def draw_outline(generator: np.random.Generator, kind: OutlineKind, reach: float) -> Outline:
    """Draw an outline whose largest extent is twice ``reach`` pixels.

    ``harmonics`` is a circle with random waves, ``polygon`` has straight sides, ``tube`` is a winding band of varying
    width, ``arc`` is a ring or a part of one, ``blob`` is a circle deformed by noise.
    """
    turn = generator.uniform(0, 2 * math.pi)
    match kind:
        case "harmonics":
            return _turned(_star(_harmonics(generator), reach), turn, generator.uniform(0.4, 1))
        case "polygon":
            return _turned(_star(_polygon(generator), reach), turn, generator.uniform(0.5, 1))
    draw = {"tube": _tube, "arc": _arc, "blob": _blob}[kind]
    return _turned(draw(generator, reach), turn)


def _turned(outline: Outline, angle: float, flatness: float = 1.0) -> Outline:
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    stretch = np.float32(1 / flatness)

    def turned(x: Field, y: Field) -> Field:
        distance = outline(cos * x + sin * y, (cos * y - sin * x) * stretch)
        return distance if flatness == 1 else distance * np.float32(math.sqrt(flatness))

    return turned


def _star(radii: Field, reach: float) -> Outline:
    """Return the outline of a table of radii by angle, scaled so that the largest is ``reach``."""
    table = radii * np.float32(reach / radii.max())

    def star(x: Field, y: Field) -> Field:
        angle = np.arctan2(y, x) + np.float32(math.pi)
        index = (angle * np.float32(_ANGLES / (2 * math.pi))).astype(np.int32)
        return np.hypot(x, y) - table.take(index, mode="wrap")

    return star


def _harmonics(generator: np.random.Generator) -> Field:
    """Return radii around 1 with waves whose amplitude falls with their frequency."""
    numbers = np.arange(1, generator.integers(3, 13))
    strength = generator.uniform(0.05, 0.45) * numbers ** -generator.uniform(0.7, 2.0)
    waves = strength * generator.standard_normal(len(numbers))
    angles = np.arange(_ANGLES) * (2 * math.pi / _ANGLES)
    phases = generator.uniform(0, 2 * math.pi, len(numbers))
    radii = 1 + np.cos(numbers * angles[:, None] + phases) @ waves
    return np.maximum(radii, 0.2).astype(np.float32)


def _polygon(generator: np.random.Generator) -> Field:
    """Return the radii of a polygon with 3 to 9 corners around the origin."""
    corners = int(generator.integers(3, 10))
    # Evenly spaced up to half a step, so that the origin stays inside.
    angles = (np.arange(corners) + generator.uniform(-0.25, 0.25, corners)) * (2 * math.pi / corners)
    lengths = generator.uniform(0.5, 1, corners)
    x, y = lengths * np.cos(angles), lengths * np.sin(angles)
    share = np.linspace(0, 1, _ANGLES // 8, endpoint=False)[:, None]
    along_x = (x + share * (np.roll(x, -1) - x)).T.ravel()
    along_y = (y + share * (np.roll(y, -1) - y)).T.ravel()
    sampled = np.arctan2(along_y, along_x)
    order = sampled.argsort()
    grid = np.arange(_ANGLES) * (2 * math.pi / _ANGLES) - math.pi
    radii = np.interp(grid, sampled[order], np.hypot(along_x, along_y)[order], period=2 * math.pi)
    return radii.astype(np.float32)


def _tube(generator: np.random.Generator, reach: float) -> Outline:
    """Return a band around a sum of sines, like a vessel or an instrument."""
    width = max(1.2, reach * generator.uniform(0.03, 0.22))
    waves = generator.integers(1, 4)
    speed = generator.uniform(0.3, 1.6, waves) * (math.pi / reach)
    swing = generator.uniform(0, 0.35, waves) * reach / np.arange(1, waves + 1) / waves
    phase = generator.uniform(0, 2 * math.pi, waves)
    taper = generator.uniform(-0.6, 0.6)
    half_length = reach * 0.95

    def tube(x: Field, y: Field) -> Field:
        middle = np.zeros_like(x)
        slope = np.zeros_like(x)
        for n in range(waves):
            inner = x * np.float32(speed[n]) + np.float32(phase[n])
            middle += np.float32(swing[n]) * np.sin(inner)
            slope += np.float32(swing[n] * speed[n]) * np.cos(inner)
        radius = np.float32(width) * (1 + np.float32(taper / reach) * x)
        beside = np.abs(y - middle) / np.sqrt(1 + slope * slope) - radius
        return np.maximum(beside, np.abs(x) - np.float32(half_length))

    return tube


def _arc(generator: np.random.Generator, reach: float) -> Outline:
    """Return a ring or a crescent with pointed ends, like the wall of an organ."""
    half_width = np.float32(max(1.2, reach * generator.uniform(0.05, 0.25)))
    radius = np.float32(reach - half_width)
    half_angle = np.float32(math.pi if generator.random() < 0.4 else generator.uniform(0.6, 2.6))
    flatness = np.float32(generator.uniform(0.6, 1))

    def arc(x: Field, y: Field) -> Field:
        y = y / flatness
        beside = np.abs(np.hypot(x, y) - radius)
        if half_angle >= math.pi:
            return beside - half_width
        thickness = half_width * (1 - (np.arctan2(y, x) / half_angle) ** 2)
        return beside - np.maximum(thickness, -half_width)

    return arc


def _blob(generator: np.random.Generator, reach: float) -> Outline:
    """Return a circle deformed by a sum of plane waves."""
    count = 6
    direction = generator.uniform(0, 2 * math.pi, count)
    frequency = generator.uniform(1.0, 4.0, count) / reach
    phase = generator.uniform(0, 2 * math.pi, count)
    depth = np.float32(generator.uniform(0.1, 0.3) * reach)
    across = (frequency * np.cos(direction)).astype(np.float32)
    down = (frequency * np.sin(direction)).astype(np.float32)

    def blob(x: Field, y: Field) -> Field:
        waves = np.zeros_like(x)
        for n in range(count):
            waves += np.sin(across[n] * x + down[n] * y + np.float32(phase[n]))
        return np.hypot(x, y) - np.float32(0.65 * reach) + depth * waves * np.float32(1 / math.sqrt(count / 2))

    return blob


def box_around(centre: tuple[float, float], reach: float, side: int) -> tuple[slice, slice]:
    """Return the rows and columns that a shape around ``centre`` (x, y) can touch, clipped to an image."""
    low = [min(max(math.floor(c - reach) - 1, 0), side) for c in centre]
    high = [max(min(math.ceil(c + reach) + 2, side), start) for c, start in zip(centre, low, strict=True)]
    return slice(low[1], high[1]), slice(low[0], high[0])


def positions(rows: slice, columns: slice, centre: tuple[float, float]) -> tuple[Field, Field]:
    """Return x and y of the pixels of a box relative to a centre."""
    x = np.arange(columns.start, columns.stop, dtype=np.float32) - np.float32(centre[0])
    y = np.arange(rows.start, rows.stop, dtype=np.float32) - np.float32(centre[1])
    grid_x, grid_y = np.broadcast_arrays(x, y[:, None])
    return grid_x, grid_y


def cover(distance: Field) -> NDArray[np.float32]:
    """Return the share of each pixel that a shape covers, 0 to 1; an edge is a pixel wide."""
    return np.clip(np.float32(0.5) - distance, 0, 1)
