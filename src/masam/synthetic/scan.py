"""How a made scan is taken and stored: a patient who lies a little askew, a scanner's noise, axes in some order.

Shared by the data sets that are painted (``phantom.py``, ``tumour.py``, ``sites.py``, ``nerves.py``). Lengths are mm in
the frame of the scan: x to the right, y to the front, z to the head.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from masam.synthetic.phantom_paint import Canvas, Field, Points
from masam.volume import Geometry, Volume

Shape = tuple[int, int, int]
Step = tuple[float, float, float]

# How case 0, 1, 2, ... is stored: direction of the three array axes, and turn of the scan about the left-right axis.
STORAGE = (("LPS", 0.0), ("RAS", 0.0), ("SPL", 0.0), ("LPS", 8.0), ("LAS", 0.0), ("ASR", -6.0))


def scan_points(shape: Shape, step_mm: Step, centre_mm: Step = (0.0, 0.0, 0.0)) -> Points:
    """Return the centres of a scan's voxels.

    Args:
        shape: Voxels to the right, to the front and to the head.
        step_mm: Distance of two voxels along each of these.
        centre_mm: Where the middle of the scan lies.
    """
    axes = [
        ((np.arange(n) - (n - 1) / 2) * step + middle).astype(np.float32)
        for n, step, middle in zip(shape, step_mm, centre_mm, strict=True)
    ]
    return Points(*np.meshgrid(*axes, indexing="ij"))


def lay_patient(scan: Points, tilt_degrees: float, place: np.random.Generator) -> Points:
    """Return a scan's voxels in the frame of a patient who lies a little turned and shifted on the table.

    Args:
        scan: Voxel centres in the frame of the scan.
        tilt_degrees: Turn of the scan about the left-right axis, which comes on top.
        place: Randomness.
    """
    roll, pitch = place.uniform(-3, 3), tilt_degrees + place.uniform(-1.5, 1.5)
    centre = (place.uniform(-6, 6), place.uniform(-5, 5), place.uniform(-6, 6))
    return scan.moved(centre).turned(roll).turned(pitch, "x")


def deformed(points: Points, generator: np.random.Generator) -> Points:
    """Bend the patient's frame by a few long waves, so that no organ keeps its formula's shape."""
    moved = [points.x, points.y, points.z]
    for axis, reach_mm in enumerate((3.0, 2.5, 3.5)):
        for _ in range(2):
            direction = generator.standard_normal(3)
            direction *= 2 * math.pi / (generator.uniform(90, 200) * np.linalg.norm(direction))
            a, b, c = (float(d) for d in direction)
            phase = float(generator.uniform(0, 2 * math.pi))
            wave = np.sin(a * points.x + b * points.y + c * points.z + phase)
            moved[axis] = moved[axis] + reach_mm * wave
    return Points(*moved)


def plane_waves(points: Points, generator: np.random.Generator, wavelengths_mm: tuple[float, float]) -> Field:
    """Return four waves in drawn directions added up, of unit variance: lobes for a surface, shades for a tissue."""
    waves = np.zeros_like(points.x)
    for _ in range(4):
        direction = generator.standard_normal(3)
        direction *= 2 * math.pi / (generator.uniform(*wavelengths_mm) * np.linalg.norm(direction))
        a, b, c = (float(d) for d in direction)
        phase = float(generator.uniform(0, 2 * math.pi))
        waves += np.sin(a * points.x + b * points.y + c * points.z + phase)
    unit: Field = waves * np.float32(1 / math.sqrt(2))
    return unit


def smooth_noise(generator: np.random.Generator, shape: Shape, step_mm: Step, grain_mm: float = 5.0) -> Field:
    """Return noise of unit variance with a grain of so many mm."""
    sigma = [grain_mm / (2 * step) for step in step_mm]
    field = ndimage.gaussian_filter(generator.standard_normal(shape, dtype=np.float32), sigma)
    unit: Field = (field / field.std()).astype(np.float32)
    return unit


def add_ct_scanner(canvas: Canvas, patient: Points, generator: np.random.Generator) -> None:
    """Add what a scanner adds: beam hardening (the middle reads too low) and the noise of filtered back projection."""
    shape = canvas.hu.shape
    depth = np.clip(1 - (patient.x / 140) ** 2 - (patient.y / 105) ** 2, 0, 1)
    canvas.hu[...] -= 9 * depth * (canvas.hu > -500)
    # The ramp filter of the reconstruction makes the spectrum rise with frequency, its apodisation makes it fall again.
    fx, fy = np.meshgrid(fft.fftfreq(shape[0]), fft.rfftfreq(shape[1]), indexing="ij")
    frequency = np.sqrt(fx**2 + fy**2)
    gain = (np.sqrt(frequency) * np.exp(-((frequency / 0.28) ** 2))).astype(np.float32)
    white = generator.standard_normal(shape, dtype=np.float32)
    spectrum = fft.rfft2(white, axes=(0, 1)) * gain[:, :, None]
    noise = fft.irfft2(spectrum, s=shape[:2], axes=(0, 1))
    # Fewer photons come through the thick middle.
    level_hu = float(generator.uniform(9, 13))
    canvas.hu[...] += (noise / noise.std()) * level_hu * (0.55 + 0.65 * depth)


def scan_affine(scan: Points, step_mm: Step, tilt_degrees: float, place: np.random.Generator) -> NDArray[np.float64]:
    """Return the affine [4, 4] of a scan, from voxels to the patient's RAS frame.

    World axes are the patient's, up to the nominal tilt of the scan; the origin is wherever the table stood.
    """
    affine = np.diag([*step_mm, 1.0])
    turn = math.radians(tilt_degrees)
    rotation = np.eye(4)
    rotation[1:3, 1:3] = [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]
    affine[:3, 3] = [scan.x[0, 0, 0], scan.y[0, 0, 0], scan.z[0, 0, 0]]
    affine = rotation @ affine
    affine[:3, 3] += np.round([place.uniform(-30, 30), place.uniform(100, 200), place.uniform(-900, -300)], 1)
    return affine


def stored(array: NDArray[np.generic], affine: NDArray[np.float64], orientation: str) -> Volume:
    """Return an array whose axes run right, front, head as a volume whose axes run as ``orientation`` says."""
    order = ["RLAPSI".index(letter) // 2 for letter in orientation]
    backwards = tuple(axis for axis, letter in enumerate(orientation) if letter in "LPI")
    # Columns are the stored array's axes; an axis that runs backwards starts at the other end.
    turned = np.flip(array.transpose(order), backwards)
    columns = affine[:, order].copy()
    origin = affine[:, 3].copy()
    for axis in backwards:
        origin += columns[:, axis] * (turned.shape[axis] - 1)
        columns[:, axis] *= -1
    return Volume(np.ascontiguousarray(turned), Geometry(np.column_stack([columns, origin])))
