"""The duodenum among loops of small bowel, a class that cannot be recognised in a single slice.

Several courses run side by side through all slices and drift slowly. All follow one distribution. One of them, chosen
at random, is the duodenum and continuous; the others are cut into loops of two or three slices with gaps between them.
In a single slice, a loop and the duodenum therefore have the same distribution of position, size, shape and
attenuation. Only the neighbouring slices distinguish them: every loop ends within any five consecutive slices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Elliptic region of fat in front of the spine that contains the courses (mm, x right, y front).
BED_CENTRE_MM = (0.0, 24.0)
BED_RADII_MM = (56.0, 32.0)

NUM_COURSES = 4
LOOP_SLICES = (2, 3)
GAP_SLICES = (1, 2)
RADIUS_MM = (9.5, 11.0)
# Smallest distance of two centres: two of the largest sections and a voxel of fat between them.
MIN_GAP_MM = 26.0

# Paths per batch of proposals; one batch in three contains enough paths that are far enough apart.
_PROPOSALS = 200


@dataclass(frozen=True, eq=False)
class Courses:
    """Cross sections of N courses, one of which is the duodenum, on K slices."""

    centres_mm: NDArray[np.float64]  # [N, K, 2] centre on each slice, x right and y front
    radii_mm: NDArray[np.float64]  # [N, K, 2] half axes of the elliptic section
    angles: NDArray[np.float64]  # [N] direction of the first half axis, in radians
    visible: NDArray[np.bool_]  # [N, K] whether the slice shows the course
    is_duodenum: NDArray[np.bool_]  # [N] whether the course is the duodenum


def draw_courses(generator: np.random.Generator, depth: int, step_mm: float = 5.0) -> Courses:
    """Draw the ``NUM_COURSES`` courses of duodenum and loops, at least ``MIN_GAP_MM`` apart on each slice."""
    centres = _draw_centres(generator, np.arange(depth, dtype=np.float64) * step_mm)
    round_radii = generator.uniform(*RADIUS_MM, size=(NUM_COURSES, 1))
    # The size of a section varies by 5 % from slice to slice; its half axes differ by up to 15 %.
    breath = 1 + 0.05 * generator.standard_normal((NUM_COURSES, depth)).clip(-2, 2)
    stretch = generator.uniform(1.0, 1.075, size=(NUM_COURSES, 1))
    radii = np.stack([round_radii * breath * stretch, round_radii * breath / stretch], axis=-1)
    is_duodenum = np.zeros(NUM_COURSES, dtype=bool)
    is_duodenum[generator.integers(NUM_COURSES)] = True
    visible = np.ones((NUM_COURSES, depth), dtype=bool)
    for course in np.flatnonzero(~is_duodenum):
        visible[course] = _draw_loops(generator, depth)
    return Courses(centres, radii, generator.uniform(0, math.pi, NUM_COURSES), visible, is_duodenum)


def _draw_centres(generator: np.random.Generator, z_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draw paths inside the bed and apart from each other; [N, K, 2]."""
    radii = np.array(BED_RADII_MM) - RADIUS_MM[1]
    while True:
        # Proposals [P, K, 2], uniform over the bed; take those that stay inside and keep their distance.
        reach, angle = np.sqrt(generator.uniform(size=_PROPOSALS)), generator.uniform(0, 2 * math.pi, size=_PROPOSALS)
        starts = radii * np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=-1)
        drift = _drift(generator, z_mm, 4.0, 1) + _drift(generator, z_mm, 3.5, _PROPOSALS)
        paths = starts[:, None] + drift
        paths = paths[(((paths / radii) ** 2).sum(axis=-1) <= 1).all(axis=1)]
        taken: list[int] = []
        for n in range(len(paths)):
            gaps = np.linalg.norm(paths[taken] - paths[n], axis=-1)
            if (gaps >= MIN_GAP_MM).all():
                taken.append(n)
            if len(taken) == NUM_COURSES:
                centres: NDArray[np.float64] = paths[taken] + BED_CENTRE_MM
                return centres


def _drift(generator: np.random.Generator, z_mm: NDArray[np.float64], reach_mm: float, n: int) -> NDArray[np.float64]:
    """Draw n slow sideways motions along the slices, [n, K, 2], of up to ``reach_mm`` in each direction."""
    wavelength = generator.uniform(110, 240, size=(n, 1, 2))
    phase = generator.uniform(0, 2 * math.pi, size=(n, 1, 2))
    return reach_mm * np.sin(2 * math.pi * z_mm[:, None] / wavelength + phase)


def _draw_loops(generator: np.random.Generator, depth: int) -> NDArray[np.bool_]:
    """Cut a course into loops: runs of two or three slices with shorter gaps; [K]."""
    visible = np.zeros(depth, dtype=bool)
    k = -int(generator.integers(0, 6))
    while k < depth:
        end = k + int(generator.integers(LOOP_SLICES[0], LOOP_SLICES[1] + 1))
        visible[max(k, 0) : max(end, 0)] = True
        k = end + int(generator.integers(GAP_SLICES[0], GAP_SLICES[1] + 1))
    # The window of an end slice contains three slices of the volume; a loop must end within them.
    for end_slices in (visible[:3], visible[::-1][:3]):
        if end_slices.all():
            end_slices[0] = False
    return visible
