"""Prepared training cases on disk, from which any window of slices is read without touching the rest.

A case is a folder named by what is in it: a hash of the sources' bytes and of the settings. It is made aside and
renamed when it is complete, so that other processes and later runs see all of it or nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from masam.atomic import STALE_AFTER_S, is_running
from masam.errors import InputError, MasamError, ResourceError
from masam.labels import LabelScheme

FORMAT_VERSION = 2
"""Part of the hash; it goes up when anything changes that a cached voxel depends on."""

# Intensities are stored as whole numbers 0..65535. On one million values spread over 0..1 the largest rounding error is
# 7.6e-6, where float16 in the same two bytes has 2.4e-4 and float32 takes twice the disk and page cache.
_IMAGE_LEVELS = 65535
_IMAGE_TYPES, _LABEL_TYPES = ("uint16",), ("int8", "int16")

_PARTIAL = ".partial-"


@runtime_checkable
class SourceFiles(Protocol):
    """What the cache needs to know of a case; ``io.cases.Case`` has it."""

    @property
    def id(self) -> str:
        """Name of the case."""

    @property
    def images(self) -> tuple[Path, ...]:
        """One file a channel."""

    @property
    def label(self) -> Path | None:
        """Label file."""


@runtime_checkable
class LabelSlices(Protocol):
    """Prepared labels, slice after slice."""

    @property
    def depth(self) -> int:
        """Number of slices."""

    def slice(self, index: int) -> NDArray[np.integer]:
        """Return label values [H, W] of a slice at the model's size."""


@runtime_checkable
class ImageSlices(Protocol):
    """A prepared volume or video, slice after slice."""

    @property
    def depth(self) -> int:
        """Number of slices."""

    @property
    def channels(self) -> int:
        """Number of image channels."""

    def slice(self, index: int) -> NDArray[np.float32]:
        """Return a slice [C, H, W] at the model's size, 0 to 1."""

    def labels(self, reference: Any) -> LabelSlices:
        """Bring labels into the same form."""


@runtime_checkable
class Preparation(Protocol):
    """How a case is prepared: ``Preprocessing`` of volumes, or ``FramePreparation`` of videos."""

    @property
    def image_size(self) -> int:
        """Rows and columns of a prepared slice."""

    @property
    def facts(self) -> dict[str, Any]:
        """Return all that decides what comes out, as JSON has it."""

    def prepare(self, image: Any) -> ImageSlices:
        """Prepare what was loaded."""


Case = TypeVar("Case", bound=SourceFiles)


@dataclass(frozen=True)
class PreparedCase:
    """One cached case; its files are opened when a window is read, so that it costs nothing to hold.

    Attributes:
        case_id: Name of the case.
        folder: Where it is stored.
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
        """Read some slices, in any order, repetitions included.

        Args:
            slices: S slice indices, 0 to ``depth`` - 1.

        Returns:
            Intensities [S, C, H, W], 0 to 1, and classes [S, H, W] in the 8 or 16 bits in which they are stored, -100
            where the voxel has no label.

        Raises:
            InputError: An index is out of range, or the stored files are damaged.
        """
        if not slices or min(slices) < 0 or max(slices) >= self.depth:
            raise InputError(f"expected slices from 0 to {self.depth - 1}, got {list(slices)}", where=self.case_id)
        images = self._read("images.npy", _IMAGE_TYPES, (self.depth, self.channels, *self._sides), slices)
        labels = self._read("labels.npy", _LABEL_TYPES, (self.depth, *self._sides), slices)
        return np.divide(images, np.float32(_IMAGE_LEVELS), dtype=np.float32), labels

    @property
    def _sides(self) -> tuple[int, int]:
        return self.image_size, self.image_size

    def _read(self, name: str, types: tuple[str, ...], shape: tuple[int, ...], slices: Sequence[int]) -> NDArray[Any]:
        """Read some slices of a file that has to hold an array of that shape, of one of these types.

        Not through a memory map: where a file is cut off or its disk is gone, that ends the process with a bus error.
        """
        path = self.folder / name
        try:
            with path.open("rb") as file:
                np.lib.format.read_magic(file)
                found, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
                if found != shape or by_columns or dtype.name not in types:
                    raise ValueError(f"shape {found} of {dtype}{' by columns' if by_columns else ''}")
                start = file.tell()
                rows = np.empty((len(slices), *shape[1:]), dtype)
                for row, index in zip(rows, slices, strict=True):
                    file.seek(start + index * row.nbytes)
                    if file.readinto(row) != row.nbytes:
                        raise EOFError(f"it ends before slice {index} does")
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"the cached case is damaged ({error})", where=path, fix="delete its folder") from error
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
    """Return all cases from the cache, preparing those that are not in it.

    Any number of processes may do so at once; the one that finishes a case first wins, the others use its folder.

    Args:
        cases: The cases; their files' bytes decide whether the cache still holds.
        load: Reads the image and the labels of a case, as ``preparation`` takes them.
        preparation: How they are prepared.
        scheme: Which label value is which channel.
        cache_root: Folder of the cache; it is made if need be.
        progress: Called after each case.
        load_options: How ``load`` reads, where that decides what it returns (a fill value, say); part of the hash.

    Raises:
        InputError: A case is refused; the message names it.
        ResourceError: The cache cannot be written.
    """
    with _disk_errors(cache_root):
        cache_root.mkdir(parents=True, exist_ok=True)
        _remove_left_overs(cache_root)
    prepared = []
    for case in cases:
        folder = cache_root / _key(case, preparation, scheme, load_options)
        if not folder.is_dir():
            _build(case, load, preparation, scheme, folder)
        prepared.append(_open(case.id, folder))
        if progress is not None:
            progress(case)
    return prepared


def _key(case: SourceFiles, preparation: Preparation, scheme: LabelScheme, load_options: str) -> str:
    """Hash all that decides what the prepared arrays hold."""
    sources = []
    for path in (*case.images, *([case.label] if case.label else [])):
        # A DICOM series is a folder, and so are the frames of a video.
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        sources += [[file.name, _sha256(file, case.id)] for file in files]
    facts = {
        "format": FORMAT_VERSION,
        "sources": sources,
        "load_options": load_options,
        **preparation.facts,
        "labels": scheme.to_mapping(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:40]


def _sha256(path: Path, case_id: str) -> str:
    if not path.is_file():
        raise InputError(f"expected a file of case {case_id}, found none", where=path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"a file of case {case_id} cannot be read ({error})", where=path) from error


def _build(
    case: Case,
    load: Callable[[Case], tuple[Any, Any]],
    preparation: Preparation,
    scheme: LabelScheme,
    folder: Path,
) -> None:
    """Prepare one case aside and rename it to its folder."""
    try:
        image, labels = load(case)
        if labels is None:
            raise InputError("expected labels to train on, found none")
        prepared = preparation.prepare(image)
        reference = prepared.labels(labels)
    except MasamError as error:
        if error.where and case.id in error.where:
            raise
        raise type(error)(
            error.what, where=f"{case.id}: {error.where}" if error.where else case.id, fix=error.fix
        ) from error
    with _disk_errors(folder):
        partial = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}{platform.node()}-{os.getpid()}-", dir=folder.parent))
        try:
            _write_images(partial / "images.npy", prepared, preparation.image_size)
            _write_labels(partial / "labels.npy", reference, preparation.image_size, scheme, case.id)
            _sync(partial)
            try:
                partial.rename(folder)
            except OSError:
                # Renaming onto a folder with content fails: another process has finished the same case.
                if not folder.is_dir():
                    raise
            _sync(folder.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _write_images(path: Path, images: ImageSlices, image_size: int) -> None:
    def rows() -> Iterator[NDArray[np.generic]]:
        for index in range(images.depth):
            yield np.rint(images.slice(index) * np.float32(_IMAGE_LEVELS)).astype(np.uint16)

    _write_npy(path, (images.depth, images.channels, image_size, image_size), np.dtype(np.uint16), rows())


def _write_labels(path: Path, labels: LabelSlices, image_size: int, scheme: LabelScheme, case_id: str) -> None:
    # The ignore index, -100, fits in both.
    dtype = np.dtype(np.int8 if scheme.num_classes <= 127 else np.int16)

    def rows() -> Iterator[NDArray[np.generic]]:
        for index in range(labels.depth):
            yield scheme.to_channels(labels.slice(index), where=case_id).astype(dtype)

    _write_npy(path, (labels.depth, image_size, image_size), dtype, rows())


def _write_npy(
    path: Path, shape: tuple[int, ...], dtype: np.dtype[np.generic], rows: Iterator[NDArray[np.generic]]
) -> None:
    """Write an array slice by slice.

    Not through a memory map: on a full disk that ends the process with a bus error, where a write raises.
    """
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with path.open("xb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for row in rows:
            file.write(row.tobytes())
        file.flush()
        os.fsync(file.fileno())


def _open(case_id: str, folder: Path) -> PreparedCase:
    path = folder / "images.npy"
    try:
        depth, channels, image_size, _ = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"the cached case is damaged ({error})", where=path, fix="delete its folder") from error
    case = PreparedCase(case_id, folder, depth, image_size, channels)
    case.read_window([depth - 1])
    return case


def _remove_left_overs(cache_root: Path) -> None:
    """Delete what killed processes left behind: those of this machine that run no more, and all older than a day."""
    mark = f"{_PARTIAL}{platform.node()}-"
    for folder in cache_root.glob(f"{_PARTIAL}*"):
        process = folder.name.removeprefix(mark).split("-")[0]
        ended = folder.name.startswith(mark) and process.isdecimal() and not is_running(int(process))
        # Another process may finish or remove its folder between our looking and our removing.
        with suppress(FileNotFoundError):
            if ended or time.time() - folder.stat().st_mtime > STALE_AFTER_S:
                shutil.rmtree(folder, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems cannot flush a folder; the files in it are flushed already.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"the cache cannot be written ({error})", where=where, fix="free space, or choose another cache folder"
        ) from error
