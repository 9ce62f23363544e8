"""Soft-edged solids painted over each other, into image and labels at once.

A solid is a field of signed distances in mm, negative inside. Its edge is as wide as a voxel (the partial volume effect
of a scanner). The label changes where the solid fills half of the voxel, so that image and labels agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
"""One value per voxel: of a scan [I, J, K], of a slice, or of a list of voxels."""


@dataclass(frozen=True, eq=False)
class Points:
    """Voxel positions in the frame of the patient.

    Attributes:
        x: To the patient's right, in mm.
        y: To the front, in mm.
        z: To the head, in mm.
    """

    x: Field
    y: Field
    z: Field

    def moved(self, centre_mm: tuple[float, float, float]) -> Points:
        """Return the positions relative to a centre."""
        return Points(self.x - centre_mm[0], self.y - centre_mm[1], self.z - centre_mm[2])

    def turned(self, degrees: float, axis: str = "z") -> Points:
        """Return the positions in a frame rotated about its ``x``, ``y`` or ``z`` axis."""
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        if axis == "x":
            return Points(self.x, cos * self.y + sin * self.z, cos * self.z - sin * self.y)
        if axis == "y":
            return Points(cos * self.x - sin * self.z, self.y, cos * self.z + sin * self.x)
        return Points(cos * self.x + sin * self.y, cos * self.y - sin * self.x, self.z)


def ellipsoid(points: Points, radii_mm: tuple[float, float, float]) -> Field:
    """Return the signed distance to an ellipsoid around the origin, exact at its surface to first order.

    A half axis of ``math.inf`` makes it a cylinder along that axis.
    """
    scaled = [axis * (1 / radius) for axis, radius in zip((points.x, points.y, points.z), radii_mm, strict=True)]
    reach = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
    slope = np.sqrt(sum((axis * (1 / radius)) ** 2 for axis, radius in zip(scaled, radii_mm, strict=True)))
    # Both are zero at the centre, where any depth below the smallest radius is valid.
    distance: Field = np.where(slope > 1e-6, reach * (reach - 1) / np.maximum(slope, 1e-6), -np.float32(min(radii_mm)))
    return distance


def periodic(position_mm: Field, pitch_mm: float) -> Field:
    """Return the signed distance along an axis to the nearest multiple of the pitch, -pitch / 2 to pitch / 2."""
    offset: Field = np.remainder(position_mm + pitch_mm / 2, pitch_mm) - pitch_mm / 2
    return offset


def blend(first: Field, second: Field, width_mm: float) -> Field:
    """Return the union of two solids with the crease between them filled (polynomial smooth minimum)."""
    share = np.clip(0.5 + 0.5 / width_mm * (second - first), 0, 1)
    union: Field = second + share * (first - second) - width_mm * share * (1 - share)
    return union


def cut_out(solid: Field, hole: Field, width_mm: float) -> Field:
    """Return the difference of two solids with a rounded rim."""
    return -blend(-solid, hole, width_mm)


@dataclass(frozen=True, eq=False)
class Canvas:
    """Image and labels while they are painted.

    Attributes:
        image: Intensities; Hounsfield units in CT.
        labels: Class of each voxel, of the same shape.
        edge_mm: Width of an edge.
    """

    image: Field
    labels: NDArray[np.uint8]
    edge_mm: float

    @classmethod
    def filled(cls, shape: tuple[int, ...], value: float, edge_mm: float) -> Canvas:
        """Return a canvas of one intensity, all background."""
        return cls(np.full(shape, value, np.float32), np.zeros(shape, np.uint8), edge_mm)

    def paint(self, solid: Field, value: float | Field, label: int | None = 0) -> None:
        """Paint a solid over the existing content.

        Args:
            solid: Signed distance in mm.
            value: Intensity of the solid, one value or one per voxel.
            label: Class of the voxels inside; None keeps the existing labels (a vessel in the liver counts as liver).
        """
        share = np.clip(0.5 - solid * (1 / self.edge_mm), 0, 1)
        self.image[...] += share * (value - self.image)
        if label is not None:
            self.labels[solid < 0] = label
