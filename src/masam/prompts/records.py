"""Prompts of a user: a box, a click, or a mask on a slice, in voxels of the scan or in mm of the patient.

Voxel indices start at 0 along the axes of the array; voxel k extends from k - 0.5 to k + 0.5. Positions in mm are in
the RAS frame (right, front and head are positive) of the scan's affine.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from masam.errors import ConfigError, brief

Unit = Literal["voxel", "mm"]

_BOX = "x0,y0,z0,x1,y1,z1"


@dataclass(frozen=True)
class Box3D:
    """The bounding box of an object.

    Attributes:
        corners: x0, y0, z0, x1, y1, z1. In voxels, the first and last voxel inside the box; in mm, two opposite corners
            of a box that includes every voxel it intersects.
        unit: ``voxel`` or ``mm``.
        class_name: Class of the object; None if the model has one class.

    Raises:
        ConfigError: ``corners`` are not six finite numbers, or a side is inverted or empty.
    """

    corners: Sequence[float | int]
    unit: Unit = "voxel"
    class_name: str | None = None

    def __post_init__(self) -> None:
        _require_unit(self.unit, "box")
        corners = _numbers(self.corners, _BOX, "box")
        object.__setattr__(self, "corners", corners)
        for axis, low, high in zip("xyz", corners[:3], corners[3:], strict=True):
            if low > high:
                raise ConfigError(
                    f"expected {axis}0 <= {axis}1, got {low:g} and {high:g}",
                    where="box",
                    fix="put the smaller corner first",
                )
            if low == high and self.unit == "mm":
                raise ConfigError(f"the box is empty: {axis}0 and {axis}1 are both {low:g} mm", where="box")

    def record(self) -> dict[str, object]:
        """Return plain values for JSON."""
        return {"box": list(self.corners), "unit": self.unit, "class": self.class_name}


@dataclass(frozen=True)
class Click:
    """A point on an object or outside it.

    Attributes:
        position: x, y, z; fractions of a voxel are allowed.
        positive: Whether the point is on the object.
        unit: ``voxel`` or ``mm``.
        class_name: Class of the object; None if the model has one class.

    Raises:
        ConfigError: ``position`` is not three finite numbers.
    """

    position: Sequence[float | int]
    positive: bool = True
    unit: Unit = "voxel"
    class_name: str | None = None

    def __post_init__(self) -> None:
        _require_unit(self.unit, "click")
        object.__setattr__(self, "position", _numbers(self.position, "x,y,z", "click"))

    def record(self) -> dict[str, object]:
        """Return plain values for JSON."""
        key = "click" if self.positive else "not_click"
        return {key: list(self.position), "unit": self.unit, "class": self.class_name}


@dataclass(frozen=True, eq=False)
class MaskOnSlice:
    """A mask of an object on one slice; it may be approximate.

    Attributes:
        axis: Array axis perpendicular to the slice, 0 to 2; it must be the slice axis of the model.
        index: Index of the slice along that axis.
        mask: True on the object, [rows, columns] over the two other axes in array order.
        class_name: Class of the object; None if the model has one class.

    Raises:
        ConfigError: The mask is not two-dimensional and boolean, or is empty, or the axis is invalid.
    """

    axis: int
    index: int
    mask: NDArray[np.bool_]
    class_name: str | None = None

    def __post_init__(self) -> None:
        if self.axis not in (0, 1, 2):
            raise ConfigError(f"expected axis 0, 1 or 2, got {brief(self.axis)}", where="mask")
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_:
            raise ConfigError(
                f"expected a boolean array with 2 axes, got {self.mask.dtype} with {self.mask.ndim}", where="mask"
            )
        if not self.mask.any():
            raise ConfigError("the mask is empty", where="mask", fix="draw on the object, or use a negative click")

    def record(self) -> dict[str, object]:
        """Return plain values; each row of the mask as its index followed by its columns on the object."""
        rows = [[int(row), *map(int, np.flatnonzero(self.mask[row]))] for row in np.flatnonzero(self.mask.any(axis=1))]
        return {"mask": rows, "axis": self.axis, "index": self.index, "class": self.class_name}


Prompt = Box3D | Click | MaskOnSlice


def _require_unit(unit: object, where: str) -> None:
    if unit not in ("voxel", "mm"):
        raise ConfigError(f"expected the unit voxel or mm, got {brief(unit)}", where=where)


def _numbers(values: Sequence[object], form: str, where: str) -> tuple[float, ...]:
    count = form.count(",") + 1
    if len(values) != count:
        raise ConfigError(f"expected {count} numbers {form}, got {len(values)}", where=where)
    for value in values:
        # bool is a subclass of int.
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise ConfigError(f"expected finite numbers {form}, got {brief(value)}", where=where)
    return tuple(float(value) for value in values if isinstance(value, numbers.Real))
