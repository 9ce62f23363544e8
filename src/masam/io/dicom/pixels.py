"""DICOM in: the series of a folder to a Volume in the units of the scanner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError
from masam.io import gate
from masam.io.dicom.decoder import decode
from masam.io.dicom.frames import Frame, PixelLayout
from masam.io.dicom.series import Stack, read_stack
from masam.volume import Volume


def read_dicom(path: Path, series: str | None = None) -> Volume:
    """Read a series of DICOM images; :func:`masam.io.dicom.series.read_stack` tells what is accepted.

    Args:
        path: Folder, which is searched with the folders in it, or one DICOM file.
        series: Which series, where there are several: the digits that masam lists, the number, or the UID.

    Returns:
        float32 in rescaled units (Hounsfield in CT), axes columns, rows, slices, in the RAS frame.

    Raises:
        InputError: A file is refused, or the slices make no volume.
        ConfigError: None or several are chosen by ``series``.
        ResourceError: A package is missing, memory does not suffice, or the system did not let us read.
    """
    return read_pixels(read_stack(path, series))


def read_pixels(stack: Stack) -> Volume:
    """Read the voxels of a series that has been judged.

    MONOCHROME1 is turned round (the largest number becomes the smallest) before the scaling, as SimpleITK does. Voxels
    of the padding value get the smallest value of the others.

    Args:
        stack: Slices in order, with their geometry.

    Returns:
        float32 in rescaled units, axes columns, rows, slices.

    Raises:
        InputError: Pixels are damaged, all padding, or too large for float32.
        ResourceError: A decoder is missing, memory does not suffice, or the system did not let us read.
    """
    root = stack.series.root
    with gate.os_errors(root):
        array = np.empty(stack.shape, np.float32, order="F")
    is_padded = False
    for k, (frame, stored) in enumerate(zip(stack.frames, stored_numbers(stack.frames), strict=True)):
        values, outside = _units(frame, stored)
        if not np.isfinite(values).all():
            raise InputError("its values do not fit into float32 after the scaling", where=frame.name)
        if outside is not None and outside.any():
            values[outside] = np.nan
            is_padded = True
        array[..., k] = values.T  # columns, rows
    if is_padded:
        inside = np.fmin.reduce(array, axis=None)
        if np.isnan(inside):
            raise InputError("all voxels are padding", where=root)
        array[np.isnan(array)] = inside
    return Volume(array, stack.geometry)


def stored_numbers(frames: Sequence[Frame]) -> Iterator[NDArray[np.int64]]:
    """Yield the stored numbers [rows, columns] of each frame.

    Args:
        frames: Frames of one or several files.

    Raises:
        InputError: Pixels are damaged.
        ResourceError: A decoder is missing, or the system did not let us read.
    """
    compressed = iter(
        decode([frame for frame in frames if _is_compressed(frame)]) if any(map(_is_compressed, frames)) else ()
    )
    for frame in frames:
        yield _meant(next(compressed) if _is_compressed(frame) else _native(frame), frame.layout)


def _is_compressed(frame: Frame) -> bool:
    return frame.file.pixels is not None and frame.file.pixels.encapsulated


def _native(frame: Frame) -> NDArray[np.int64]:
    layout = frame.layout
    data = frame.file.read_pixels(frame.index * layout.frame_bytes, layout.frame_bytes)
    order = ">" if frame.file.big_endian else "<"
    dtype = np.dtype(f"{order}u{layout.bits_allocated // 8}")
    return np.frombuffer(data, dtype).reshape(layout.rows, layout.columns).astype(np.int64)


def _meant(stored: NDArray[np.int64], layout: PixelLayout) -> NDArray[np.int64]:
    """Keep the bits that hold the number (older files put an overlay into the others), with its sign."""
    stored = stored & ((1 << layout.bits_stored) - 1)
    if layout.signed:
        stored -= (stored >> (layout.bits_stored - 1)) << layout.bits_stored
    return stored


def _units(frame: Frame, stored: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Return the slice in the scanner's units, and where it is padding."""
    layout = frame.layout
    outside = None
    if layout.padding is not None:
        outside = (stored >= layout.padding[0]) & (stored <= layout.padding[1])
    if layout.inverted:
        stored = (-1 if layout.signed else (1 << layout.bits_stored) - 1) - stored
    with np.errstate(over="ignore", invalid="ignore"):
        return (stored * frame.slope + frame.intercept).astype(np.float32), outside
