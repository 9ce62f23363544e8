"""A volume: an array of voxels with its position in the patient."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError

# Largest cosine between two voxel axes. Above it the grid is sheared, so that spacing and orientation are not well
# defined. Rounding in 32-bit NIfTI headers stays below 1e-5.
MAX_AXIS_COSINE = 1e-3


@dataclass(frozen=True, eq=False)
class Geometry:
    """Position of an array's voxels in the patient.

    Attributes:
        affine: [4, 4] float64, maps voxel indices (i, j, k) to mm in the RAS frame of NIfTI.
        sform_code: NIfTI code of the sform of the source file.
        qform_code: NIfTI code of the qform of the source file.

    Raises:
        InputError: The affine is not [4, 4], not finite, singular or sheared.
    """

    affine: NDArray[np.float64]
    sform_code: int = 1
    qform_code: int = 1

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4):
            raise InputError(f"expected a 4 x 4 affine, got shape {affine.shape}")
        if not np.isfinite(affine).all():
            raise InputError("the affine contains values that are not finite", fix="repair the header's transform")
        if not np.allclose(affine[3], (0, 0, 0, 1)):
            raise InputError(f"expected the affine's last row to be 0 0 0 1, got {affine[3].tolist()}")
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if spacing.min() <= 0:
            raise InputError("the affine is singular (an axis has no length)", fix="repair the header's transform")
        axes = affine[:3, :3] / spacing
        cosines = np.abs(axes.T @ axes - np.eye(3))
        if cosines.max() > MAX_AXIS_COSINE:
            if abs(np.linalg.det(axes)) < 1e-6:
                raise InputError("the affine is singular (axes are parallel)", fix="repair the header's transform")
            raise InputError(
                f"the affine is sheared (largest cosine between two axes is {cosines.max():.3g})",
                fix="resample the volume to a rectangular grid first",
            )
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel spacing along each array axis, in mm."""
        a, b, c = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(a), float(b), float(c)

    def matches(self, other: Geometry, shape: tuple[int, ...], tolerance_voxel: float = 1e-3) -> bool:
        """Return whether two geometries agree for an array of a shape.

        Args:
            other: Geometry to compare with.
            shape: Shape of the array; comparing its corners suffices for affine maps.
            tolerance_voxel: Maximum distance, in units of the smallest spacing.
        """
        corners = np.array([[i, j, k, 1] for i in (0, shape[0]) for j in (0, shape[1]) for k in (0, shape[2])], float)
        distance_mm = np.linalg.norm((corners @ (self.affine - other.affine).T)[:, :3], axis=1)
        return bool(distance_mm.max() <= tolerance_voxel * min(self.spacing_mm))


@dataclass(frozen=True, eq=False)
class Volume:
    """An array of voxels with its geometry.

    Attributes:
        array: [I, J, K], or [I, J, K, C] for several channels, in the axis order of the file.
        geometry: Position of the voxels.

    Raises:
        InputError: The array does not have three or four axes, or is empty.
    """

    array: NDArray[np.generic]
    geometry: Geometry = field(default_factory=lambda: Geometry(np.eye(4)))

    def __post_init__(self) -> None:
        if self.array.ndim not in (3, 4) or 0 in self.array.shape:
            raise InputError(
                f"expected a volume with three axes, or four with channels, none empty, got shape {self.array.shape}"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along each spatial axis."""
        i, j, k = self.array.shape[:3]
        return i, j, k

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return self.array.shape[3] if self.array.ndim == 4 else 1

    def channel(self, index: int) -> NDArray[np.generic]:
        """Return a view [I, J, K] of one channel."""
        return self.array if self.array.ndim == 3 else self.array[..., index]

    def with_array(self, array: NDArray[np.generic]) -> Volume:
        """Return a volume with another array on the same grid.

        Raises:
            InputError: The shapes differ.
        """
        if array.shape != self.array.shape:
            raise InputError(f"expected an array of shape {self.array.shape} for this grid, got {array.shape}")
        return replace(self, array=array)
