"""What a user points at: a box, a click, a mask on a slice, in the scan's own voxels or in millimetres of the patient.

Voxels are counted along the array's own axes from 0; voxel k's centre is k, its extent k - 0.5 to k + 0.5. Millimetres
are positions in the RAS frame (right, front and head are positive), as the scan's affine gives them.
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
    """A box about an object; it ends where the object ends.

    Attributes:
        corners: x0, y0, z0, x1, y1, z1. In voxels the first and the last voxel that belong to it; in mm two opposite
            corners, of which it takes all voxels that it reaches into.
        unit: ``voxel`` or ``mm``.
        class_name: Class of the object; None for a model's only class.

    Raises:
        ConfigError: There are not six finite numbers, or a side is inverted or empty.
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
                    fix="give the smaller corner first",
                )
            if low == high and self.unit == "mm":
                raise ConfigError(f"the box is empty: {axis}0 and {axis}1 are both {low:g} mm", where="box")

    def record(self) -> dict[str, object]:
        """Return plain values."""
        return {"box": list(self.corners), "unit": self.unit, "class": self.class_name}


@dataclass(frozen=True)
class Click:
    """A point on an object, or beside it.

    Attributes:
        position: x, y, z; numbers between voxels are allowed.
        positive: On the object; False for a place that is not the object.
        unit: ``voxel`` or ``mm``.
        class_name: Class of the object; None for a model's only class.

    Raises:
        ConfigError: There are not three finite numbers.
    """

    position: Sequence[float | int]
    positive: bool = True
    unit: Unit = "voxel"
    class_name: str | None = None

    def __post_init__(self) -> None:
        _require_unit(self.unit, "click")
        object.__setattr__(self, "position", _numbers(self.position, "x,y,z", "click"))

    def record(self) -> dict[str, object]:
        """Return plain values."""
        key = "click" if self.positive else "not_click"
        return {key: list(self.position), "unit": self.unit, "class": self.class_name}


@dataclass(frozen=True, eq=False)
class MaskOnSlice:
    """An object as it was drawn on one slice, roughly or well.

    Attributes:
        axis: Axis of the scan's array that is cut across, 0 to 2; it must be the one that the model cuts across.
        index: Voxel along that axis.
        mask: True on the object, [rows, columns] over the two other axes in their order in the array.
        class_name: Class of the object; None for a model's only class.

    Raises:
        ConfigError: The mask is not two-dimensional and boolean, or empty, or there is no such axis.
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
                f"expected two axes of true and false, got {self.mask.ndim} of {self.mask.dtype}", where="mask"
            )
        if not self.mask.any():
            raise ConfigError(
                "the mask is empty", where="mask", fix="draw on the object, or say where it is not with a click"
            )

    def record(self) -> dict[str, object]:
        """Return plain values; the mask as the columns that it touches on each row, after the row."""
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
        # True is a number to Python, and no coordinate.
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise ConfigError(f"expected finite numbers {form}, got {brief(value)}", where=where)
    return tuple(float(value) for value in values if isinstance(value, numbers.Real))
