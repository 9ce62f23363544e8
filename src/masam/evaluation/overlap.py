"""Volume overlap of one class: Dice, IoU and volumes, with defined scores for empty masks.

=================  ==================  ==========================  ========================
reference          prediction          ``reference_empty="nan"``   ``reference_empty="one"``
=================  ==================  ==========================  ========================
empty              empty               NaN, excluded from means    1 (rule of the paper)
empty              not empty           0                           0
not empty          empty               0                           0
=================  ==================  ==========================  ========================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError

ReferenceEmpty = Literal["nan", "one"]
"""Score of a class that is absent from both masks."""


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of one class in one case; ``intersection`` counts voxels in both masks."""

    reference: int
    prediction: int
    intersection: int

    def dice(self, reference_empty: ReferenceEmpty = "nan") -> float:
        """Return 2 |A ∩ B| / (|A| + |B|), from 0 to 1."""
        return _ratio(2 * self.intersection, self.reference + self.prediction, reference_empty)

    def iou(self, reference_empty: ReferenceEmpty = "nan") -> float:
        """Return |A ∩ B| / |A ∪ B|, from 0 to 1."""
        return _ratio(self.intersection, self.reference + self.prediction - self.intersection, reference_empty)


def count_overlap(
    reference: NDArray[np.bool_], prediction: NDArray[np.bool_], ignore: NDArray[np.bool_] | None = None
) -> Overlap:
    """Count the voxels of one class in two masks of one shape, without those in the mask ``ignore``."""
    for name, mask in (("prediction", prediction), ("ignore mask", ignore)):
        if mask is not None and mask.shape != reference.shape:
            raise InputError(f"expected the {name} in the reference's shape {reference.shape}, got {mask.shape}")
    if ignore is not None:
        reference, prediction = reference & ~ignore, prediction & ~ignore
    return Overlap(*(int(np.count_nonzero(mask)) for mask in (reference, prediction, reference & prediction)))


def volume_ml(voxels: int, spacing_mm: tuple[float, float, float]) -> float:
    """Return the volume of a number of voxels in millilitres (1 ml = 1000 mm³)."""
    return voxels * spacing_mm[0] * spacing_mm[1] * spacing_mm[2] / 1000.0


def _ratio(numerator: int, denominator: int, reference_empty: ReferenceEmpty) -> float:
    if denominator:
        return numerator / denominator
    return 1.0 if reference_empty == "one" else float("nan")
