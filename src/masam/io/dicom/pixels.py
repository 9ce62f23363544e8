"""Read the voxels of a DICOM series in the units of the scanner."""

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
    """Read a series of DICOM images as float32 values in rescaled units (Hounsfield units for CT).

    The axes are columns, rows, slices, in the RAS frame. For the arguments see
    :func:`masam.io.dicom.series.choose_series`.
    """
    return read_pixels(read_stack(path, series))


def read_pixels(stack: Stack) -> Volume:
    """Read the voxels of a series as float32 values in rescaled units, axes columns, rows, slices.

    MONOCHROME1 is inverted (the largest value becomes the smallest) before scaling, as in SimpleITK. Padding voxels get
    the smallest of the other values.
    """
    root = stack.series.root
    with gate.os_errors(root):
        array = np.empty(stack.shape, np.float32, order="F")
    has_padding = False
    for k, (frame, stored) in enumerate(zip(stack.frames, stored_numbers(stack.frames), strict=True)):
        values, is_padding = _to_units(frame, stored)
        if not np.isfinite(values).all():
            raise InputError("rescaled values are too large for float32", where=frame.name)
        if is_padding is not None and is_padding.any():
            values[is_padding] = np.nan
            has_padding = True
        array[..., k] = values.T  # columns, rows
    if has_padding:
        smallest = np.fmin.reduce(array, axis=None)
        if np.isnan(smallest):
            raise InputError("all voxels are padding", where=root)
        array[np.isnan(array)] = smallest
    return Volume(array, stack.geometry)


def stored_numbers(frames: Sequence[Frame]) -> Iterator[NDArray[np.int64]]:
    """Yield the stored values [rows, columns] of each frame of one or several files."""
    encapsulated = [frame for frame in frames if _is_encapsulated(frame)]
    decoded = iter(decode(encapsulated) if encapsulated else ())
    for frame in frames:
        yield _used_bits(next(decoded) if _is_encapsulated(frame) else _native(frame), frame.layout)


def _is_encapsulated(frame: Frame) -> bool:
    return frame.file.pixels is not None and frame.file.pixels.encapsulated


def _native(frame: Frame) -> NDArray[np.int64]:
    layout = frame.layout
    data = frame.file.read_pixels(frame.index * layout.frame_bytes, layout.frame_bytes)
    dtype = np.dtype(f"{'>' if frame.file.big_endian else '<'}u{layout.bits_allocated // 8}")
    return np.frombuffer(data, dtype).reshape(layout.rows, layout.columns).astype(np.int64)


def _used_bits(stored: NDArray[np.int64], layout: PixelLayout) -> NDArray[np.int64]:
    """Return the value of the stored bits, with sign; older files use the other bits for an overlay."""
    stored = stored & ((1 << layout.bits_stored) - 1)
    if layout.signed:
        stored -= (stored >> (layout.bits_stored - 1)) << layout.bits_stored
    return stored


def _to_units(frame: Frame, stored: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """Return a slice in the units of the scanner, and the mask of its padding."""
    layout = frame.layout
    is_padding = None
    if layout.padding is not None:
        is_padding = (stored >= layout.padding[0]) & (stored <= layout.padding[1])
    if layout.inverted:
        stored = (-1 if layout.signed else (1 << layout.bits_stored) - 1) - stored
    with np.errstate(over="ignore", invalid="ignore"):
        return (stored * frame.slope + frame.intercept).astype(np.float32), is_padding
