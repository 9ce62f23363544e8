"""The header of a NIfTI-1 or NIfTI-2 single file: bytes to shape, type and geometry, and back.

Where the format leaves a choice, this is ours (for the transforms, see ``nifti_transform``):

- Scaling slope 0 or NaN: no scaling, as the format says. Infinite: refused.
- Two axes: one slice. More than three: the fourth holds channels where the caller expects some, as MSD stores them;
  further ones are accepted if they have length 1.

A header has no checksum: damage that still looks right cannot be told from truth.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError
from masam.io import gate
from masam.io.nifti.transform import read_transform
from masam.volume import Geometry

HEADER_BYTES = 540
"""Length of a NIfTI-2 header, the longer one; a NIfTI-1 header has 348 bytes."""

# Format definitions: nifti1.h and nifti2.h of the NIfTI working group, https://nifti.nimh.nih.gov.
_MAGIC = {348: (344, b"n+1\0"), 540: (4, b"n+2\0\r\n\x1a\n")}
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_REFUSED_TYPES = {
    1: "binary", 32: "complex", 128: "RGB", 1536: "128-bit float", 1792: "complex", 2048: "complex", 2304: "RGBA",
}  # fmt: skip

_SPLIT = "split it into one file a channel or time point"


@dataclass(frozen=True, eq=False)
class Header:
    """What a file says about its voxels.

    Attributes:
        shape: Voxels along each axis in space.
        channels: Length of the fourth axis, 1 if there is none.
        dtype: Type of the stored voxels, with byte order.
        geometry: Where they lie, in mm.
        slope: A voxel's value is ``slope * stored + intercept``.
        intercept: See ``slope``.
        offset: Byte at which the voxels begin.
    """

    shape: tuple[int, int, int]
    channels: int
    dtype: np.dtype[Any]
    geometry: Geometry
    slope: float
    intercept: float
    offset: int

    @property
    def file_bytes(self) -> int:
        """Size the (inflated) file must have."""
        return self.offset + prod(self.shape) * self.channels * self.dtype.itemsize

    @property
    def is_scaled(self) -> bool:
        """Whether values differ from what is stored."""
        return (self.slope, self.intercept) != (1.0, 0.0)


def parse_header(
    head: bytes,
    where: object,
    *,
    channels: int | None = 1,
    prefer_sform: bool = False,
    assume_orientation: str | None = None,
) -> Header:
    """Read a header.

    Args:
        head: First 540 bytes of the file, or fewer if it is shorter.
        where: File to name in an error.
        channels: Length that the fourth axis must have; None accepts any.
        prefer_sform: Where qform and sform disagree, take the sform.
        assume_orientation: Letters such as ``"RAS"``, for a file without any transform.

    Raises:
        InputError: The header is not one of a NIfTI single file, contradicts itself, or is not supported.
        ConfigError: ``assume_orientation`` is not an orientation.
    """
    fields, size = _fields(head, where)
    shape, found, axes = _shape(fields, where)
    if channels is not None and found != channels:
        _refuse_channels(found, channels, shape, where)
    dtype = _dtype(fields, where)
    slope, intercept = _scaling(fields, where)
    offset = _voxel_offset(fields, size + 4, where)
    geometry = read_transform(fields, shape, axes, where, prefer_sform, assume_orientation)
    return Header(shape, found, dtype, geometry, slope, intercept, offset)


def encode_header(shape: tuple[int, int, int], dtype: np.dtype[Any], geometry: Geometry, where: object) -> bytes:
    """Make the header of a single file, unit mm, including the four bytes that say that no extension follows.

    The codes of the geometry are kept. NIfTI-1 is written wherever it holds the shape and the geometry
    (:func:`same_place`); a geometry that a qform alone would lose gets an sform of the same code beside it, and one
    that 32 bits would lose is written as NIfTI-2.

    Args:
        shape: Voxels along each array axis.
        dtype: A type of NIfTI's, little-endian.
        geometry: Where the voxels lie.
        where: File to name in an error.

    Raises:
        InputError: The geometry has no code, or is beyond what a reader accepts.
    """
    import nibabel as nib

    if not (geometry.sform_code or geometry.qform_code):
        raise InputError(
            "the geometry has neither an sform nor a qform code, so readers would have to guess",
            where=where,
            fix="give it a code of 1 to 5",
        )
    small = max(shape) < 2**15
    sform_code = geometry.sform_code or geometry.qform_code
    forms: list[tuple[Any, int]] = [(nib.Nifti2Header, sform_code)]
    if small:
        forms = [(nib.Nifti1Header, geometry.sform_code), (nib.Nifti1Header, sform_code), *forms]
    for kind, code in forms:
        header = kind(endianness="<")
        header.set_data_shape(shape)
        header.set_data_dtype(dtype)
        header.set_xyzt_units("mm")
        header.set_qform(geometry.affine, geometry.qform_code)
        header.set_sform(geometry.affine if code else None, code)
        header.set_slope_inter(1.0, 0.0)
        header["vox_offset"] = kind.single_vox_offset
        block = bytes(header.binaryblock) + bytes(4)
        if same_place(parse_header(block, where).geometry, geometry, shape):
            return block
    raise InputError("no NIfTI header holds this geometry", where=where, fix="check the affine")


def same_place(geometry: Geometry, other: Geometry, shape: tuple[int, int, int]) -> bool:
    """Say whether a geometry came back from a file as it was: axes to 1e-6 of their length, corners to 1e-3 voxel."""
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
                raise InputError(
                    "the header belongs to a pair of files (.hdr, .img)", where=where, fix="convert it to .nii"
                )
            if found != magic:
                raise InputError(f"expected the mark {magic!r} of a NIfTI file, got {found!r}", where=where)
            kind: Any = nib.Nifti1Header if size == 348 else nib.Nifti2Header
            # Unchecked: nibabel's own checks repair some faults in silence and print about others.
            with gate.library_errors(where):
                return kind(head[:size], endianness=order, check=False).structarr, size
    raise InputError("expected the header of a NIfTI file, got something else or too few bytes", where=where)


def _shape(fields: NDArray[Any], where: object) -> tuple[tuple[int, int, int], int, int]:
    """Return the lengths of the axes in space and of the fourth, and the number of axes."""
    dims = [int(n) for n in fields["dim"]]
    if not 2 <= dims[0] <= 7:
        raise InputError(f"expected 3 axes, the header says {dims[0]}", where=where)
    lengths = dims[1 : 1 + dims[0]]
    if min(lengths) < 1:
        raise InputError(f"expected axes of length 1 or more, the header says {lengths}", where=where)
    if max(lengths[4:], default=1) > 1:
        raise InputError(f"expected 3 axes, got {len(lengths)} of lengths {lengths}", where=where, fix=_SPLIT)
    i, j, k, channels = (*lengths, 1, 1)[:4]
    return (i, j, k), channels, dims[0]


def _refuse_channels(found: int, wanted: int, shape: tuple[int, int, int], where: object) -> NoReturn:
    if wanted == 1:
        raise InputError(f"expected 3 axes, got 4 of lengths {[*shape, found]}", where=where, fix=_SPLIT)
    raise InputError(
        f"expected {wanted} channels along the fourth axis, got {found} (axes of lengths {[*shape, found]})",
        where=where,
        fix="add the missing channel, or correct the list of channels in dataset.json",
    )


def _dtype(fields: NDArray[Any], where: object) -> np.dtype[Any]:
    code, bits = int(fields["datatype"]), int(fields["bitpix"])
    if code not in _TYPES:
        name = _REFUSED_TYPES.get(code, f"of unknown code {code}")
        raise InputError(f"expected real numbers, the voxels are {name}", where=where, fix="convert the file first")
    dtype = np.dtype(_TYPES[code]).newbyteorder(fields.dtype["dim"].base.byteorder)
    if bits != 8 * dtype.itemsize:
        raise InputError(f"the header contradicts itself: {dtype.name} voxels of {bits} bits", where=where)
    return dtype


def _scaling(fields: NDArray[Any], where: object) -> tuple[float, float]:
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise InputError(f"expected a finite scaling, got slope {slope} and intercept {intercept}", where=where)
    return slope, intercept


def _voxel_offset(fields: NDArray[Any], least: int, where: object) -> int:
    offset = float(fields["vox_offset"])
    if offset == 0:
        return least  # not set; the format allows no less in a single file
    if not np.isfinite(offset) or offset != int(offset) or offset < least:
        raise InputError(f"expected voxels to begin at byte {least} or later, the header says {offset}", where=where)
    return int(offset)
