"""Read NIfTI files as Volumes, and write Volumes as NIfTI files that are read back and compared."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import DTypeLike, NDArray

from masam import atomic
from masam.errors import ConfigError, InputError
from masam.io import gate
from masam.io.nifti.header import HEADER_BYTES, Header, encode_header, parse_header, same_geometry
from masam.io.nifti.transform import TransformOptions
from masam.volume import Geometry, Volume

ENDINGS = (".nii.gz", ".nii")
"""File name endings of NIfTI files."""

MAX_LABEL = 65535
"""Largest value of a label file, the maximum of uint16."""

# zlib on one core: labels 132 MB/s to 8.9 % of their size (level 1: 204 MB/s, 12.1 %; level 6: 42 MB/s, 7.7 %); a noisy
# int16 image 33 MB/s to 72 %, the same at every level from 1 to 6.
GZIP_LEVEL = 4


def read_volume(
    path: Path,
    *,
    channels: int | None = 1,
    dtype: DTypeLike = np.float32,
    nan_fill: float | None = None,
    max_bytes: int = gate.MAX_VOLUME_BYTES,
    on_note: Callable[[str], None] | None = None,
    **transform: Unpack[TransformOptions],
) -> Volume:
    """Read an image.

    Args:
        path: ``.nii`` or ``.nii.gz`` file, NIfTI-1 or NIfTI-2; see :mod:`masam.io.nifti.header`.
        channels: Required length of the fourth axis; 1 is a file with three axes, None accepts any number.
        dtype: Floating-point type of the result; scaling is computed in float64.
        nan_fill: Value for voxels that are not finite in ``dtype``; by default they are refused.
        max_bytes: Maximum size of the uncompressed file.
        on_note: Receives notes on what is unusual, one line each.
        **transform: See :class:`masam.io.nifti.transform.TransformOptions`.

    Returns:
        Values in the axis order of the file (Fortran order in memory) with a fourth axis if there are several
        channels, and their geometry.

    Raises:
        InputError: The file is damaged, inconsistent or not supported.
        ConfigError: An argument is out of range.
    """
    target = np.dtype(dtype)
    if target.kind != "f":
        raise ConfigError(f"expected a floating-point type, got {target.name}", where="dtype")
    if nan_fill is not None and not np.isfinite(nan_fill):
        raise ConfigError(f"expected a finite value, got {nan_fill}", where="nan_fill")
    header, stored = _read(path, channels, max_bytes, transform)
    if on_note is not None:
        for note in header.notes:
            on_note(f"{path}: {note}")
    array = _to_float(header, stored, target, nan_fill, path)
    if header.channels > 1:
        array = array.reshape((*header.shape, header.channels), order="F")
    return Volume(array, header.geometry)


def read_channel(path: Path, index: int, channels: int) -> Volume:
    """Read channel ``index`` of a file with ``channels`` channels, integers in their stored type, others as float32."""
    header, stored = _read(path, channels)
    slices = header.shape[2]
    stored = stored[..., index * slices : (index + 1) * slices]
    if header.is_scaled or header.dtype.kind == "f":
        stored = _to_float(header, stored, np.dtype(np.float32), None, path)
    return Volume(stored, header.geometry)


def read_labels(path: Path, *, max_bytes: int = gate.MAX_VOLUME_BYTES, **transform: Unpack[TransformOptions]) -> Volume:
    """Read a label file as int32: integers from 0 to 65535, stored in any type; other values are refused, not rounded.

    The arguments are those of :func:`read_volume`.
    """
    header, stored = _read(path, 1, max_bytes, transform)
    with gate.os_errors(path):
        array = np.empty(header.shape, np.int32, order="F")
    for k, values in enumerate(_slices(header, stored)):
        # NaN fails every comparison and is caught here as well.
        is_valid = (values >= 0) & (values <= MAX_LABEL)
        if values.dtype.kind == "f":
            is_valid &= values == np.floor(values)
        if not is_valid.all():
            i, j = (int(n) for n in np.argwhere(~is_valid)[0])
            raise InputError(
                f"expected labels to be integers from 0 to {MAX_LABEL}, got {values[i, j]} at voxel {(i, j, k)}",
                where=path,
                fix="check whether it is an image, or was resampled with interpolation",
            )
        array[..., k] = values
    return Volume(array, header.geometry)


def read_geometry(path: Path, *, channels: int | None = 1, **transform: Unpack[TransformOptions]) -> Header:
    """Read only the header, and compare the size that it declares with that of the file; voxels are not checked."""
    compressed = _is_compressed(path)
    head = gate.read_head(path, HEADER_BYTES, compressed=compressed)
    header = parse_header(head, path, channels=channels, **transform)
    gate.check_declared_size(path, header.file_bytes, compressed=compressed)
    return header


def write_volume(path: Path, volume: Volume) -> None:
    """Write a volume of finite values as ``.nii`` or ``.nii.gz``. The same volume always gives the same bytes.

    Integers keep their type (bool becomes uint8), floating-point values become float32. For sform and qform see
    :func:`masam.io.nifti.header.encode_header`.

    Raises:
        InputError: The ending, type, values or geometry cannot be written as NIfTI.
        ResourceError: The file cannot be written, or differs from the volume when read back.
    """
    compressed = _is_compressed(path)
    array = _to_storable(volume.array, path)
    head = encode_header(volume.shape, array.dtype, volume.geometry, path)

    def write(temporary: Path) -> None:
        # The gzip header of zlib contains neither time nor name, so the file is reproducible.
        compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS) if compressed else None
        with temporary.open("wb") as file:
            for block in _blocks(head, array):
                file.write(compressor.compress(block) if compressor else block)
            if compressor:
                file.write(compressor.flush())

    atomic.write_with(path, write, lambda temporary: _require_equal(temporary, array, volume.geometry))


def _is_compressed(path: Path) -> bool:
    name = path.name.lower()
    if not name.endswith(ENDINGS):
        raise InputError("expected a .nii or .nii.gz file", where=path, fix="convert the file to NIfTI")
    return name.endswith(".gz")


def _read(
    path: Path, channels: int | None, max_bytes: int = gate.MAX_VOLUME_BYTES, transform: TransformOptions | None = None
) -> tuple[Header, NDArray[np.generic]]:
    """Return the header and the stored voxels [I, J, K * C], channel after channel."""

    def parse(head: bytes) -> Header:
        return parse_header(head, path, channels=channels, **(transform or {}))

    buffer = gate.read_sized(
        path, HEADER_BYTES, lambda head: parse(head).file_bytes, compressed=_is_compressed(path), max_bytes=max_bytes
    )
    header = parse(buffer[:HEADER_BYTES].tobytes())
    i, j, k = header.shape
    shape = (i, j, k * header.channels)
    return header, np.ndarray(shape, header.dtype, buffer=buffer, offset=header.offset, order="F")


def _to_float(
    header: Header, stored: NDArray[Any], target: np.dtype[Any], nan_fill: float | None, path: Path
) -> NDArray[Any]:
    """Return the values of stored voxels in a floating-point type, all finite."""
    with gate.os_errors(path):
        array: NDArray[Any] = np.empty(stored.shape, target, order="F")
    count = 0
    for k, values in enumerate(_slices(header, stored)):
        with np.errstate(over="ignore", invalid="ignore"):
            array[..., k] = values
        not_finite = ~np.isfinite(array[..., k])
        count += int(np.count_nonzero(not_finite))
        if nan_fill is not None:
            array[..., k][not_finite] = nan_fill
    if count and (nan_fill is None or count == array.size):
        raise InputError(
            f"{count} of {array.size} voxels are not finite in {target.name} (NaN, infinite or too large)",
            where=path,
            fix="repair the file, or give a replacement value to masam predict or check, as in --nan-fill 0"
            if count < array.size
            else "export it again",
        )
    return array


def _slices(header: Header, stored: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the values of each slice; only one slice is held in float64."""
    for k in range(stored.shape[2]):
        values = stored[..., k]
        if header.is_scaled:
            with np.errstate(over="ignore", invalid="ignore"):
                values = values.astype(np.float64) * header.slope + header.intercept
        yield values


def _to_storable(array: NDArray[np.generic], path: Path) -> NDArray[Any]:
    kind = array.dtype.kind
    if kind not in "biuf":
        raise InputError(f"cannot write values of type {array.dtype.name}, expected real numbers", where=path)
    if kind == "f":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise InputError(
                "cannot write values that are not finite in float32", where=path, fix="remove NaN and infinite values"
            )
    target = np.dtype(np.uint8) if kind == "b" else array.dtype.newbyteorder("<")
    return array.astype(target, copy=False)


def _blocks(head: bytes, array: NDArray[Any]) -> Iterator[bytes]:
    yield head
    for k in range(array.shape[2]):
        yield array[..., k].tobytes(order="F")


def _require_equal(path: Path, array: NDArray[Any], geometry: Geometry) -> None:
    header, stored = _read(path, 1)
    if header.shape != array.shape or header.dtype != array.dtype or header.is_scaled:
        raise InputError(f"got {header.shape} {header.dtype}, expected {array.shape} {array.dtype}", where=path)
    if not same_geometry(header.geometry, geometry, header.shape):
        raise InputError("the affine differs", where=path)
    if not np.array_equal(stored, array):
        raise InputError("voxels differ", where=path)
