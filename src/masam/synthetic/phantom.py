"""Synthetic abdominal CT for the demo and for tests; it needs no download and contains no patient data.

A case is a pure function of (seed, index). ``phantom_anatomy.py`` paints the organs. One class, the duodenum, differs
from the bowel loops around it only in its course through the slices (``phantom_loops.py``).
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np

from masam.errors import ConfigError
from masam.reproducibility import sample_generator
from masam.synthetic.dataset import SyntheticDataset, require_non_negative
from masam.synthetic.phantom_anatomy import LABELS, paint_abdomen
from masam.synthetic.phantom_loops import Courses, draw_courses
from masam.synthetic.scan import Scan, Shape, add_ct_scanner
from masam.synthetic.solids import Canvas, Points, ellipsoid
from masam.volume import Volume

FIELD_MM = 320.0
SLICE_MM = 5.0
DEFAULT_SHAPE = (128, 128, 32)


def make_phantom_case(seed: int, index: int, shape: Shape = DEFAULT_SHAPE) -> tuple[Volume, Volume]:
    """Make one case.

    Args:
        seed: Seed of the data set, 0 or more.
        index: Index of the case, 0 or more; it also selects the orientation (``scan.STORAGE``).
        shape: Voxels to the right, to the front and to the head, before reorientation. The field of view is 320 mm and
            the slice thickness 5 mm for every shape.

    Returns:
        Image in Hounsfield units (int16) and labels (uint8, ``LABELS``), on the same grid.

    Raises:
        ConfigError: The shape is too small to show every organ or longer than an abdomen, or a number is negative.
    """
    _check_case(seed, index, shape)
    anatomy, bowel, noise, position = sample_generator(seed, index).spawn(4)
    step_mm = (FIELD_MM / shape[0], FIELD_MM / shape[1], SLICE_MM)
    scan = Scan.draw(index, position, shape, step_mm)
    canvas = Canvas.filled(shape, -1000.0, edge_mm=max(3.5, FIELD_MM / shape[0]))
    _paint_table(canvas, scan.points)
    paint_abdomen(canvas, scan.deformed(), scan.texture(noise), anatomy)
    courses = draw_courses(bowel, shape[2], SLICE_MM)
    _paint_courses(canvas, scan.patient, courses, hu=float(bowel.uniform(62, 82)))
    return scan.store(add_ct_scanner(canvas.image, scan.patient, noise), canvas.labels)


def write_phantom(root: Path, *, train: int, test: int, seed: int = 0, shape: Shape = DEFAULT_SHAPE) -> Path:
    """Write the data set with cases of a shape, see :func:`make_phantom_case`.

    Arguments, result and errors are otherwise those of :meth:`SyntheticDataset.write`.
    """
    _check_case(seed, 0, shape)
    make_case = partial(make_phantom_case, shape=shape)
    dataset = SyntheticDataset("Phantom", "Abdominal CT", ("CT",), LABELS, make_case)
    return dataset.write(root, train=train, test=test, seed=seed)


def _check_case(seed: int, index: int, shape: Shape) -> None:
    require_non_negative(seed, index)
    if min(shape[:2]) < 64 or not 16 <= shape[2] <= 36:
        raise ConfigError(
            f"expected a phantom of at least 64 x 64 voxels and 16 to 36 slices, got {' x '.join(map(str, shape))}",
            where="shape",
            fix=f"the default is {' x '.join(map(str, DEFAULT_SHAPE))}",
        )


def _paint_table(canvas: Canvas, scan: Points) -> None:
    """Paint the patient table, a shallow trough under the back."""
    trough = ellipsoid(scan.moved((0.0, 120.0, 0.0)), (260.0, 246.0, math.inf))
    canvas.paint(np.maximum(np.abs(trough) - 2.0, scan.y + 80), -350.0)


def _paint_courses(canvas: Canvas, patient: Points, courses: Courses, hu: float) -> None:
    """Paint duodenum and loops slice by slice, with edges that are soft within the slice only.

    The last slice of a loop must look like any other, so it must not blur into the next slice.
    """
    reach = float(courses.radii_mm.max()) + canvas.edge_mm
    for n, k in np.argwhere(courses.visible):
        plane = Points(*(axis[:, :, k] for axis in (patient.x, patient.y, patient.z)))
        cx, cy = (float(c) for c in courses.centres_mm[n, k])
        # Painting only the voxels around the section takes a tenth of the time.
        near = np.abs(plane.x - cx) + np.abs(plane.y - cy) < 2 * reach
        rows, columns = (slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(near))
        local = Points(*(axis[rows, columns] for axis in (plane.x, plane.y, plane.z))).moved((cx, cy, 0.0))
        a, b = (float(r) for r in courses.radii_mm[n, k])
        section = ellipsoid(local.turned(math.degrees(courses.angles[n])), (a, b, math.inf))
        part = Canvas(canvas.image[rows, columns, k], canvas.labels[rows, columns, k], canvas.edge_mm)
        part.paint(section, hu, LABELS["duodenum"] if courses.is_duodenum[n] else 0)
