"""Made abdominal CT: a data set that needs no download and no patient, for the demo and for tests.

A case is a pure function of (seed, index). Its anatomy is in ``phantom_anatomy.py``; one class, the duodenum,
can be told from the loops of bowel around it only by its course through the slices (``phantom_loops.py``). Cases are
stored in different orientations, as files from different sources are.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np

from masam.errors import ConfigError
from masam.reproducibility import sample_generator
from masam.synthetic.folder import MadeVolumes, require_numbers
from masam.synthetic.phantom_anatomy import LABELS, paint_abdomen
from masam.synthetic.phantom_loops import Courses, draw_courses
from masam.synthetic.phantom_paint import Canvas, Points, ellipsoid
from masam.synthetic.scan import (
    STORAGE,
    add_ct_scanner,
    deformed,
    lay_patient,
    scan_affine,
    scan_points,
    smooth_noise,
    stored,
)
from masam.volume import Volume

FIELD_MM = 320.0
SLICE_MM = 5.0
DEFAULT_SHAPE = (128, 128, 32)


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

    step_mm = (FIELD_MM / shape[0], FIELD_MM / shape[1], SLICE_MM)
    scan = scan_points(shape, step_mm)
    patient = lay_patient(scan, tilt_degrees, place)

    canvas = Canvas(np.full(shape, -1000, np.float32), np.zeros(shape, np.uint8), edge_mm=max(3.5, FIELD_MM / shape[0]))
    _paint_table(canvas, scan)
    texture = smooth_noise(noise, shape, step_mm)
    paint_abdomen(canvas, deformed(patient, place), texture, anatomy)
    courses = draw_courses(bowel, shape[2], SLICE_MM)
    _paint_courses(canvas, patient, courses, hu=float(bowel.uniform(62, 82)))
    add_ct_scanner(canvas, patient, noise)

    affine = scan_affine(scan, step_mm, tilt_degrees, place)
    image = np.clip(np.rint(canvas.hu), -1024, 3071).astype(np.int16)
    return stored(image, affine, orientation), stored(canvas.labels, affine, orientation)


def write_phantom(
    root: Path, *, train: int, test: int, seed: int = 0, shape: tuple[int, int, int] = DEFAULT_SHAPE
) -> Path:
    """Write the data set; a case has ``shape``, see ``make_phantom_case``.

    Arguments, result and errors are otherwise those of ``MadeVolumes.write``.
    """
    _check_case(seed, 0, shape)
    made = MadeVolumes("Phantom", "Abdominal CT", "CT", LABELS, partial(make_phantom_case, shape=shape))
    return made.write(root, train=train, test=test, seed=seed)


def _check_case(seed: int, index: int, shape: tuple[int, int, int]) -> None:
    require_numbers(seed, index)
    if min(shape[:2]) < 64 or not 16 <= shape[2] <= 36:
        raise ConfigError(
            f"expected a phantom of at least 64 x 64 voxels and 16 to 36 slices, got {' x '.join(map(str, shape))}",
            where="shape",
            fix=f"the default is {' x '.join(map(str, DEFAULT_SHAPE))}",
        )


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
