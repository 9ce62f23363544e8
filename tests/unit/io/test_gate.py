import gzip
import hashlib
import os
import socket
import subprocess
import sys
import time
import tracemalloc
import zlib

import numpy as np
import pytest

from masam.errors import InputError, ResourceError
from masam.io import gate

CONTENT = bytes(range(256)) * 8


def read(path, size=2048, *, compressed=True):
    return gate.read_sized(path, 16, lambda head: size, compressed=compressed).tobytes()


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(np.random.default_rng(0).bytes(700) + CONTENT[:300], mtime=0))
    return path


def test_plain_and_compressed_content_comes_back(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    (tmp_path / "a.gz").write_bytes(gzip.compress(CONTENT))
    heads = []

    def size_of(head: bytes) -> int:
        heads.append(head)
        return len(CONTENT)

    for name, compressed in (("a", False), ("a.gz", True)):
        assert gate.read_sized(tmp_path / name, 16, size_of, compressed=compressed).tobytes() == CONTENT
        assert gate.read_head(tmp_path / name, 20, compressed=compressed) == CONTENT[:20]
        assert gate.read_head(tmp_path / name, 10**6, compressed=compressed) == CONTENT
    assert heads == [CONTENT[:16]] * 2
    assert gate.read_bytes(tmp_path / "a") == CONTENT
    assert gate.sha256(tmp_path / "a") == hashlib.sha256(CONTENT).hexdigest()
    done = []
    assert gate.sha256(tmp_path / "a", done.append) == hashlib.sha256(CONTENT).hexdigest()
    assert done == [len(CONTENT)]


def test_every_truncation_is_refused(packed):
    for length in reversed(range(packed.stat().st_size)):
        os.truncate(packed, length)
        with pytest.raises(InputError, match=r"cut off|is empty|is not|cannot contain|expected 1000 bytes") as error:
            read(packed, 1000)
        assert error.value.where == str(packed)


def test_bit_flips_are_detected(packed):
    whole = packed.read_bytes()
    expected = read(packed, 1000)
    rng = np.random.default_rng(20230916)
    refused = 0
    # The ten bytes of the gzip header (time, system) are not part of the content.
    for position in rng.integers(10 * 8, len(whole) * 8, 600):
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << (position % 8)
        packed.write_bytes(flipped)
        try:
            assert read(packed, 1000) == expected
        except InputError:
            refused += 1
    assert refused >= 598


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (gzip.compress(b"", mtime=0), "a second gzip member after the end"),
        (b"\0", "further bytes after the end"),
        (b"garbage", "further bytes after the end"),
    ],
)
def test_nothing_may_follow_the_gzip_data(packed, tail, message):
    packed.write_bytes(packed.read_bytes() + tail)
    with pytest.raises(InputError, match=message):
        read(packed, 1000)


def test_wrong_checksum_and_wrong_length_are_refused(packed):
    whole = packed.read_bytes()
    for position, message in ((-8, "incorrect data check"), (-4, "incorrect length check")):
        wrong = bytearray(whole)
        wrong[position] ^= 1
        packed.write_bytes(wrong)
        with pytest.raises(InputError, match=message):
            read(packed, 1000)


@pytest.mark.parametrize(("size", "message"), [(999, r"holds more than the 999"), (1001, r"expected 1001 .*got 1000")])
def test_content_must_have_the_declared_size(packed, size, message):
    with pytest.raises(InputError, match=message):
        read(packed, size)


@pytest.mark.parametrize(("size", "present"), [(2047, 2048), (2049, 2048)])
def test_plain_file_must_have_the_declared_size(tmp_path, size, present):
    (tmp_path / "a").write_bytes(CONTENT)
    with pytest.raises(InputError, match=f"expected {size} bytes as the header declares, the file has {present}"):
        read(tmp_path / "a", size, compressed=False)


def bomb(path, size):
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(2**20)
    with path.open("wb") as file:
        for _ in range(size // len(zeros)):
            file.write(packer.compress(zeros))
        file.write(packer.flush())


@pytest.fixture(scope="module")
def bomb_of_200_mib(tmp_path_factory):
    path = tmp_path_factory.mktemp("bomb") / "a.gz"
    bomb(path, 200 * 2**20)
    return path


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (2**40, "the limit is"),
        (15 * 2**30, "cannot contain them"),
        (100 * 2**20, "holds more than the 104857600"),
        (2000, "holds more than the 2000 bytes"),
    ],
)
def test_bombs_are_refused_fast_and_without_memory(bomb_of_200_mib, declared, message):
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(InputError, match=message):
        read(bomb_of_200_mib, declared)
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 1
    assert peak < 110 * 2**20


def test_a_valid_file_with_an_implausible_ratio_is_refused(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(CONTENT) + bytes(4 * 2**20 + 2**18))
    with pytest.raises(InputError, match=r"not plausible .* store it uncompressed"):
        read(path, 4 * 2**30)
    # The same declared size with the compression ratio of a scan is accepted.
    os.truncate(path, 2**30)
    gate.check_declared_size(path, 4 * 2**30, compressed=True)


def test_peak_memory_is_the_declared_size_and_little_more(tmp_path):
    """A 64 MiB file, in a child so that the peak is its own."""
    bomb(tmp_path / "a.gz", 64 * 2**20)
    code = """
import resource, sys
from pathlib import Path
from masam.io import gate
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
gate.read_sized(Path(sys.argv[1]), 16, lambda head: 64 * 2**20, compressed=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.gz")], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(result.stdout) < 70 * 2**10


def test_too_little_memory_is_reported(tmp_path):
    path = tmp_path / "a.gz"
    with path.open("wb") as file:
        file.write(gzip.compress(CONTENT))
        file.truncate(2**30)
    code = """
import resource, sys
from pathlib import Path
from masam.io import gate
from masam.errors import ResourceError
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
try:
    gate.read_sized(Path(sys.argv[1]), 16, lambda head: 8 * 2**30, compressed=True)
except ResourceError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == f"{path}: there is not enough memory to read it; free memory"


def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "to_fifo").symlink_to(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))
        start = time.process_time()
        for name, message in {
            "fifo": "expected a regular file, got a FIFO",
            "to_fifo": "expected a regular file, got a FIFO",
            "socket": "expected a regular file, got a FIFO, socket or device",
            "folder": "expected a regular file, got a folder",
            "loop": r"expected a file, got none \(Too many levels of symbolic links\)",
            "missing": r"expected a file, got none \(No such file",
            "empty/a": r"expected a file, got none \(Not a directory",
            "x" * 300: r"expected a file, got none \(File name too long",
            "empty": "the file is empty",
            "a\0b": "the name contains a null byte",
            "/dev/zero": "got a FIFO, socket or device",
        }.items():
            for action in (gate.read_bytes, gate.sha256, lambda path: read(path, compressed=False)):
                with pytest.raises(InputError, match=message):
                    action(tmp_path / name)
        assert time.process_time() - start < 1


def test_symbolic_link_to_a_file_is_followed(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert gate.read_bytes(tmp_path / "link") == CONTENT


def test_size_cap(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    with pytest.raises(InputError, match="expected at most 2047 bytes, the file has 2048"):
        gate.read_bytes(tmp_path / "a", max_bytes=2047)


def test_name_and_content_must_agree_about_gzip(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(CONTENT)
    (tmp_path / "a.nii").write_bytes(gzip.compress(CONTENT))
    with pytest.raises(InputError, match=r"the name ends in .gz but the content is not gzip; rename it without"):
        read(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="the content is gzip but the name does not end in"):
        read(tmp_path / "a.nii", compressed=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": 1,\n "b" 2}', "not valid JSON: Expecting ':' delimiter in line 2, column 6"),
        (b'{"a": 1, "a": 2}', "a key appears twice in one mapping"),
        (b'{"a": "\xff"}', "expected UTF-8 text, byte 7 is not"),
        (b"[" * 100_000, "cannot be read"),
    ],
)
def test_bad_json(tmp_path, text, message):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(InputError, match=message):
        gate.read_json(tmp_path / "a.json")


def test_json_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": "\xc3\xa4"}')
    assert gate.read_json(tmp_path / "a.json") == {"a": "ä"}


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        (AttributeError("x"), InputError, r"a: cannot be read \(AttributeError: x\)"),
        (RecursionError("deep"), InputError, "RecursionError"),
        (OverflowError("big"), InputError, "OverflowError"),
        (MemoryError(), ResourceError, "not enough memory"),
        (PermissionError(13, "Permission denied"), ResourceError, "cannot read the file .Permission denied"),
        (OSError(5, "Input/output error"), ResourceError, "cannot read the file .Input/output error"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
)
def test_library_errors_become_masam_errors(fault, kind, message):
    with pytest.raises(kind, match=message), gate.library_errors("a"):
        raise fault
