"""Decompress the frames of a DICOM file in a process of its own, where a codec's crash ends nothing but itself.

Codecs are C, C++ and Rust that parse bytes from outside; ``python -m masam.io.dicom.decoder`` runs them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import masam
from masam.errors import InputError, ResourceError
from masam.io import gate
from masam.io.dicom.file import DicomFile, pydicom_errors, read_header
from masam.io.dicom.frames import Frame, read_layout

FRAME_SECONDS = 60
"""Processor time that one frame may take; 512 x 512 in JPEG 2000 take 0.05 s."""

_REFUSED, _NO_DECODER, _NO_MEMORY = 3, 5, 6
_REASONS = {_REFUSED: "it is damaged", _NO_MEMORY: "it takes too much memory"}
_STORED = np.dtype("<i8")
_BASE_BYTES, _CODEC_RATIO = 4 * 2**30, 64
# Each thread of a numerical library reserves addresses, and there is a limit on those.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def decode(frames: Sequence[Frame]) -> Iterator[NDArray[np.int64]]:
    """Yield the stored numbers [rows, columns] of compressed frames, in their order.

    Args:
        frames: Slices of one or several files, one transfer syntax each.

    Raises:
        InputError: A codec refused the data, ran out of its time or memory, or crashed.
        ResourceError: There is no decoder for the transfer syntax, or no process could be started.
    """
    jobs = [{"path": str(frame.file.path), "index": frame.index} for frame in frames]
    # -P: what lies in the working folder is not imported.
    command = [sys.executable, "-P", "-m", "masam.io.dicom.decoder"]
    paths = [str(Path(masam.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(paths)}
    with gate.os_errors(frames[0].file.path), tempfile.TemporaryFile() as orders:
        orders.write(json.dumps(jobs).encode())
        orders.seek(0)
        # Its stderr is dropped: what codecs say there may quote the header.
        child = subprocess.Popen(
            command, stdin=orders, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
    try:
        for frame in frames:
            yield _receive(child, frame)
    finally:
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()


def _receive(child: subprocess.Popen[bytes], frame: Frame) -> NDArray[np.int64]:
    layout = frame.layout
    length = layout.rows * layout.columns * _STORED.itemsize
    data = child.stdout.read(length) if child.stdout else b""
    if len(data) == length:
        return np.frombuffer(data, _STORED).reshape(layout.rows, layout.columns).astype(np.int64)
    code = child.wait()
    if code == _NO_DECODER:
        syntax = frame.file.syntax if re.fullmatch(r"[\d.]+", frame.file.syntax) else "that is damaged"
        raise ResourceError(
            f"there is no decoder here for its transfer syntax {syntax}",
            where=frame.name,
            fix="pip install 'masam[dicom]', or decompress it first",
        )
    reason = _REASONS.get(code, f"the decoder ended with code {code}")
    raise InputError(f"its compressed pixels cannot be decoded ({reason})", where=frame.name, fix="export it again")


def decode_here(jobs: Sequence[dict[str, Any]], out: BufferedIOBase) -> int:
    """Decode in this process; the child's work.

    Args:
        jobs: ``path`` and ``index`` of each frame.
        out: Where the numbers go, int64, little-endian, row after row.

    Returns:
        The exit code: 0, 3 if a file or a codec's result is refused, 5 if there is no decoder, 6 if memory ran out.
    """
    file, data = None, None
    try:
        for job in jobs:
            path, index = Path(job["path"]), int(job["index"])
            if file is None or file.path != path:
                file = read_header(path)
                data = _whole_dataset(file)
                layout = read_layout(file)
                decoder = _decoder(file)
            if decoder is None:
                return _NO_DECODER
            _limit(layout.frame_bytes)
            with pydicom_errors(path):
                array = np.asarray(decoder.as_array(data, index=index, raw=True)[0])
            if array.shape != (layout.rows, layout.columns):
                return _REFUSED
            out.write(array.astype(_STORED).tobytes())
            out.flush()
    except InputError:
        return _REFUSED
    except ResourceError:
        return _NO_MEMORY
    return 0


def _whole_dataset(file: DicomFile) -> Any:
    with pydicom_errors(file.path):
        import pydicom

        return pydicom.dcmread(file.path)


def _decoder(file: DicomFile) -> Any:
    """Return pydicom's decoder for a file, None if there is none here."""
    with pydicom_errors(file.path):
        from pydicom.pixels import get_decoder

        try:
            decoder = get_decoder(file.syntax)
        except NotImplementedError:
            return None
        return decoder if decoder.is_available else None


def _limit(frame_bytes: int) -> None:
    """Let the system end this process when one frame takes too much; where it has no such limits, nobody does."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    limits = {
        resource.RLIMIT_CPU: int(used.ru_utime + used.ru_stime) + FRAME_SECONDS,
        resource.RLIMIT_AS: _BASE_BYTES + _CODEC_RATIO * frame_bytes,
    }
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def main() -> int:
    """Decode what stdin orders, and return the exit code."""
    jobs = json.load(sys.stdin)
    # What a codec prints must not come among the numbers.
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return decode_here(jobs, out)


if __name__ == "__main__":
    sys.exit(main())
