"""Synthetic CT of livers with one tumour among similar lesions, to measure the benefit of prompts.

The abdomen is the phantom's, in a small field of view around the liver. Several lumps of one intensity lie in the
liver, others in the fat beside it like pieces of bowel. All follow one distribution of size and attenuation, and one
of those in the liver is chosen as the tumour. Its surface is more lobed than the others' on average, with overlap, so
that the volume helps little and a single slice hardly at all. Ducts of the same intensity cross the liver and look like
discs in slices. All lumps are apart: a box around the tumour contains nothing else that resembles it.

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
from masam.synthetic.dataset import SyntheticDataset, require_non_negative
from masam.synthetic.phantom_loops import BED_CENTRE_MM, BED_RADII_MM
from masam.synthetic.scan import Scan, add_ct_scanner, plane_waves
from masam.synthetic.solids import Canvas, Field, Points, ellipsoid
from masam.volume import Volume

LABELS = {"background": 0, "tumour": 1}
"""Class names and label values; the liver and everything similar to the tumour is background."""

SHAPE = (128, 128, 24)
STEP_MM = (1.75, 1.75, 4.0)
_CENTRE_MM = (52.0, 4.0, 26.0)

LUMPS_IN_LIVER = 4
LUMPS_BESIDE = 5
RADIUS_MM = (9.0, 13.0)
TUMOUR_LOBES_MM, OTHER_LOBES_MM = (1.0, 2.0), (0.3, 1.3)
"""Height of the lobes of a surface."""
# Attenuation below that of the liver; the noise of the scan is about 10 HU.
_DARKER_HU = (26.0, 40.0)
# Smallest distance of two centres: two of the largest lumps with their lobes, and a voxel between them.
MIN_GAP_MM = 2 * (RADIUS_MM[1] * 1.15 + TUMOUR_LOBES_MM[1]) + 2

_LIVER, _TUMOUR = phantom_anatomy.LABELS["liver"], 255

Centre = tuple[float, float, float]


def make_tumour_case(seed: int, index: int) -> tuple[Volume, Volume]:
    """Return image (int16, Hounsfield units) and labels (uint8, ``LABELS``) of one case.

    The grid has ``SHAPE`` before reorientation. Arguments and errors as for ``make_phantom_case``.
    """
    require_non_negative(seed, index)
    anatomy, lumps, noise, position = sample_generator(seed, index).spawn(4)
    scan = Scan.draw(index, position, SHAPE, STEP_MM, _CENTRE_MM)
    canvas = Canvas.filled(SHAPE, -1000.0, edge_mm=3.0)
    phantom_anatomy.paint_abdomen(canvas, scan.deformed(), scan.texture(noise), anatomy)
    _paint_lumps(canvas, scan.points, lumps)
    image = add_ct_scanner(canvas.image, scan.patient, noise)
    return scan.store(image, (canvas.labels == _TUMOUR).astype(np.uint8))


TUMOUR = SyntheticDataset("Tumour", "CT of livers with a tumour and similar lesions", ("CT",), LABELS, make_tumour_case)
"""The data set."""


def _paint_lumps(canvas: Canvas, scan: Points, generator: np.random.Generator) -> None:
    """Paint ducts and lumps, including the tumour."""
    liver = canvas.labels == _LIVER
    depth_mm = ndimage.distance_transform_edt(liver, sampling=STEP_MM)
    intensity = float(np.median(canvas.image[liver])) - generator.uniform(*_DARKER_HU)
    # Keep lumps away from the ends of the scan, so that none is cut off.
    middle = np.zeros(SHAPE, dtype=bool)
    middle[:, :, 4:-4] = True
    bed = ellipsoid(scan.moved((*BED_CENTRE_MM, 0.0)), (BED_RADII_MM[0] - 12, BED_RADII_MM[1] - 10, math.inf)) < 0
    in_liver = _draw_centres(generator, scan, middle & (depth_mm > RADIUS_MM[0]), LUMPS_IN_LIVER)
    centres = in_liver + _draw_centres(generator, scan, middle & bed, LUMPS_BESIDE, in_liver)
    for _ in range(2):
        duct = scan.moved(_draw_centres(generator, scan, depth_mm > 4, 1)[0])
        duct = duct.turned(generator.uniform(0, 360)).turned(generator.uniform(20, 70), "y")
        width = generator.uniform(4.0, 6.5)
        away = np.min([_distance(scan, centre) for centre in centres], axis=0)
        # A duct ends before a lump, since a duct that touched it would look like a part of it.
        inside = np.maximum(ellipsoid(duct, (45.0, width, width)), RADIUS_MM[1] + 5 - away)
        canvas.paint(np.maximum(inside, 2.0 - depth_mm.astype(np.float32)), intensity, None)
    tumour = int(generator.integers(len(in_liver)))
    for number, centre in enumerate(centres):
        solid = _lump(scan.moved(centre), generator, is_tumour=number == tumour)
        canvas.paint(solid, intensity + generator.uniform(-3, 3), _TUMOUR if number == tumour else 0)


def _draw_centres(
    generator: np.random.Generator, scan: Points, allowed: NDArray[np.bool_], count: int, taken: Sequence[Centre] = ()
) -> list[Centre]:
    """Draw up to ``count`` voxels of a region, ``MIN_GAP_MM`` apart from each other and from those taken."""
    free = np.flatnonzero(allowed)
    positions = np.stack([axis.ravel()[free] for axis in (scan.x, scan.y, scan.z)], axis=-1).astype(np.float64)
    for centre in taken:
        positions = positions[np.linalg.norm(positions - centre, axis=1) >= MIN_GAP_MM]
    centres: list[Centre] = []
    while len(centres) < count and len(positions):
        x, y, z = positions[generator.integers(len(positions))].tolist()
        centres.append((x, y, z))
        positions = positions[np.linalg.norm(positions - centres[-1], axis=1) >= MIN_GAP_MM]
    return centres


def _lump(points: Points, generator: np.random.Generator, *, is_tumour: bool) -> Field:
    """Draw an ellipsoid with lobes around the origin."""
    size = generator.uniform(*RADIUS_MM)
    a, b, c = (float(size * generator.uniform(0.87, 1.15)) for _ in range(3))
    turned = points.turned(generator.uniform(0, 180)).turned(generator.uniform(0, 180), "x")
    solid = ellipsoid(turned, (a, b, c))
    reach_mm = generator.uniform(*(TUMOUR_LOBES_MM if is_tumour else OTHER_LOBES_MM))
    lobed = solid + np.float32(reach_mm) * plane_waves(points, generator, (10.0, 18.0))
    # Far from the surface the waves must not form islands.
    lump: Field = np.maximum(lobed, solid - np.float32(2 * TUMOUR_LOBES_MM[1]))
    return lump


def _distance(points: Points, centre: Centre) -> Field:
    moved = points.moved(centre)
    distance: Field = np.sqrt(moved.x**2 + moved.y**2 + moved.z**2)
    return distance
