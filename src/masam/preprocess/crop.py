"""Crop a volume to its content, and invert the crop.

The removed border is black in every channel of the model's input, so no information is lost, and the rest is shown
larger. Rows and columns are cropped by the same factor, so the aspect ratio of organs does not change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError

Scalar = TypeVar("Scalar", bound=np.generic)
CropRule = Literal["none", "content"]
"""``content`` removes the border that the intensity rule maps to 0 in every channel."""


@dataclass(frozen=True)
class Crop:
    """A box in a volume in canonical order.

    Attributes:
        full_size: Slices, rows and columns of the volume.
        start: First slice, row and column of the box.
        size: Slices, rows and columns of the box.
    """

    full_size: tuple[int, int, int]
    start: tuple[int, int, int]
    size: tuple[int, int, int]

    @classmethod
    def full(cls, size: tuple[int, int, int]) -> Crop:
        """Return the box that contains the complete volume."""
        return cls(size, (0, 0, 0), size)

    def apply(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return the box of an array [slices, rows, columns, ...] as a view."""
        return array[self._ranges]

    def invert(self, labels: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return labels [slices, rows, columns] of the box as labels of the volume, 0 outside the box."""
        if labels.shape != self.size:
            raise InputError(f"expected label slices of shape {self.size}, got {labels.shape}")
        if self.size == self.full_size:
            return labels
        volume = np.zeros(self.full_size, labels.dtype)
        volume[self._ranges] = labels
        return volume

    @property
    def _ranges(self) -> tuple[slice, slice, slice]:
        slices, rows, columns = (
            slice(first, first + count) for first, count in zip(self.start, self.size, strict=True)
        )
        return slices, rows, columns


def crop_to_content(content: Iterable[NDArray[np.bool_]]) -> Crop:
    """Return the smallest box that contains a volume's content, widened to the aspect ratio of the slices.

    The content is given by a mask [rows, columns] per slice; without content, the box is the complete volume.
    """
    in_slices, in_rows, in_columns = [], np.zeros(1, bool), np.zeros(1, bool)
    for mask in content:
        in_slices.append(bool(mask.any()))
        in_rows, in_columns = in_rows | mask.any(axis=1), in_columns | mask.any(axis=0)
    profiles = np.array(in_slices), in_rows, in_columns
    depth, rows, columns = (len(axis) for axis in profiles)
    if not profiles[0].any():
        return Crop.full((depth, rows, columns))
    (first, last), *plane = ((int(axis.argmax()), len(axis) - int(axis[::-1].argmax())) for axis in profiles)
    height, width = (stop - start for start, stop in plane)
    sides = zoomed_sides((rows, columns), (height, width))
    # Widened equally on both sides, unless the edge of the volume is reached.
    top, left = (
        min(max(0, (start + stop - side) // 2), length - side)
        for (start, stop), side, length in zip(plane, sides, (rows, columns), strict=True)
    )
    return Crop((depth, rows, columns), (first, top, left), (last - first, *sides))


def zoomed_sides(size: tuple[int, int], content: tuple[int, int]) -> tuple[int, int]:
    """Return the sides of the smallest rectangle with the aspect ratio of ``size`` that contains ``content``."""
    (rows, columns), (height, width) = size, content
    # Integer arithmetic, as floats could round up to more than the slice has.
    if height * columns >= width * rows:
        return height, -(-height * columns // rows)
    return -(-width * rows // columns), width
