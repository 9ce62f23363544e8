"""Prepared training cases on disk, from which any window of slices can be read.

A case is a folder whose name is a hash of the source files and all settings. It is written to a temporary folder and
renamed when complete, so that other processes and later runs see it completely or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from masam import atomic
from masam.errors import InputError, MasamError, ResourceError
from masam.labels import LabelScheme
from masam.preprocess.frames import FramePreparation
from masam.preprocess.pipeline import Preprocessing

FORMAT_VERSION = 2
"""Part of the hash; increased when the content of cached cases changes for other reasons than their settings."""

# Intensities are stored as integers 0..65535. On one million values spread over 0..1 the largest rounding error is
# 7.6e-6, where float16 in the same two bytes has 2.4e-4 and float32 takes twice the disk and page cache.
_IMAGE_LEVELS = 65535
_IMAGE_TYPES, _LABEL_TYPES = ("uint16",), ("int8", "int16")


@runtime_checkable
class _SourceFiles(Protocol):
    """The files of a case, such as :class:`masam.cases.case.Case`."""

    @property
    def id(self) -> str: ...
    @property
    def images(self) -> tuple[Path, ...]: ...
    @property
    def label(self) -> Path | None: ...


Case = TypeVar("Case", bound=_SourceFiles)
Preparation: TypeAlias = Preprocessing | FramePreparation


@dataclass(frozen=True)
class PreparedCase:
    """A cached case; its files are opened only while a window is read.

    Attributes:
        case_id: Name of the case.
        folder: Folder of the cached files.
        depth: Number of slices D.
        image_size: Rows and columns of a slice.
        channels: Number of image channels C.
    """

    case_id: str
    folder: Path
    depth: int
    image_size: int
    channels: int = 1

    def read_window(self, slices: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.signedinteger]]:
        """Read S slices with indices from 0 to ``depth`` - 1, in any order and with repetitions.

        Returns:
            Intensities [S, C, H, W], 0 to 1, and class indices [S, H, W] as int8 or int16, -100 for voxels without a
            label.
        """
        if not slices or min(slices) < 0 or max(slices) >= self.depth:
            raise InputError(f"expected slices from 0 to {self.depth - 1}, got {list(slices)}", where=self.case_id)
        size = (self.image_size, self.image_size)
        images = self._read("images.npy", _IMAGE_TYPES, (self.depth, self.channels, *size), slices)
        labels = self._read("labels.npy", _LABEL_TYPES, (self.depth, *size), slices)
        return np.divide(images, np.float32(_IMAGE_LEVELS), dtype=np.float32), labels

    def _read(self, name: str, types: tuple[str, ...], shape: tuple[int, ...], slices: Sequence[int]) -> NDArray[Any]:
        """Read slices of an array with the given shape and one of the given types.

        A memory map would end the process with a bus error if the file is truncated or its disk is gone.
        """
        with _open_cached(self.folder / name) as file:
            found, fortran_order, dtype = _read_npy_header(file)
            if found != shape or fortran_order or dtype.name not in types:
                raise ValueError(f"shape {found} of {dtype}{' in Fortran order' if fortran_order else ''}")
            start = file.tell()
            rows = np.empty((len(slices), *shape[1:]), dtype)
            for row, index in zip(rows, slices, strict=True):
                file.seek(start + index * row.nbytes)
                if file.readinto(row) != row.nbytes:
                    raise EOFError(f"it ends before slice {index} does")
        return rows


def prepare_cases(
    cases: Sequence[Case],
    load: Callable[[Case], tuple[Any, Any]],
    preparation: Preparation,
    scheme: LabelScheme,
    cache_root: Path,
    progress: Callable[[Case], None] | None = None,
    load_options: str = "",
) -> list[PreparedCase]:
    """Return all cases from the cache, and prepare those that are missing.

    Several processes may do so at the same time; they all use the folder of the one that finishes a case first.

    Args:
        cases: The cases; the content of their files is part of the cache key.
        load: Returns image and labels of a case as expected by ``preparation``.
        preparation: How to prepare the cases.
        scheme: Maps label values to class indices.
        cache_root: Cache folder, created if missing.
        progress: Called after each case.
        load_options: Options of ``load`` that affect its result, as part of the cache key.
    """
    atomic.remove_stale(cache_root)
    prepared = []
    for case in cases:
        folder = cache_root / _cache_key(case, preparation, scheme, load_options)
        if not folder.is_dir():
            _prepare(case, load, preparation, scheme, folder)
        prepared.append(_open(case.id, folder))
        if progress is not None:
            progress(case)
    return prepared


def _cache_key(case: _SourceFiles, preparation: Preparation, scheme: LabelScheme, load_options: str) -> str:
    """Return a hash of everything that affects the prepared arrays."""
    sources = []
    for path in (*case.images, *([case.label] if case.label else [])):
        # A DICOM series is a folder, and so are the frames of a video.
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        sources += [[file.name, _sha256(file, case.id)] for file in files]
    key = {
        "format": FORMAT_VERSION,
        "sources": sources,
        "load_options": load_options,
        **preparation.settings,
        "labels": scheme.to_mapping(),
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:40]


def _sha256(path: Path, case_id: str) -> str:
    if not path.is_file():
        raise InputError(f"expected a file of case {case_id}, found none", where=path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"a file of case {case_id} cannot be read ({error})", where=path) from error


def _prepare(
    case: Case, load: Callable[[Case], tuple[Any, Any]], preparation: Preparation, scheme: LabelScheme, folder: Path
) -> None:
    """Prepare one case and write it to its folder."""
    try:
        image, labels = load(case)
        if labels is None:
            raise InputError("expected labels to train on, found none")
        images = preparation.prepare(image)
        references = images.labels(labels)
    except MasamError as error:
        if error.where and case.id in error.where:
            raise
        raise type(error)(
            error.what, where=f"{case.id}: {error.where}" if error.where else case.id, fix=error.fix
        ) from error

    def write(target: Path) -> None:
        target.mkdir()
        size = (preparation.image_size, preparation.image_size)
        levels = (images.slice(index) * np.float32(_IMAGE_LEVELS) for index in range(images.depth))
        rows = (np.rint(values).astype(np.uint16) for values in levels)
        _write_npy(target / "images.npy", (images.depth, images.channels, *size), np.dtype(np.uint16), rows)
        # The ignore index, -100, fits in both types.
        dtype = np.dtype(np.int8 if scheme.num_classes <= 127 else np.int16)
        slices = (references.slice(index) for index in range(references.depth))
        channels = (scheme.to_channels(values, where=case.id).astype(dtype) for values in slices)
        _write_npy(target / "labels.npy", (references.depth, *size), dtype, channels)

    try:
        atomic.write_aside(folder, write)
    except ResourceError:
        if not folder.is_dir():  # else another process has finished the same case
            raise


def _write_npy(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], rows: Iterator[NDArray[Any]]) -> None:
    """Write an array slice by slice. On a full disk, a memory map would end the process with a bus error."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with path.open("xb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for row in rows:
            file.write(row.tobytes())


def _open(case_id: str, folder: Path) -> PreparedCase:
    with _open_cached(folder / "images.npy") as file:
        depth, channels, image_size, _ = _read_npy_header(file)[0]
    case = PreparedCase(case_id, folder, depth, image_size, channels)
    case.read_window([depth - 1])
    return case


def _read_npy_header(file: BufferedReader) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    np.lib.format.read_magic(file)
    return np.lib.format.read_array_header_1_0(file)


@contextmanager
def _open_cached(path: Path) -> Iterator[BufferedReader]:
    """Open a cached file; errors while it is read become an InputError."""
    try:
        with path.open("rb") as file:
            yield file
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"the cached case is damaged ({error})", where=path, fix="delete its folder") from error
