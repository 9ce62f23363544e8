"""How a phantom is painted: soft-edged solids laid over each other, image and labels in one stroke.

A solid is a field of signed distances in mm, negative inside. Its edge is spread over the width of a voxel, as partial
volume does in a scanner; the label changes where the solid fills half of the voxel, so that image and label agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
"""One value a voxel: of the scan [I, J, K], a slice, or a list of voxels."""


@dataclass(frozen=True, eq=False)
class Points:
    """Position of every voxel in the frame of the patient.

    Attributes:
        x: Towards the patient's right, in mm.
        y: Towards the front, in mm.
        z: Towards the head, in mm.
    """

    x: Field
    y: Field
    z: Field

    def moved(self, centre_mm: tuple[float, float, float]) -> Points:
        """Return the positions as seen from a centre."""
        return Points(self.x - centre_mm[0], self.y - centre_mm[1], self.z - centre_mm[2])

    def turned(self, degrees: float, axis: str = "z") -> Points:
        """Return the positions in a frame that is turned about one of its axes, ``x``, ``y`` or ``z``."""
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        if axis == "x":
            return Points(self.x, cos * self.y + sin * self.z, cos * self.z - sin * self.y)
        if axis == "y":
            return Points(cos * self.x - sin * self.z, self.y, cos * self.z + sin * self.x)
        return Points(cos * self.x + sin * self.y, cos * self.y - sin * self.x, self.z)


def ellipsoid(points: Points, radii_mm: tuple[float, float, float]) -> Field:
    """Return the distance to an ellipsoid around the origin, exact at its surface to first order.

    Args:
        points: Positions from the ellipsoid's centre, along its axes.
        radii_mm: Half axes; ``math.inf`` makes it a cylinder along that axis.

    Returns:
        Signed distance in mm, negative inside.
    """
    scaled = [axis * (1 / radius) for axis, radius in zip((points.x, points.y, points.z), radii_mm, strict=True)]
    reach = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
    slope = np.sqrt(sum((axis * (1 / radius)) ** 2 for axis, radius in zip(scaled, radii_mm, strict=True)))
    # At the centre both are zero; there any depth below the smallest radius will do.
    distance: Field = np.where(slope > 1e-6, reach * (reach - 1) / np.maximum(slope, 1e-6), -np.float32(min(radii_mm)))
    return distance


def periodic(position_mm: Field, pitch_mm: float) -> Field:
    """Return the distance along an axis from the nearest of equally spaced places, -pitch / 2 to pitch / 2."""
    offset: Field = np.remainder(position_mm + pitch_mm / 2, pitch_mm) - pitch_mm / 2
    return offset


def blend(first: Field, second: Field, width_mm: float) -> Field:
    """Return the union of two solids with the crease between them filled (polynomial smooth minimum)."""
    share = np.clip(0.5 + 0.5 / width_mm * (second - first), 0, 1)
    union: Field = second + share * (first - second) - width_mm * share * (1 - share)
    return union


def cut_out(solid: Field, hole: Field, width_mm: float) -> Field:
    """Return a solid without what lies in a hole, the rim rounded."""
    return -blend(-solid, hole, width_mm)


@dataclass(frozen=True, eq=False)
class Canvas:
    """The scan while it is painted.

    Attributes:
        hu: Attenuation in Hounsfield units.
        labels: Class of each voxel, of the same shape.
        edge_mm: Width over which an edge goes from outside to inside.
    """

    hu: Field
    labels: NDArray[np.uint8]
    edge_mm: float

    def paint(self, solid: Field, hu: float | Field, label: int | None = 0) -> None:
        """Lay a solid over what is there.

        Args:
            solid: Signed distance in mm.
            hu: Attenuation of the solid, one value or one a voxel.
            label: Class of the voxels inside; None keeps the class of what lies below (a vessel of the liver is liver).
        """
        share = np.clip(0.5 - solid * (1 / self.edge_mm), 0, 1)
        self.hu[...] += share * (hu - self.hu)
        if label is not None:
            self.labels[solid < 0] = label
