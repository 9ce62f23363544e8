"""Decompress DICOM frames in a child process, ``python -m masam.io.dicom.decoder``.

Codecs are C, C++ and Rust code that parses untrusted bytes; a crash must not end the calling process.
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
"""Limit of processor time per frame; 512 x 512 pixels of JPEG 2000 take 0.05 s."""

_REFUSED, _NO_DECODER, _NO_MEMORY = 3, 5, 6
_REASONS = {_REFUSED: "damaged data", _NO_MEMORY: "out of memory"}
_STORED = np.dtype("<i8")
_BASE_BYTES, _CODEC_RATIO = 4 * 2**30, 64
# Each thread of a numerical library reserves address space, which is limited.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def decode(frames: Sequence[Frame]) -> Iterator[NDArray[np.int64]]:
    """Yield the stored values [rows, columns] of compressed frames of one or several files.

    Raises:
        InputError: A codec rejects the data, exceeds its limits of time or memory, or crashes.
        ResourceError: No decoder is installed for the transfer syntax, or the process cannot be started.
    """
    jobs = [{"path": str(frame.file.path), "index": frame.index} for frame in frames]
    # -P: do not import from the working folder.
    command = [sys.executable, "-P", "-m", "masam.io.dicom.decoder"]
    paths = [str(Path(masam.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(paths)}
    with gate.os_errors(frames[0].file.path), tempfile.TemporaryFile() as job_file:
        job_file.write(json.dumps(jobs).encode())
        job_file.seek(0)
        # stderr is dropped, as messages of codecs may quote the header.
        child = subprocess.Popen(
            command, stdin=job_file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
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
        syntax = frame.file.syntax if re.fullmatch(r"[\d.]+", frame.file.syntax) else "(damaged)"
        raise ResourceError(
            f"no decoder is installed for transfer syntax {syntax}",
            where=frame.name,
            fix="pip install 'masam[dicom]', or decompress the file first",
        )
    reason = _REASONS.get(code, f"the decoder exited with code {code}")
    raise InputError(f"the compressed pixels cannot be decoded ({reason})", where=frame.name, fix="export it again")


def decode_here(jobs: Sequence[dict[str, Any]], out: BufferedIOBase) -> int:
    """Decode frames, given by ``path`` and ``index``, in this process; write int64, little-endian, row by row.

    Returns:
        Exit code: 0 for success, 3 for damaged data, 5 without a decoder, 6 without enough memory.
    """
    file, data = None, None
    try:
        for job in jobs:
            path, index = Path(job["path"]), int(job["index"])
            if file is None or file.path != path:
                file = read_header(path)
                with pydicom_errors(path):
                    import pydicom

                    data = pydicom.dcmread(path)
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


def _decoder(file: DicomFile) -> Any:
    """Return pydicom's decoder for a file, None if it is not installed."""
    with pydicom_errors(file.path):
        from pydicom.pixels import get_decoder

        try:
            decoder = get_decoder(file.syntax)
        except NotImplementedError:
            return None
        return decoder if decoder.is_available else None


def _limit(frame_bytes: int) -> None:
    """Let the operating system end this process if one frame exceeds its limits; no effect on Windows."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    limits = {
        resource.RLIMIT_CPU: int(used.ru_utime + used.ru_stime) + FRAME_SECONDS,
        resource.RLIMIT_AS: _BASE_BYTES + _CODEC_RATIO * frame_bytes,
    }
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def main() -> int:
    """Decode the jobs on stdin to stdout, and return the exit code."""
    jobs = json.load(sys.stdin)
    # Output of codecs must not mix with the values.
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return decode_here(jobs, out)


if __name__ == "__main__":
    sys.exit(main())
