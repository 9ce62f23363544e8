"""Cropping of a volume to its content, and the way back.

What is cut away is black to the model in every channel, so nothing that it could see is lost; the slices that remain
are seen larger. Rows and columns are cut by the same factor: a crop is a zoom and never changes the shape of an organ.
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
"""``content`` cuts away the border that the intensity rule makes 0 in every channel."""


@dataclass(frozen=True)
class Crop:
    """A box of a volume in canonical order.

    Attributes:
        whole: Slices, rows and columns of the volume.
        start: First slice, row and column of the box.
        size: Slices, rows and columns of the box.
    """

    whole: tuple[int, int, int]
    start: tuple[int, int, int]
    size: tuple[int, int, int]

    @classmethod
    def nothing(cls, whole: tuple[int, int, int]) -> Crop:
        """Return the box that is the whole volume."""
        return cls(whole, (0, 0, 0), whole)

    def apply(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """Return a view of the box of an array [slices, rows, columns]; further axes stay."""
        return array[self._ranges]

    def invert(self, labels: NDArray[Scalar]) -> NDArray[Scalar]:
        """Put an array of the box back into the volume.

        Args:
            labels: [slices, rows, columns] of the box.

        Returns:
            [slices, rows, columns] of the volume, 0 outside the box.

        Raises:
            InputError: The array does not have the size of the box.
        """
        if labels.shape != self.size:
            raise InputError(f"expected label slices of shape {self.size}, got {labels.shape}")
        if self.size == self.whole:
            return labels
        volume = np.zeros(self.whole, labels.dtype)
        volume[self._ranges] = labels
        return volume

    @property
    def _ranges(self) -> tuple[slice, slice, slice]:
        slices, rows, columns = (
            slice(first, first + count) for first, count in zip(self.start, self.size, strict=True)
        )
        return slices, rows, columns


def crop_to_content(content: Iterable[NDArray[np.bool_]]) -> Crop:
    """Find the smallest box that holds a volume's content, widened to the slices' aspect ratio.

    Args:
        content: For each slice, [rows, columns] where there is content; one is held at a time.

    Returns:
        The box; the whole volume if there is no content.
    """
    of_slices, of_rows, of_columns = [], np.zeros(1, bool), np.zeros(1, bool)
    for mask in content:
        of_slices.append(bool(mask.any()))
        of_rows, of_columns = of_rows | mask.any(axis=1), of_columns | mask.any(axis=0)
    seen = np.array(of_slices), of_rows, of_columns
    depth, rows, columns = (len(axis) for axis in seen)
    if not seen[0].any():
        return Crop.nothing((depth, rows, columns))
    (first, last), *plane = ((int(axis.argmax()), len(axis) - int(axis[::-1].argmax())) for axis in seen)
    height, width = (stop - start for start, stop in plane)
    sides = zoomed_sides((rows, columns), (height, width))
    # Widened on both sides alike, or more on one where the other meets the volume's edge.
    top, left = (
        min(max(0, (start + stop - side) // 2), whole - side)
        for (start, stop), side, whole in zip(plane, sides, (rows, columns), strict=True)
    )
    return Crop((depth, rows, columns), (first, top, left), (last - first, *sides))


def zoomed_sides(whole: tuple[int, int], content: tuple[int, int]) -> tuple[int, int]:
    """Return the sides of the smallest rectangle with a slice's aspect ratio that holds its content.

    Args:
        whole: Rows and columns of the slice.
        content: Rows and columns of the content, 1 to those of the slice.
    """
    (rows, columns), (height, width) = whole, content
    # Rounded up in whole numbers, as a quotient of floats could round to more than the slice has.
    if height * columns >= width * rows:
        return height, -(-height * columns // rows)
    return -(-width * rows // columns), width
