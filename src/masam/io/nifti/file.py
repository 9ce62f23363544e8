"""NIfTI files in and out: a verified buffer to a Volume, and a Volume to a file that was read back before it counts."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from masam import atomic
from masam.errors import ConfigError, InputError
from masam.io import gate
from masam.io.nifti.header import HEADER_BYTES, Header, encode_header, parse_header, same_place
from masam.volume import Geometry, Volume

ENDINGS = (".nii.gz", ".nii")
"""File name endings of NIfTI files."""

MAX_LABEL = 65535
"""Largest value of a label file: what uint16 holds, and far beyond any label scheme."""

# zlib on one core: labels 132 MB/s to 8.9 % of their size (level 1: 204 MB/s, 12.1 %; level 6: 42 MB/s, 7.7 %); a noisy
# int16 image 33 MB/s to 72 %, the same at every level from 1 to 6.
GZIP_LEVEL = 4


def read_volume(
    path: Path,
    *,
    channels: int | None = 1,
    dtype: DTypeLike = np.float32,
    prefer_sform: bool = False,
    assume_orientation: str | None = None,
    nan_fill: float | None = None,
    max_bytes: int = gate.MAX_VOLUME_BYTES,
) -> Volume:
    """Read an image.

    Args:
        path: ``.nii`` or ``.nii.gz``, NIfTI-1 or NIfTI-2; ``nifti_header`` says what is accepted.
        channels: How many the file must hold along its fourth axis; 1 is a file of three axes, None accepts any number.
        dtype: Floating type of the result; scaling is done in float64 and rounded once.
        prefer_sform: Where qform and sform disagree, take the sform.
        assume_orientation: Letters such as ``"RAS"`` for a file without any transform.
        nan_fill: Value for voxels that are not finite (NaN, infinite, beyond ``dtype``); None refuses them.
        max_bytes: Largest (inflated) file accepted.

    Returns:
        The values in the axis order of the file (Fortran order in memory), with a fourth axis if there are several
        channels, and their geometry.

    Raises:
        InputError: The file is damaged, contradicts itself or is not supported.
        ConfigError: An argument is out of its range.
        ResourceError: Memory does not suffice, or the system did not let us read.
    """
    target = np.dtype(dtype)
    if target.kind != "f":
        raise ConfigError(f"expected a floating type, got {target.name}", where="dtype")
    if nan_fill is not None and not np.isfinite(nan_fill):
        raise ConfigError(f"expected a finite value, got {nan_fill}", where="nan_fill")
    header, stored = _read(path, channels, prefer_sform, assume_orientation, max_bytes)
    array = _floating(header, stored, target, nan_fill, path)
    if header.channels > 1:
        array = array.reshape((*header.shape, header.channels), order="F")
    return Volume(array, header.geometry)


def read_channel(path: Path, index: int, channels: int) -> Volume:
    """Read one channel of a file that holds several, in the type that it is stored in.

    Args:
        path: As in :func:`read_volume`.
        index: Which channel, from 0.
        channels: How many the file must hold.

    Returns:
        Whole numbers as they are stored; floating and scaled values in float32.

    Raises:
        InputError: As in :func:`read_volume`.
        ResourceError: Memory does not suffice, or the system did not let us read.
    """
    header, stored = _read(path, channels, False, None, gate.MAX_VOLUME_BYTES)
    slices = header.shape[2]
    stored = stored[..., index * slices : (index + 1) * slices]
    if header.is_scaled or header.dtype.kind == "f":
        stored = _floating(header, stored, np.dtype(np.float32), None, path)
    return Volume(stored, header.geometry)


def read_labels(
    path: Path,
    *,
    prefer_sform: bool = False,
    assume_orientation: str | None = None,
    max_bytes: int = gate.MAX_VOLUME_BYTES,
) -> Volume:
    """Read a label file: whole numbers from 0 to 65535, stored in any type; nothing is rounded.

    Args:
        path: As in :func:`read_volume`, and so are the other arguments.
        prefer_sform: Where qform and sform disagree, take the sform.
        assume_orientation: Letters such as ``"RAS"`` for a file without any transform.
        max_bytes: Largest (inflated) file accepted.

    Returns:
        int32 values and their geometry.

    Raises:
        InputError: A value is not such a number; or as in :func:`read_volume`.
        ConfigError: ``assume_orientation`` is not an orientation.
        ResourceError: Memory does not suffice, or the system did not let us read.
    """
    header, stored = _read(path, 1, prefer_sform, assume_orientation, max_bytes)
    with gate.os_errors(path):
        array = np.empty(header.shape, np.int32, order="F")
    for k, values in enumerate(_slabs(header, stored)):
        # A NaN fails every comparison, so it is caught here with the fractions.
        good = (values >= 0) & (values <= MAX_LABEL)
        if values.dtype.kind == "f":
            good &= values == np.floor(values)
        if not good.all():
            i, j = (int(n) for n in np.argwhere(~good)[0])
            raise InputError(
                f"expected labels to be whole numbers from 0 to {MAX_LABEL}, got {values[i, j]} at voxel {(i, j, k)}",
                where=path,
                fix="is it an image, or was it resampled with interpolation?",
            )
        array[..., k] = values
    return Volume(array, header.geometry)


def read_geometry(
    path: Path, *, channels: int | None = 1, prefer_sform: bool = False, assume_orientation: str | None = None
) -> Header:
    """Read the header alone: shape, geometry and stored type, in time and memory that do not grow with the file.

    Args:
        path: As in :func:`read_volume`, and so are the other arguments.
        channels: How many the file must hold along its fourth axis; None accepts any number.
        prefer_sform: Where qform and sform disagree, take the sform.
        assume_orientation: Letters such as ``"RAS"`` for a file without any transform.

    Raises:
        InputError: The header is refused, or the file cannot hold what it declares; voxels are not looked at.
        ConfigError: ``assume_orientation`` is not an orientation.
        ResourceError: The system did not let us read.
    """
    compressed = _is_compressed(path)
    head = gate.read_head(path, HEADER_BYTES, compressed=compressed)
    header = parse_header(
        head, path, channels=channels, prefer_sform=prefer_sform, assume_orientation=assume_orientation
    )
    gate.check_declared_size(path, header.file_bytes, compressed=compressed)
    return header


def write_volume(path: Path, volume: Volume) -> None:
    """Write a volume, the same bytes for the same volume on every run.

    Whole numbers keep their type (bool becomes uint8), floating types become float32. The affine goes into sform and
    qform, each with the code that the geometry has; see :func:`masam.io.nifti.header.encode_header`.

    Args:
        path: Ends in ``.nii`` or ``.nii.gz``.
        volume: What to write; all values finite.

    Raises:
        InputError: Another ending, a type NIfTI has not, values that are not finite, or a geometry it cannot hold.
        ResourceError: The file cannot be written, or did not read back voxel for voxel.
    """
    compressed = _is_compressed(path)
    array = _storable(volume.array, path)
    head = encode_header(volume.shape, array.dtype, volume.geometry, path)

    def write(temporary: Path) -> None:
        # zlib's gzip header holds no time and no name, which makes the file reproducible.
        packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS) if compressed else None
        with temporary.open("wb") as file:
            for block in _blocks(head, array):
                file.write(packer.compress(block) if packer else block)
            if packer:
                file.write(packer.flush())

    def verify(temporary: Path) -> None:
        _check_written(temporary, array, volume.geometry)

    atomic.write_with(path, write, verify)


def _is_compressed(path: Path) -> bool:
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        raise InputError("expected a name that ends in .nii or .nii.gz", where=path, fix="convert the file to NIfTI")
    return name.endswith(".gz")


def _read(
    path: Path, channels: int | None, prefer_sform: bool, assume_orientation: str | None, max_bytes: int
) -> tuple[Header, NDArray[np.generic]]:
    """Return what the header says and the stored voxels [I, J, K * C], a channel's slices after the other's."""

    def parse(head: bytes) -> Header:
        return parse_header(
            head, path, channels=channels, prefer_sform=prefer_sform, assume_orientation=assume_orientation
        )

    buffer = gate.read_sized(
        path, HEADER_BYTES, lambda head: parse(head).file_bytes, compressed=_is_compressed(path), max_bytes=max_bytes
    )
    header = parse(buffer[:HEADER_BYTES].tobytes())
    i, j, k = header.shape
    shape = (i, j, k * header.channels)
    return header, np.ndarray(shape, header.dtype, buffer=buffer, offset=header.offset, order="F")


def _floating(
    header: Header, stored: NDArray[Any], target: np.dtype[Any], nan_fill: float | None, path: Path
) -> NDArray[Any]:
    """Return stored voxels as values of a floating type, all finite."""
    with gate.os_errors(path):
        array: NDArray[Any] = np.empty(stored.shape, target, order="F")
    wrong = 0
    for k, values in enumerate(_slabs(header, stored)):
        with np.errstate(over="ignore", invalid="ignore"):
            array[..., k] = values
        not_finite = ~np.isfinite(array[..., k])
        wrong += int(np.count_nonzero(not_finite))
        if nan_fill is not None:
            array[..., k][not_finite] = nan_fill
    if wrong and (nan_fill is None or wrong == array.size):
        raise InputError(
            f"{wrong} of {array.size} voxels are not finite in {target.name} (NaN, infinite or too large)",
            where=path,
            fix="repair the file, or say with nan_fill what they shall be" if wrong < array.size else "export it again",
        )
    return array


def _slabs(header: Header, stored: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the values of each slice; slice by slice, so that float64 never exists for the whole volume."""
    for k in range(stored.shape[2]):
        slab = stored[..., k]
        if header.is_scaled:
            with np.errstate(over="ignore", invalid="ignore"):
                slab = slab.astype(np.float64) * header.slope + header.intercept
        yield slab


def _storable(array: NDArray[np.generic], path: Path) -> NDArray[Any]:
    kind = array.dtype.kind
    if kind not in "biuf":
        raise InputError(f"expected real numbers to write, got {array.dtype.name}", where=path)
    if kind == "f":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise InputError(
                "expected finite float32 values to write", where=path, fix="remove NaN and infinite values"
            )
    target = np.dtype(np.uint8) if kind == "b" else array.dtype.newbyteorder("<")
    return array.astype(target, copy=False)


def _blocks(head: bytes, array: NDArray[Any]) -> Iterator[bytes]:
    yield head
    for k in range(array.shape[2]):
        yield array[..., k].tobytes(order="F")


def _check_written(path: Path, array: NDArray[Any], geometry: Geometry) -> None:
    header, stored = _read(path, 1, False, None, gate.MAX_VOLUME_BYTES)
    if header.shape != array.shape or header.dtype != array.dtype or header.is_scaled:
        raise InputError(f"got {header.shape} {header.dtype}, expected {array.shape} {array.dtype}", where=path)
    if not same_place(header.geometry, geometry, header.shape):
        raise InputError("the affine differs", where=path)
    if not np.array_equal(stored, array):
        raise InputError("voxels differ", where=path)
