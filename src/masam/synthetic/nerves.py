"""Made MRI of a thigh whose slices are so noisy that one of them does not show the nerves: five together do.

The noise has the grain of a nerve's section, so that averaging within a slice does not help, and each slice has its
own; the nerves run on through all slices.

A case is a pure function of (seed, index).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from masam.reproducibility import sample_generator
from masam.synthetic.folder import MadeVolumes, require_numbers
from masam.synthetic.phantom_paint import Canvas, Field, Points, ellipsoid
from masam.synthetic.scan import (
    STORAGE,
    deformed,
    lay_patient,
    plane_waves,
    scan_affine,
    scan_points,
    stored,
)
from masam.volume import Volume

LABELS = {"background": 0, "nerve": 1}
"""Class names and label values."""

SHAPE = (128, 128, 20)
STEP_MM = (1.25, 1.25, 4.0)

NUM_NERVES = 3
RADIUS_MM = (6.5, 8.5)
_MUSCLE, _FAT, _NERVE = 300.0, 520.0, 420.0
NOISE_TO_CONTRAST = 0.8
"""Standard deviation of the noise beside the difference of nerve and muscle, both at the scale of a nerve's section."""


def make_nerves_case(seed: int, index: int) -> tuple[Volume, Volume]:
    """Make one case.

    Args:
        seed: Seed of the data set, 0 or more.
        index: Number of the case, 0 or more; it also selects how the case is stored (``STORAGE``).

    Returns:
        Image (int16, arbitrary units) and labels (uint8, ``LABELS``), of ``SHAPE`` before their axes are stored in
        another order, on the same grid.

    Raises:
        ConfigError: A number is negative.
    """
    require_numbers(seed, index)
    orientation, tilt_degrees = STORAGE[index % len(STORAGE)]
    anatomy, noise, place = sample_generator(seed, index).spawn(3)
    scan = scan_points(SHAPE, STEP_MM)
    patient = lay_patient(scan, tilt_degrees, place)
    canvas = Canvas(np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.uint8), edge_mm=2.0)
    limb = _paint_thigh(canvas, deformed(patient, place), anatomy)
    canvas.hu[...] += (limb < 0) * _draw_noise(noise) * np.float32(NOISE_TO_CONTRAST * (_NERVE - _MUSCLE))
    affine = scan_affine(scan, STEP_MM, tilt_degrees, place)
    channels = noise.standard_normal((2, *SHAPE), dtype=np.float32) * 12
    image = np.rint(np.hypot(canvas.hu + channels[0], channels[1])).astype(np.int16)
    return stored(image, affine, orientation), stored(canvas.labels, affine, orientation)


NERVES = MadeVolumes("Nerves", "Nerves in slices of much noise", "MR", LABELS, make_nerves_case)
"""The data set."""


def _paint_thigh(canvas: Canvas, points: Points, generator: np.random.Generator) -> Field:
    """Paint fat, muscle, the femur and the nerves; return the distance to the skin."""
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
        # A nerve drifts by up to 4 mm and bulges by up to 10 %, both slowly.
        drift = [4 * np.sin(points.z * (2 * math.pi / w) + p) for w, p in _draw_slow(generator, 2)]
        ((wavelength, phase),) = _draw_slow(generator, 1)
        bulge = 1 + 0.1 * np.sin(points.z * (2 * math.pi / wavelength) + phase)
        radius = float(generator.uniform(*RADIUS_MM)) * bulge
        away = np.hypot(points.x - x - drift[0], points.y - y - drift[1])
        canvas.paint((away - radius).astype(np.float32), _NERVE, LABELS["nerve"])
    return limb


def _draw_angles(generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw where around the femur the nerves run: a third of the circle for each, less what keeps two apart."""
    start = generator.uniform(0, 2 * math.pi)
    angles: NDArray[np.float64] = start + (np.arange(NUM_NERVES) + generator.uniform(-0.3, 0.3, NUM_NERVES)) * (
        2 * math.pi / NUM_NERVES
    )
    return angles


def _draw_slow(generator: np.random.Generator, count: int) -> list[tuple[float, float]]:
    """Draw wavelengths along the slices in mm, and phases."""
    return [(float(generator.uniform(110, 200)), float(generator.uniform(0, 2 * math.pi))) for _ in range(count)]


def _draw_noise(generator: np.random.Generator) -> Field:
    """Draw noise of unit variance with the grain of a nerve's section, of its own in each slice."""
    sigma = 0.5 * (RADIUS_MM[0] + RADIUS_MM[1]) / 2
    white = generator.standard_normal(SHAPE, dtype=np.float32)
    field = ndimage.gaussian_filter(white, (sigma / STEP_MM[0], sigma / STEP_MM[1], 0), mode="wrap")
    unit: Field = (field / field.std()).astype(np.float32)
    return unit
