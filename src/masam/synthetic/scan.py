"""How a synthetic scan is acquired and stored: position of the patient, scanner noise, orientation of the array.

Shared by the painted volumes (``phantom.py``, ``tumour.py``, ``sites.py``, ``nerves.py``). Lengths are in mm in the
frame of the scan: x to the right, y to the front, z to the head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from masam.synthetic.solids import Field, Points
from masam.volume import Geometry, Volume

Shape = tuple[int, int, int]
Step = tuple[float, float, float]

STORAGE = (("LPS", 0.0), ("RAS", 0.0), ("SPL", 0.0), ("LPS", 8.0), ("LAS", 0.0), ("ASR", -6.0))
"""Orientation of the array and tilt of the scan about the left-right axis, in degrees; case ``index`` uses entry
``index % 6``, so that a data set mixes orientations as files from different sources do."""

_TEXTURE_MM = 5.0


@dataclass(frozen=True, eq=False)
class Scan:
    """Geometry of one scan."""

    points: Points  # voxel centres in the frame of the scan
    patient: Points  # voxel centres in the frame of the patient, who lies slightly rotated and shifted on the table
    step_mm: Step  # voxel spacing
    orientation: str  # orientation of the stored array
    tilt_degrees: float  # tilt of the scan about the left-right axis
    generator: np.random.Generator  # source of randomness of the position

    @classmethod
    def draw(
        cls,
        index: int,
        generator: np.random.Generator,
        shape: Shape,
        step_mm: Step,
        centre_mm: Step = (0.0, 0.0, 0.0),
    ) -> Scan:
        """Draw the position of the patient.

        Args:
            index: Index of the case; selects the entry of ``STORAGE``.
            generator: Source of randomness.
            shape: Voxels to the right, to the front and to the head.
            step_mm: Voxel spacing along these directions.
            centre_mm: Centre of the scan.
        """
        orientation, tilt_degrees = STORAGE[index % len(STORAGE)]
        points = scan_points(shape, step_mm, centre_mm)
        roll, pitch = generator.uniform(-3, 3), tilt_degrees + generator.uniform(-1.5, 1.5)
        centre = (generator.uniform(-6, 6), generator.uniform(-5, 5), generator.uniform(-6, 6))
        patient = points.moved(centre).turned(roll).turned(pitch, "x")
        return cls(points, patient, step_mm, orientation, tilt_degrees, generator)

    def deformed(self) -> Points:
        """Return the patient's frame bent by a few long waves, so that no organ keeps its geometric shape."""
        moved = [self.patient.x, self.patient.y, self.patient.z]
        for axis, reach_mm in enumerate((3.0, 2.5, 3.5)):
            for _ in range(2):
                moved[axis] = moved[axis] + reach_mm * _plane_wave(self.patient, self.generator, (90.0, 200.0))
        return Points(*moved)

    def texture(self, generator: np.random.Generator) -> Field:
        """Return noise of unit variance with a correlation length of 5 mm."""
        return smooth_noise(generator, self.points.x.shape, [_TEXTURE_MM / (2 * step) for step in self.step_mm])

    def store(self, image: Field, labels: NDArray[np.uint8]) -> tuple[Volume, Volume]:
        """Return image (rounded to int16) and labels as volumes in the orientation of this scan.

        The affine maps to the patient's RAS frame up to the nominal tilt; its origin is drawn, like a table position.
        """
        place, points = self.generator, self.points
        turn = math.radians(self.tilt_degrees)
        rotation = np.eye(4)
        rotation[1:3, 1:3] = [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]
        affine = np.diag([*self.step_mm, 1.0])
        affine[:3, 3] = [points.x[0, 0, 0], points.y[0, 0, 0], points.z[0, 0, 0]]
        affine = rotation @ affine
        affine[:3, 3] += np.round([place.uniform(-30, 30), place.uniform(100, 200), place.uniform(-900, -300)], 1)
        values = np.rint(image).astype(np.int16)
        return _oriented(values, affine, self.orientation), _oriented(labels, affine, self.orientation)


def scan_points(shape: Shape, step_mm: Step, centre_mm: Step = (0.0, 0.0, 0.0)) -> Points:
    """Return the voxel centres of a scan; arguments as for :meth:`Scan.draw`."""
    axes = [
        ((np.arange(n) - (n - 1) / 2) * step + middle).astype(np.float32)
        for n, step, middle in zip(shape, step_mm, centre_mm, strict=True)
    ]
    return Points(*np.meshgrid(*axes, indexing="ij"))


def _plane_wave(points: Points, generator: np.random.Generator, wavelengths_mm: tuple[float, float]) -> Field:
    """Return a sine wave of random direction, wavelength and phase."""
    direction = generator.standard_normal(3)
    direction *= 2 * math.pi / (generator.uniform(*wavelengths_mm) * np.linalg.norm(direction))
    a, b, c = (float(d) for d in direction)
    phase = float(generator.uniform(0, 2 * math.pi))
    wave: Field = np.sin(a * points.x + b * points.y + c * points.z + phase)
    return wave


def plane_waves(points: Points, generator: np.random.Generator, wavelengths_mm: tuple[float, float]) -> Field:
    """Return the sum of four random plane waves, scaled to unit variance, for lobed surfaces and uneven tissue."""
    waves = np.zeros_like(points.x)
    for _ in range(4):
        waves += _plane_wave(points, generator, wavelengths_mm)
    unit: Field = waves * np.float32(1 / math.sqrt(2))
    return unit


def smooth_noise(
    generator: np.random.Generator,
    shape: tuple[int, ...],
    sigma: float | Sequence[float],
    mode: Literal["reflect", "wrap"] = "reflect",
) -> Field:
    """Return white noise after a Gaussian filter of ``sigma`` pixels, scaled to unit variance."""
    field = ndimage.gaussian_filter(generator.standard_normal(shape, dtype=np.float32), sigma, mode=mode)
    unit: Field = (field / field.std()).astype(np.float32)
    return unit


def add_ct_scanner(image: Field, patient: Points, generator: np.random.Generator) -> Field:
    """Add beam hardening (low values in the middle) and the noise of filtered back projection to Hounsfield units."""
    depth = np.clip(1 - (patient.x / 140) ** 2 - (patient.y / 105) ** 2, 0, 1)
    hardened = image - 9 * depth * (image > -500)
    # The noise spectrum rises with frequency (ramp filter of the reconstruction) and then falls (its apodisation).
    rows, columns = image.shape[:2]
    fx, fy = np.meshgrid(fft.fftfreq(rows), fft.rfftfreq(columns), indexing="ij")
    frequency = np.sqrt(fx**2 + fy**2)
    gain = (np.sqrt(frequency) * np.exp(-((frequency / 0.28) ** 2))).astype(np.float32)
    spectrum = fft.rfft2(generator.standard_normal(image.shape, dtype=np.float32), axes=(0, 1)) * gain[:, :, None]
    noise = fft.irfft2(spectrum, s=(rows, columns), axes=(0, 1))
    # Fewer photons pass through the thick middle.
    level_hu = float(generator.uniform(9, 13))
    noisy: Field = hardened + (noise / noise.std()) * level_hu * (0.55 + 0.65 * depth)
    return np.clip(noisy, -1024, 3071)


def _oriented(array: NDArray[np.generic], affine: NDArray[np.float64], orientation: str) -> Volume:
    """Return an array whose axes run right, front, head as a volume of the given orientation."""
    order = ["RLAPSI".index(letter) // 2 for letter in orientation]
    backwards = tuple(axis for axis, letter in enumerate(orientation) if letter in "LPI")
    flipped = np.flip(array.transpose(order), backwards)
    columns, origin = affine[:, order].copy(), affine[:, 3].copy()
    # A flipped axis starts at its other end.
    for axis in backwards:
        origin += columns[:, axis] * (flipped.shape[axis] - 1)
        columns[:, axis] *= -1
    return Volume(np.ascontiguousarray(flipped), Geometry(np.column_stack([columns, origin])))
