"""Made abdominal CT: a data set that needs no download and no patient, for the demo and for tests.

A case is a pure function of (seed, index). Its anatomy is in ``phantom_anatomy.py``; one class, the duodenum,
can be told from the loops of bowel around it only by its course through the slices (``phantom_loops.py``). Cases are
stored in different orientations, as files from different sources are.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from masam.datasets.phantom_anatomy import LABELS, paint_abdomen
from masam.datasets.phantom_loops import Courses, draw_courses
from masam.datasets.phantom_paint import Canvas, Field, Points, ellipsoid
from masam.datasets.raw_folder import RawFolder
from masam.errors import ConfigError
from masam.reproducibility import sample_generator
from masam.volume import Geometry, Volume

FIELD_MM = 320.0
SLICE_MM = 5.0
DEFAULT_SHAPE = (128, 128, 32)

# How case 0, 1, 2, ... is stored: direction of the three array axes, and turn of the scan about the left-right axis.
STORAGE = (("LPS", 0.0), ("RAS", 0.0), ("SPL", 0.0), ("LPS", 8.0), ("LAS", 0.0), ("ASR", -6.0))


def make_phantom_case(seed: int, index: int, shape: tuple[int, int, int] = DEFAULT_SHAPE) -> tuple[Volume, Volume]:
    """Make one case.

    Args:
        seed: Seed of the data set, 0 or more.
        index: Number of the case, 0 or more; it also selects how the case is stored (``STORAGE``).
        shape: Voxels to the right, to the front and to the head, before the axes are stored in another order. The field
            is 320 mm wide and a slice 5 mm thick, whatever the shape.

    Returns:
        Image in Hounsfield units (int16) and labels (uint8, ``LABELS``), on the same grid.

    Raises:
        ConfigError: The shape is too small to show every organ or too long for an abdomen, or a number is negative.
    """
    _check_case(seed, index, shape)
    orientation, tilt_degrees = STORAGE[index % len(STORAGE)]
    anatomy, bowel, noise, place = sample_generator(seed, index).spawn(4)

    scan = _scan_points(shape)
    # The patient lies a little turned and shifted on the table; the scan may be tilted on top of that.
    roll, pitch = place.uniform(-3, 3), tilt_degrees + place.uniform(-1.5, 1.5)
    centre = (place.uniform(-6, 6), place.uniform(-5, 5), place.uniform(-6, 6))
    patient = scan.moved(centre).turned(roll).turned(pitch, "x")

    canvas = Canvas(np.full(shape, -1000, np.float32), np.zeros(shape, np.uint8), edge_mm=max(3.5, FIELD_MM / shape[0]))
    _paint_table(canvas, scan)
    texture = _smooth_noise(noise, shape)
    paint_abdomen(canvas, _deformed(patient, place), texture, anatomy)
    courses = draw_courses(bowel, shape[2], SLICE_MM)
    _paint_courses(canvas, patient, courses, hu=float(bowel.uniform(62, 82)))
    _add_scanner(canvas, patient, noise)

    affine = np.diag([FIELD_MM / shape[0], FIELD_MM / shape[1], SLICE_MM, 1.0])
    # World axes are the patient's, up to the nominal tilt of the scan; the origin is wherever the table stood.
    turn = math.radians(tilt_degrees)
    rotation = np.eye(4)
    rotation[1:3, 1:3] = [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]
    affine[:3, 3] = [scan.x[0, 0, 0], scan.y[0, 0, 0], scan.z[0, 0, 0]]
    affine = rotation @ affine
    affine[:3, 3] += np.round([place.uniform(-30, 30), place.uniform(100, 200), place.uniform(-900, -300)], 1)

    image = np.clip(np.rint(canvas.hu), -1024, 3071).astype(np.int16)
    return _stored(image, affine, orientation), _stored(canvas.labels, affine, orientation)


def write_phantom(
    root: Path, *, train: int, test: int, seed: int = 0, shape: tuple[int, int, int] = DEFAULT_SHAPE
) -> Path:
    """Write the data set as an nnU-Net raw folder, the labels of the held-out cases in ``labelsTs``.

    Args:
        root: Folder to write; made if missing.
        train: Number of training cases, 1 or more: indices 0 to train - 1.
        test: Number of held-out cases, 0 or more: the indices that follow.
        seed: Seed of the data set.
        shape: Shape of a case, see ``make_phantom_case``.

    Returns:
        The folder.

    Raises:
        ConfigError: A number is out of its range.
        InputError: The folder holds cases of another data set.
        ResourceError: A file cannot be written.
    """
    if train < 1 or test < 0:
        raise ConfigError(f"expected 1 training case or more and 0 test cases or more, got {train} and {test}")
    _check_case(seed, 0, shape)
    names = tuple(f"phantom_{index:03d}" for index in range(train + test))
    folder = RawFolder.begin(root, names[:train], names[train:])

    def write(index: int) -> None:
        folder.write_case(names[index], *make_phantom_case(seed, index, shape))

    # Threads, since numpy and zlib let others run; a case does not depend on which one makes it, or when.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(len(names))))
    folder.finish(
        name="Phantom",
        description=f"Abdominal CT made by formula (masam, seed {seed}); no patient's data.",
        channel="CT",
        labels=LABELS,
    )
    return root


def _check_case(seed: int, index: int, shape: tuple[int, int, int]) -> None:
    if seed < 0 or index < 0:
        raise ConfigError(f"expected a seed and an index of 0 or more, got {seed} and {index}")
    if min(shape[:2]) < 64 or not 16 <= shape[2] <= 36:
        raise ConfigError(
            f"expected a phantom of at least 64 x 64 voxels and 16 to 36 slices, got {' x '.join(map(str, shape))}",
            where="shape",
            fix=f"the default is {' x '.join(map(str, DEFAULT_SHAPE))}",
        )


def _scan_points(shape: tuple[int, int, int]) -> Points:
    """Return voxel centres in the frame of the scan, the origin in the middle."""
    steps = (FIELD_MM / shape[0], FIELD_MM / shape[1], SLICE_MM)
    axes = [((np.arange(n) - (n - 1) / 2) * step).astype(np.float32) for n, step in zip(shape, steps, strict=True)]
    return Points(*np.meshgrid(*axes, indexing="ij"))


def _deformed(points: Points, generator: np.random.Generator) -> Points:
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


def _paint_table(canvas: Canvas, scan: Points) -> None:
    """Paint the scanner's couch, a shallow trough under the back."""
    trough = ellipsoid(scan.moved((0.0, 120.0, 0.0)), (260.0, 246.0, math.inf))
    canvas.paint(np.maximum(np.abs(trough) - 2.0, scan.y + 80), -350.0)


def _paint_courses(canvas: Canvas, patient: Points, courses: Courses, hu: float) -> None:
    """Paint duodenum and loops slice by slice, with edges that are soft within the slice only.

    A loop's last slice must look like any other, so nothing of it spills into the next slice.
    """
    reach = float(courses.radii_mm.max()) + canvas.edge_mm
    for n, k in np.argwhere(courses.visible):
        plane = Points(*(axis[:, :, k] for axis in (patient.x, patient.y, patient.z)))
        cx, cy = (float(c) for c in courses.centres_mm[n, k])
        # Only the voxels around the section: a tenth of the time.
        near = np.abs(plane.x - cx) + np.abs(plane.y - cy) < 2 * reach
        rows, columns = (slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(near))
        local = Points(*(axis[rows, columns] for axis in (plane.x, plane.y, plane.z))).moved((cx, cy, 0.0))
        a, b = (float(r) for r in courses.radii_mm[n, k])
        section = ellipsoid(local.turned(math.degrees(courses.angles[n])), (a, b, math.inf))
        part = Canvas(canvas.hu[rows, columns, k], canvas.labels[rows, columns, k], canvas.edge_mm)
        part.paint(section, hu, LABELS["duodenum"] if courses.is_duodenum[n] else 0)


def _smooth_noise(generator: np.random.Generator, shape: tuple[int, int, int]) -> Field:
    """Return noise of unit variance with a grain of about 5 mm."""
    sigma = (5.0 * shape[0] / FIELD_MM / 2, 5.0 * shape[1] / FIELD_MM / 2, 0.5)
    field = ndimage.gaussian_filter(generator.standard_normal(shape, dtype=np.float32), sigma)
    unit: Field = (field / field.std()).astype(np.float32)
    return unit


def _add_scanner(canvas: Canvas, patient: Points, generator: np.random.Generator) -> None:
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


def _stored(array: NDArray[np.generic], affine: NDArray[np.float64], orientation: str) -> Volume:
    """Return an array whose axes run right, front, head as a volume whose axes run as ``orientation`` says."""
    order = ["RLAPSI".index(letter) // 2 for letter in orientation]
    backwards = tuple(axis for axis, letter in enumerate(orientation) if letter in "LPI")
    # Columns are the stored array's axes; an axis that runs backwards starts at the other end.
    stored = np.flip(array.transpose(order), backwards)
    columns = affine[:, order].copy()
    origin = affine[:, 3].copy()
    for axis in backwards:
        origin += columns[:, axis] * (stored.shape[axis] - 1)
        columns[:, axis] *= -1
    return Volume(np.ascontiguousarray(stored), Geometry(np.column_stack([columns, origin])))
