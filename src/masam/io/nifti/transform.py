"""The transform of a NIfTI header: from qform, sform and spatial unit to a Geometry in mm.

Cases that the format leaves open:

- qform and sform that agree: the sform is used, as in nibabel. If they disagree: refused, unless ``prefer_sform``.
- Neither is set (both codes 0): refused, unless ``assume_orientation`` is given; nibabel and SimpleITK make different
  guesses. The result has sform code 2 (aligned) and qform code 0.
- Unit metre or micrometre: converted. Unknown unit: mm.
- Two axes without a slice thickness: 1 mm.

A header has no checksum: an affine that is wrong but finite, rectangular and of plausible size is accepted.
"""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from masam.errors import ConfigError, InputError
from masam.volume import Geometry

_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_MAX_TRANSFORM_CODE = 5

# From electron microscopy to a whole body in one voxel; outside this range the header is damaged or its unit is wrong.
_SPACING_RANGE_MM = (1e-6, 500.0)
_MAX_OFFSET_MM = 1e6

# A qform stores three components of a unit quaternion in 32 bits; near a half turn the fourth is then off by up to
# 4e-4 and the rotation by 7e-4 rad. A slight shear (volume.MAX_AXIS_COSINE) adds 1e-3. The offset has no such error.
_ANGLE_TOLERANCE = 2e-3
_OFFSET_TOLERANCE_VOXEL = 1e-2

_DIRECTIONS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


class TransformOptions(TypedDict, total=False):
    """How to read a transform that is ambiguous or missing.

    Attributes:
        prefer_sform: Use the sform if qform and sform disagree; by default such a file is refused.
        assume_orientation: Direction of each array axis, such as ``"RAS"``, for a file without a transform. The first
            voxel is placed at 0. By default such a file is refused.
    """

    prefer_sform: bool
    assume_orientation: str | None


def read_transform(
    fields: NDArray[Any],
    shape: tuple[int, int, int],
    axes: int,
    where: object,
    *,
    prefer_sform: bool = False,
    assume_orientation: str | None = None,
) -> Geometry:
    """Return the geometry that the ``fields`` of a header with ``axes`` axes describe for a volume of this shape.

    The options are those of :class:`TransformOptions`.
    """
    sform_code, qform_code = _read_code(fields, "sform_code", where), _read_code(fields, "qform_code", where)
    unit = int(fields["xyzt_units"]) & 7
    if unit not in _MM_PER_UNIT:
        raise InputError(f"expected the unit mm, metre or micrometre, got unit code {unit}", where=where)
    if sform_code:
        affine = np.vstack([*(fields[f"srow_{x}"].astype(np.float64) for x in "xyz"), [0.0, 0.0, 0.0, 1.0]])
        if qform_code and not prefer_sform:
            _require_agreement(affine, _qform(fields, axes, where), shape, where)
    elif qform_code:
        affine = _qform(fields, axes, where)
    elif assume_orientation is None:
        raise InputError(
            "the header has neither an sform nor a qform, so left and right are unknown",
            where=where,
            fix="correct the header, or give the orientation to masam predict or check, as in --assume-orientation RAS",
        )
    else:
        affine, sform_code = _assumed(assume_orientation, _spacing(fields, axes, where)), 2
    affine[:3] *= _MM_PER_UNIT[unit]
    try:
        geometry = Geometry(affine, sform_code=sform_code, qform_code=qform_code)
    except InputError as error:
        raise InputError(error.what, where=where, fix=error.fix) from error
    low, high = _SPACING_RANGE_MM
    if not (low <= min(geometry.spacing_mm) and max(geometry.spacing_mm) <= high):
        raise InputError(f"expected a voxel size of {low:g} to {high:g} mm, got {geometry.spacing_mm}", where=where)
    if np.abs(affine[:3, 3]).max() > _MAX_OFFSET_MM:
        raise InputError(f"the position of the first voxel, {affine[:3, 3].tolist()} mm, is not plausible", where=where)
    return geometry


def _read_code(fields: NDArray[Any], name: str, where: object) -> int:
    code = int(fields[name])
    if not 0 <= code <= _MAX_TRANSFORM_CODE:
        raise InputError(f"expected {name} from 0 to {_MAX_TRANSFORM_CODE}, got {code}", where=where)
    return code


def _spacing(fields: NDArray[Any], axes: int, where: object) -> NDArray[np.float64]:
    spacing = fields["pixdim"][1:4].astype(np.float64)
    if axes == 2 and spacing[2] == 0:
        spacing[2] = 1.0
    if not (np.isfinite(spacing).all() and spacing.min() > 0):
        raise InputError(f"expected a positive voxel size (pixdim), got {spacing.tolist()}", where=where)
    return spacing


def _qform(fields: NDArray[Any], axes: int, where: object) -> NDArray[np.float64]:
    """Return the affine of the quaternion, computed in float64 (nibabel uses the header's 32 bits).

    Source: nifti_quatern_to_mat44 in nifti1_io.c of the NIfTI working group.
    """
    vector = np.array([fields[f"quatern_{x}"] for x in "bcd"], np.float64)
    offset = np.array([fields[f"qoffset_{x}"] for x in "xyz"], np.float64)
    squared_length = float(vector @ vector)
    if not (np.isfinite(offset).all() and squared_length <= 1 + 1e-5):
        raise InputError(
            f"expected a unit quaternion and a finite offset in the qform, got {vector.tolist()} and {offset.tolist()}",
            where=where,
        )
    real = np.sqrt(max(1.0 - squared_length, 0.0))
    if 1.0 - squared_length < 1e-7:
        # The rest is rounding of 32-bit numbers: a half turn, as in the reference implementation.
        real, vector = 0.0, vector / np.sqrt(squared_length)
    handedness = float(fields["pixdim"][0])
    if handedness not in (-1.0, 0.0, 1.0):
        raise InputError(f"expected 1 or -1 as the qform's handedness (pixdim[0]), got {handedness}", where=where)
    scale = _spacing(fields, axes, where) * (1.0, 1.0, -1.0 if handedness == -1.0 else 1.0)
    cross = np.cross(vector, np.eye(3)).T
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3) * (real**2 - vector @ vector) + 2 * np.outer(vector, vector) + 2 * real * cross
    affine[:3, :3] *= scale
    affine[:3, 3] = offset
    return affine


def _require_agreement(
    sform: NDArray[np.float64], qform: NDArray[np.float64], shape: tuple[int, int, int], where: object
) -> None:
    corners = np.array([[i, j, k, 1] for i in (0, shape[0]) for j in (0, shape[1]) for k in (0, shape[2])], float)
    distance = np.linalg.norm((corners @ (sform - qform).T)[:, :3], axis=1)
    extent = np.linalg.norm(corners[:, :3] @ qform[:3, :3].T, axis=1)
    spacing = np.linalg.norm(qform[:3, :3], axis=0).min()
    # Negated, so that NaN counts as disagreement.
    if not np.all(distance <= _OFFSET_TOLERANCE_VOXEL * spacing + _ANGLE_TOLERANCE * extent):
        raise InputError(
            f"sform and qform disagree by up to {distance.max():.4g} "
            f"(sform {sform[:3].tolist()}, qform {np.round(qform[:3], 6).tolist()})",
            where=where,
            fix="correct the header, or give masam predict or check --prefer-sform if the sform is correct",
        )


def _assumed(orientation: str, spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    directions = [_DIRECTIONS.get(letter, (-1, 0)) for letter in orientation.upper()]
    if sorted(row for row, _ in directions) != [0, 1, 2]:
        raise ConfigError(
            f"expected an orientation such as RAS or LPS, got {orientation!r}", where="assume_orientation"
        )
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    for axis, (row, sign) in enumerate(directions):
        affine[row, axis] = sign * spacing[axis]
    return affine
