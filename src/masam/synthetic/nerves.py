"""Synthetic MRI of a thigh in which a single slice is too noisy to show the nerves, and five slices together show them.

The noise has the correlation length of a nerve's cross section, so that averaging within a slice does not help. It is
independent between slices, while the nerves continue through all of them.

A case is a pure function of (seed, index).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from masam.reproducibility import sample_generator
from masam.synthetic.dataset import SyntheticDataset, require_non_negative
from masam.synthetic.scan import Scan, plane_waves, smooth_noise
from masam.synthetic.solids import Canvas, Field, Points, ellipsoid
from masam.volume import Volume

LABELS = {"background": 0, "nerve": 1}
"""Class names and label values."""

SHAPE = (128, 128, 20)
STEP_MM = (1.25, 1.25, 4.0)

NUM_NERVES = 3
RADIUS_MM = (6.5, 8.5)
_MUSCLE, _FAT, _NERVE = 300.0, 520.0, 420.0
NOISE_TO_CONTRAST = 0.8
"""Standard deviation of the noise divided by the contrast of nerve and muscle, both at the scale of a nerve."""


def make_nerves_case(seed: int, index: int) -> tuple[Volume, Volume]:
    """Return image (int16, arbitrary units) and labels (uint8, ``LABELS``) of one case.

    The grid has ``SHAPE`` before reorientation. Arguments and errors as for ``make_phantom_case``.
    """
    require_non_negative(seed, index)
    anatomy, noise, position = sample_generator(seed, index).spawn(3)
    scan = Scan.draw(index, position, SHAPE, STEP_MM)
    canvas = Canvas.filled(SHAPE, 0.0, edge_mm=2.0)
    limb = _paint_thigh(canvas, scan.deformed(), anatomy)
    sigma = 0.5 * (RADIUS_MM[0] + RADIUS_MM[1]) / 2
    grain = smooth_noise(noise, SHAPE, (sigma / STEP_MM[0], sigma / STEP_MM[1], 0.0), mode="wrap")
    canvas.image[...] += (limb < 0) * grain * np.float32(NOISE_TO_CONTRAST * (_NERVE - _MUSCLE))
    channels = noise.standard_normal((2, *SHAPE), dtype=np.float32) * 12
    return scan.store(np.hypot(canvas.image + channels[0], channels[1]), canvas.labels)


NERVES = SyntheticDataset("Nerves", "Nerves in noisy slices", ("MR",), LABELS, make_nerves_case)
"""The data set."""


def _paint_thigh(canvas: Canvas, points: Points, generator: np.random.Generator) -> Field:
    """Paint fat, muscle, femur and nerves; return the distance to the skin."""
    limb = ellipsoid(points, (72.0, 68.0, math.inf))
    canvas.paint(limb, _FAT)
    muscle = limb + float(generator.uniform(6, 11))
    canvas.paint(muscle, _MUSCLE + 8 * plane_waves(points, generator, (30.0, 60.0)))
    femur = ellipsoid(points.moved((0.0, 6.0, 0.0)), (14.0, 14.0, math.inf))
    canvas.paint(femur, 30.0)
    canvas.paint(femur + 5, _FAT - 40)
    for angle in _draw_angles(generator):
        reach = float(generator.uniform(32, 44))
        x, y = reach * math.cos(angle), 3 + reach * math.sin(angle)
        # A nerve drifts by up to 4 mm and changes its radius by up to 10 %, both slowly.
        drift_x, drift_y, bulge = (_draw_slow_wave(points.z, generator) for _ in range(3))
        radius = float(generator.uniform(*RADIUS_MM)) * (1 + 0.1 * bulge)
        away = np.hypot(points.x - x - 4 * drift_x, points.y - y - 4 * drift_y)
        canvas.paint((away - radius).astype(np.float32), _NERVE, LABELS["nerve"])
    return limb


def _draw_angles(generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw the directions of the nerves from the femur: a third of the circle for each, less a safety distance."""
    start = generator.uniform(0, 2 * math.pi)
    shares = np.arange(NUM_NERVES) + generator.uniform(-0.3, 0.3, NUM_NERVES)
    angles: NDArray[np.float64] = start + shares * (2 * math.pi / NUM_NERVES)
    return angles


def _draw_slow_wave(z_mm: Field, generator: np.random.Generator) -> Field:
    """Draw a sine wave along the slices, -1 to 1."""
    wavelength, phase = float(generator.uniform(110, 200)), float(generator.uniform(0, 2 * math.pi))
    wave: Field = np.sin(z_mm * (2 * math.pi / wavelength) + phase)
    return wave
