"""The header of a NIfTI-1 or NIfTI-2 single file: decode it to shape, type and geometry, and encode it.

Cases that the format leaves open (for transforms see :mod:`masam.io.nifti.transform`):

- A scaling slope of 0 or NaN means no scaling, as specified. An infinite slope is refused.
- Two axes are one slice. The fourth axis holds channels if the caller expects them, as in MSD; further axes must have
  length 1.

A header has no checksum: damage that leaves plausible values is not detected.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError
from masam.io import gate
from masam.io.nifti.transform import TransformOptions, read_transform
from masam.volume import Geometry

HEADER_BYTES = 540
"""Length of a NIfTI-2 header, the longer one; a NIfTI-1 header has 348 bytes."""

# Format definitions: nifti1.h and nifti2.h of the NIfTI working group, https://nifti.nimh.nih.gov.
_MAGIC = {348: (344, b"n+1\0"), 540: (4, b"n+2\0\r\n\x1a\n")}
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_REFUSED_TYPES = {
    1: "binary", 32: "complex", 128: "RGB", 1536: "128-bit float", 1792: "complex", 2048: "complex", 2304: "RGBA",
}  # fmt: skip

_SPLIT = "split it into one file per channel or time point"


@dataclass(frozen=True, eq=False)
class Header:
    """A decoded header.

    Attributes:
        shape: Number of voxels along each spatial axis.
        channels: Length of the fourth axis, 1 if there is none.
        dtype: Type of the stored voxels, with byte order.
        geometry: Geometry of the voxels, in mm.
        slope, intercept: The value of a voxel is ``slope * stored + intercept``.
        offset: Position of the first voxel in the file, in bytes.
        notes: What is unusual about the header, for the user.
    """

    shape: tuple[int, int, int]
    channels: int
    dtype: np.dtype[Any]
    geometry: Geometry
    slope: float
    intercept: float
    offset: int
    notes: tuple[str, ...] = ()

    @property
    def file_bytes(self) -> int:
        """Expected size of the uncompressed file."""
        return self.offset + prod(self.shape) * self.channels * self.dtype.itemsize

    @property
    def is_scaled(self) -> bool:
        """Whether values differ from the stored ones."""
        return (self.slope, self.intercept) != (1.0, 0.0)


def parse_header(
    head: bytes, where: object, *, channels: int | None = 1, **transform: Unpack[TransformOptions]
) -> Header:
    """Decode a header from the first 540 bytes of the file ``where``, or fewer if it is shorter.

    ``channels`` is the required length of the fourth axis; None accepts any.
    """
    fields, size = _fields(head, where)
    shape, file_channels, axes = _shape(fields, where)
    if channels is not None and file_channels != channels:
        lengths = [*shape, file_channels]
        if channels == 1:
            raise InputError(f"expected 3 axes, got 4 with lengths {lengths}", where=where, fix=_SPLIT)
        raise InputError(
            f"expected {channels} channels along the fourth axis, got {file_channels} (axis lengths {lengths})",
            where=where,
            fix="add the missing channel, or correct the channels in dataset.json",
        )
    dtype = _dtype(fields, where)
    slope, intercept = _scaling(fields, where)
    offset = _voxel_offset(fields, size + 4, where)
    geometry = read_transform(fields, shape, axes, where, **transform)
    has_slope = not np.isnan(fields["scl_slope"])
    notes = () if has_slope else ("the scaling slope is NaN, so the stored values are used",)
    return Header(shape, file_channels, dtype, geometry, slope, intercept, offset, notes)


def encode_header(shape: tuple[int, int, int], dtype: np.dtype[Any], geometry: Geometry, where: object) -> bytes:
    """Encode the header of a single file with unit mm, including the four bytes that announce no extension.

    The transform codes of the geometry are kept. NIfTI-1 is used if it can represent shape and geometry
    (:func:`same_geometry`). A geometry that a qform alone cannot represent also gets an sform with the same code; one
    that needs more than 32 bits is written as NIfTI-2.
    """
    import nibabel as nib

    if not (geometry.sform_code or geometry.qform_code):
        raise InputError(
            "the geometry has neither an sform code nor a qform code, so its orientation would be lost",
            where=where,
            fix="set one of them to 1 to 5",
        )
    sform_code = geometry.sform_code or geometry.qform_code
    candidates: list[tuple[Any, int]] = [(nib.Nifti2Header, sform_code)]
    if max(shape) < 2**15:
        candidates = [(nib.Nifti1Header, geometry.sform_code), (nib.Nifti1Header, sform_code), *candidates]
    for kind, code in candidates:
        header = kind(endianness="<")
        header.set_data_shape(shape)
        header.set_data_dtype(dtype)
        header.set_xyzt_units("mm")
        header.set_qform(geometry.affine, geometry.qform_code)
        header.set_sform(geometry.affine if code else None, code)
        header.set_slope_inter(1.0, 0.0)
        header["vox_offset"] = kind.single_vox_offset
        block = bytes(header.binaryblock) + bytes(4)
        if same_geometry(parse_header(block, where).geometry, geometry, shape):
            return block
    raise InputError("a NIfTI header cannot represent this geometry", where=where, fix="check the affine")


def same_geometry(geometry: Geometry, other: Geometry, shape: tuple[int, int, int]) -> bool:
    """Return whether two geometries agree: axes to 1e-6 of their length, corners to 1e-3 voxel."""
    axes, other_axes = geometry.affine[:3, :3], other.affine[:3, :3]
    return bool(np.abs(axes - other_axes).max() <= 1e-6 * np.abs(axes).max()) and geometry.matches(other, shape)


def _fields(head: bytes, where: object) -> tuple[NDArray[Any], int]:
    import nibabel as nib

    for order in "<>":
        size = struct.unpack_from(f"{order}i", head)[0] if len(head) >= 4 else 0
        if size in _MAGIC and len(head) >= size:
            start, magic = _MAGIC[size]
            found = head[start : start + len(magic)]
            if found[:3] in (b"ni1", b"ni2"):
                raise InputError("the header is one of a .hdr and .img pair", where=where, fix="convert it to .nii")
            if found != magic:
                raise InputError(f"expected the magic bytes {magic!r} of a NIfTI file, got {found!r}", where=where)
            kind: Any = nib.Nifti1Header if size == 348 else nib.Nifti2Header
            # Unchecked: nibabel's own checks repair some faults silently and print about others.
            with gate.library_errors(where):
                return kind(head[:size], endianness=order, check=False).structarr, size
    raise InputError("expected a NIfTI header, got other content or too few bytes", where=where)


def _shape(fields: NDArray[Any], where: object) -> tuple[tuple[int, int, int], int, int]:
    """Return the lengths of the spatial axes and of the fourth axis, and the number of axes."""
    dims = [int(n) for n in fields["dim"]]
    if not 2 <= dims[0] <= 7:
        raise InputError(f"expected 3 axes, the header declares {dims[0]}", where=where)
    lengths = dims[1 : 1 + dims[0]]
    if min(lengths) < 1:
        raise InputError(f"expected axes of length 1 or more, the header declares {lengths}", where=where)
    if max(lengths[4:], default=1) > 1:
        raise InputError(f"expected 3 axes, got {len(lengths)} with lengths {lengths}", where=where, fix=_SPLIT)
    i, j, k, channels = (*lengths, 1, 1)[:4]
    return (i, j, k), channels, dims[0]


def _dtype(fields: NDArray[Any], where: object) -> np.dtype[Any]:
    code, bits = int(fields["datatype"]), int(fields["bitpix"])
    if code not in _TYPES:
        name = _REFUSED_TYPES.get(code, f"unknown (code {code})")
        raise InputError(f"expected real voxel values, the type is {name}", where=where, fix="convert the file first")
    dtype = np.dtype(_TYPES[code]).newbyteorder(fields.dtype["dim"].base.byteorder)
    if bits != 8 * dtype.itemsize:
        raise InputError(f"inconsistent header: voxel type {dtype.name} with {bits} bits", where=where)
    return dtype


def _scaling(fields: NDArray[Any], where: object) -> tuple[float, float]:
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise InputError(f"expected a finite scaling, got slope {slope} and intercept {intercept}", where=where)
    return slope, intercept


def _voxel_offset(fields: NDArray[Any], minimum: int, where: object) -> int:
    offset = float(fields["vox_offset"])
    if offset == 0:
        return minimum  # not set
    if not np.isfinite(offset) or offset != int(offset) or offset < minimum:
        raise InputError(f"expected a voxel offset of {minimum} bytes or more, got {offset}", where=where)
    return int(offset)
