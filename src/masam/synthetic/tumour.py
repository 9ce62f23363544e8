"""Made CT of livers with one tumour among lumps that look like it: what a prompt is worth.

The abdomen is the phantom's, seen in a small field of view around the liver. Several lumps of one grey lie in the
liver, others like pieces of bowel in the fat beside it. They are drawn from one distribution of size and attenuation,
and one of those in the liver is picked to be the tumour. It is more lobed than the others on average, with overlap,
so that a look at the whole volume helps little and a look at a slice hardly at all. Ducts of the same grey cross the
liver, and make discs of slices. All lumps lie apart: a box around the tumour holds nothing else that looks like it.

A case is a pure function of (seed, index).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from masam.reproducibility import sample_generator
from masam.synthetic import phantom_anatomy
from masam.synthetic.folder import MadeVolumes, require_numbers
from masam.synthetic.phantom_loops import BED_CENTRE_MM, BED_RADII_MM
from masam.synthetic.phantom_paint import Canvas, Field, Points, ellipsoid
from masam.synthetic.scan import (
    STORAGE,
    add_ct_scanner,
    deformed,
    lay_patient,
    plane_waves,
    scan_affine,
    scan_points,
    smooth_noise,
    stored,
)
from masam.volume import Volume

LABELS = {"background": 0, "tumour": 1}
"""Class names and label values; the liver and all that looks like the tumour is background."""

SHAPE = (128, 128, 24)
STEP_MM = (1.75, 1.75, 4.0)
_CENTRE_MM = (52.0, 4.0, 26.0)

LUMPS_IN_LIVER = 4
LUMPS_BESIDE = 5
RADIUS_MM = (9.0, 13.0)
# How far the lobes of a surface reach: of the tumour, of the others.
LOBES_MM = {True: (1.0, 2.0), False: (0.3, 1.3)}
# Attenuation below the liver's; the noise of the scan is about 10 HU.
_DARKER_HU = (26.0, 40.0)
# Centres of lumps lie this far apart: two of the largest with their lobes, and a voxel between them.
MIN_GAP_MM = 2 * (RADIUS_MM[1] * 1.15 + LOBES_MM[True][1]) + 2

_LIVER, _TUMOUR = phantom_anatomy.LABELS["liver"], 255


def make_tumour_case(seed: int, index: int) -> tuple[Volume, Volume]:
    """Make one case.

    Args:
        seed: Seed of the data set, 0 or more.
        index: Number of the case, 0 or more; it also selects how the case is stored (``STORAGE``).

    Returns:
        Image in Hounsfield units (int16) and labels (uint8, ``LABELS``), of ``SHAPE`` before their axes are stored in
        another order, on the same grid.

    Raises:
        ConfigError: A number is negative.
    """
    require_numbers(seed, index)
    orientation, tilt_degrees = STORAGE[index % len(STORAGE)]
    anatomy, lumps, noise, place = sample_generator(seed, index).spawn(4)
    scan = scan_points(SHAPE, STEP_MM, _CENTRE_MM)
    patient = lay_patient(scan, tilt_degrees, place)
    canvas = Canvas(np.full(SHAPE, -1000, np.float32), np.zeros(SHAPE, np.uint8), edge_mm=3.0)
    phantom_anatomy.paint_abdomen(canvas, deformed(patient, place), smooth_noise(noise, SHAPE, STEP_MM), anatomy)
    _paint_lumps(canvas, scan, lumps)
    add_ct_scanner(canvas, patient, noise)
    affine = scan_affine(scan, STEP_MM, tilt_degrees, place)
    image = np.clip(np.rint(canvas.hu), -1024, 3071).astype(np.int16)
    labels = (canvas.labels == _TUMOUR).astype(np.uint8)
    return stored(image, affine, orientation), stored(labels, affine, orientation)


TUMOUR = MadeVolumes("Tumour", "CT of livers with a tumour and lumps like it", "CT", LABELS, make_tumour_case)
"""The data set."""


def _paint_lumps(canvas: Canvas, scan: Points, generator: np.random.Generator) -> None:
    """Paint ducts and lumps, the tumour among them."""
    liver = canvas.labels == _LIVER
    depth_mm = ndimage.distance_transform_edt(liver, sampling=STEP_MM)
    grey = float(np.median(canvas.hu[liver])) - generator.uniform(*_DARKER_HU)
    # The ends of the scan cut no lump in half.
    middle = np.zeros(SHAPE, dtype=bool)
    middle[:, :, 4:-4] = True
    bed = ellipsoid(scan.moved((*BED_CENTRE_MM, 0.0)), (BED_RADII_MM[0] - 12, BED_RADII_MM[1] - 10, math.inf)) < 0
    in_liver = _draw_places(generator, scan, middle & (depth_mm > RADIUS_MM[0]), LUMPS_IN_LIVER, [])
    centres = in_liver + _draw_places(generator, scan, middle & bed, LUMPS_BESIDE, in_liver)
    for _ in range(2):
        duct = scan.moved(_draw_places(generator, scan, depth_mm > 4, 1, [])[0])
        duct = duct.turned(generator.uniform(0, 360)).turned(generator.uniform(20, 70), "y")
        width = generator.uniform(4.0, 6.5)
        away = np.min([_distance(scan, centre) for centre in centres], axis=0)
        # A duct ends before a lump: what touches one would be taken for a part of it.
        inside = np.maximum(ellipsoid(duct, (45.0, width, width)), RADIUS_MM[1] + 5 - away)
        canvas.paint(np.maximum(inside, 2.0 - depth_mm.astype(np.float32)), grey, None)
    tumour = int(generator.integers(len(in_liver)))
    for number, centre in enumerate(centres):
        solid = _lump(scan.moved(centre), generator, is_tumour=number == tumour)
        canvas.paint(solid, grey + generator.uniform(-3, 3), _TUMOUR if number == tumour else 0)


def _draw_places(
    generator: np.random.Generator,
    scan: Points,
    allowed: NDArray[np.bool_],
    count: int,
    taken: Sequence[tuple[float, float, float]],
) -> list[tuple[float, float, float]]:
    """Draw voxels of a region, as many as asked for and as fit, apart from each other and from those taken."""
    free = np.flatnonzero(allowed)
    positions = np.stack([axis.ravel()[free] for axis in (scan.x, scan.y, scan.z)], axis=-1).astype(np.float64)
    for centre in taken:
        positions = positions[np.linalg.norm(positions - centre, axis=1) >= MIN_GAP_MM]
    found: list[tuple[float, float, float]] = []
    while len(found) < count and len(positions):
        x, y, z = positions[generator.integers(len(positions))].tolist()
        found.append((x, y, z))
        positions = positions[np.linalg.norm(positions - found[-1], axis=1) >= MIN_GAP_MM]
    return found


def _lump(points: Points, generator: np.random.Generator, *, is_tumour: bool) -> Field:
    """Draw a lump around the origin: an ellipsoid with lobes."""
    size = generator.uniform(*RADIUS_MM)
    a, b, c = (float(size * generator.uniform(0.87, 1.15)) for _ in range(3))
    turned = points.turned(generator.uniform(0, 180)).turned(generator.uniform(0, 180), "x")
    solid = ellipsoid(turned, (a, b, c))
    reach_mm = generator.uniform(*LOBES_MM[is_tumour])
    lobed = solid + np.float32(reach_mm) * plane_waves(points, generator, (10.0, 18.0))
    # Far away the waves must not make islands.
    lump: Field = np.maximum(lobed, solid - np.float32(2 * LOBES_MM[True][1]))
    return lump


def _distance(points: Points, centre: tuple[float, float, float]) -> Field:
    moved = points.moved(centre)
    distance: Field = np.sqrt(moved.x**2 + moved.y**2 + moved.z**2)
    return distance
