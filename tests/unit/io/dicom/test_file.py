"""Damaged and malicious DICOM: a typed error, quickly, in little memory, and without patient data."""

import json
import logging
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pydicom
import pytest
from dicom_maker import make, make_enhanced, save, voxels, write

from masam.errors import InputError
from masam.io.dicom.file import is_dicom, read_header
from masam.io.dicom.pixels import read_dicom

SHIPPED = Path(pydicom.__file__).parent / "data/test_files"
DEFLATED = "1.2.840.10008.1.2.1.99"


def element(group, number, vr, value):
    is_long = vr in (b"SQ", b"OW", b"OB", b"UN")
    length = struct.pack("<HI", 0, len(value)) if is_long else struct.pack("<H", len(value))
    return struct.pack("<HH", group, number) + vr + length + value


def head(syntax="1.2.840.10008.1.2.1", sop="1.2.840.10008.5.1.4.1.1.2"):
    def uid(text):
        return text.encode() + bytes(len(text) % 2)

    return bytes(128) + b"DICM" + element(2, 2, b"UI", uid(sop)) + element(2, 0x10, b"UI", uid(syntax))


def refused(path, message):
    with pytest.raises(InputError, match=message) as caught:
        read_dicom(path)
    return str(caught.value)


def test_dicom_is_recognised_by_its_first_bytes(tmp_path):
    (tmp_path / "a").write_bytes(head())
    (tmp_path / "b").write_bytes(b"DICM")
    (tmp_path / "c").touch()
    assert [is_dicom(tmp_path / name) for name in "abc"] == [True, False, False]


def test_position_of_the_pixels(tmp_path):
    path = write(tmp_path / "a", make(voxels((6, 5, 1)))[0])
    pixels = read_header(path).pixels
    assert (pixels.length, pixels.encapsulated, pixels.integers) == (60, False, True)
    assert path.read_bytes()[pixels.offset : pixels.offset + 60] == voxels((6, 5, 1))[..., 0].T.tobytes()


def test_a_valid_deflated_file(tmp_path):
    dataset = make(voxels((6, 5, 1)))[0]
    dataset.file_meta.TransferSyntaxUID = DEFLATED
    assert read_dicom(write(tmp_path / "a", dataset)).shape == (6, 5, 1)
    content = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(content[:-40])
    refused(tmp_path / "a", "the deflated data are cut off")
    (tmp_path / "a").write_bytes(content[:-200] + bytes(40) + content[-160:])
    refused(tmp_path / "a", "the deflated data are damaged|cut off")


def test_a_deflated_bomb(tmp_path):
    """Zeros that inflate to a thousand times their size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = b"".join(packer.compress(bytes(2**20)) for _ in range(300)) + packer.flush()
    (tmp_path / "a").write_bytes(head(DEFLATED) + data)
    code = (
        "import resource, sys; from pathlib import Path; from masam.io.dicom.pixels import read_dicom\n"
        "from masam.errors import InputError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_dicom(Path(sys.argv[1]))\nexcept InputError as error: print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a"], capture_output=True, text=True, check=True)
    line, megabytes = done.stdout.splitlines()
    assert "inflate to more than" in line
    assert int(megabytes) < 300


@pytest.mark.parametrize("undefined", [True, False])
def test_sequences_nested_without_end(tmp_path, undefined):
    depth = 20_000
    if undefined:
        level = struct.pack("<HH2sHIHHI", 0x0040, 0xA730, b"SQ", 0, 2**32 - 1, 0xFFFE, 0xE000, 2**32 - 1)
        content = level * depth
    else:
        content = b""
        for _ in range(500):
            content = element(0x40, 0xA730, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content)
    (tmp_path / "a").write_bytes(head() + content)
    refused(tmp_path / "a", "nested too deeply" if undefined else "an image without pixels")


def test_too_many_elements(tmp_path):
    content = b"".join(element(0x11, number, b"LO", b"") for number in range(2, 30_000))
    (tmp_path / "a").write_bytes(head() + content)
    refused(tmp_path / "a", "expected at most 20000 elements")


def test_a_length_beyond_the_file(tmp_path):
    content = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, 2**31) + bytes(100)
    (tmp_path / "a").write_bytes(head() + content)
    refused(tmp_path / "a", "cut off: expected 2147483648 bytes of pixels, found 100")


@pytest.mark.parametrize(("syntax", "length"), [("1.2.840.10008.1.2.5", 4), ("1.2.840.10008.1.2.1", 2**32 - 1)])
def test_fragments_that_do_not_match_the_transfer_syntax(tmp_path, syntax, length):
    content = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, length) + bytes(4)
    (tmp_path / "a").write_bytes(head(syntax) + content)
    refused(tmp_path / "a", "in fragments")


# ---- patient data ----


def test_errors_do_not_quote_the_header(tmp_path, caplog, capfd):
    """Patient data is written into every element, one after the other."""
    caplog.set_level(logging.DEBUG)
    lines = []
    template = make(voxels((6, 5, 2)))
    for n, keyword in enumerate(element.keyword for element in template[0] if element.keyword != "PixelData"):
        folder = save(tmp_path / str(n), make(voxels((6, 5, 2))))
        content = (folder / "000.dcm").read_bytes()
        raw = read_header(folder / "000.dcm").dataset.get_item(keyword)
        value = (b"CANARYNAME\\CANARYID" * 9)[: raw.length]
        (folder / "000.dcm").write_bytes(content[: raw.value_tell] + value + content[raw.value_tell + raw.length :])
        try:
            read_dicom(folder)
        except InputError as error:
            lines.append(str(error))
    assert len(lines) > 8
    printed = "".join(capfd.readouterr())
    assert "CANAR" not in "".join(lines) + printed + caplog.text


# ---- mutants ----

MUTANTS = """
import json, logging, random, sys, warnings
from pathlib import Path
from masam.errors import InputError, ResourceError
from masam.io.dicom import decoder, pixels
from masam.io.dicom.pixels import read_dicom

warnings.simplefilter("ignore")  # of codecs
seed, count, folder, sources = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]

class Here:
    # Codecs run in this process, which is a child itself, so that a mutant takes milliseconds.
    @staticmethod
    def decode(frames):
        import io
        import numpy as np
        for frame in frames:
            out = io.BytesIO()
            try:
                code = decoder.decode_here([{"path": str(frame.file.path), "index": frame.index}], out)
            except BaseException:
                code = 1  # a codec's panic, which ends the process that it runs in
            if code:
                raise InputError(f"code {code}")
            yield np.frombuffer(out.getvalue(), "<i8").reshape(frame.layout.rows, frame.layout.columns).astype(np.int64)

pixels.decode = Here.decode
decoder._limit = lambda frame_bytes: None
rng = random.Random(seed)
outcomes = {"read": 0, "refused": 0}
path = folder / "mutant"
for n in range(count):
    content = bytearray(Path(sources[n % len(sources)]).read_bytes())
    kind = rng.randrange(4)
    # Most of a file is pixels; half of the mutants change its header.
    end = len(content) if rng.random() < 0.5 else min(len(content), 1500)
    at = rng.randrange(128, end)
    if kind == 0:
        content[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        content[at : at + 4] = rng.choice([b"\\xff" * 4, bytes(4), b"\\xff\\xff\\xff\\x7f", rng.randbytes(4)])
    elif kind == 2:
        del content[at : at + rng.randrange(1, 60)]
    else:
        content = content[:at]
    path.write_bytes(content)
    try:
        read_dicom(path)
        outcomes["read"] += 1
    except (InputError, ResourceError) as error:
        outcomes["refused"] += 1
        assert str(error).count("\\n") == 0
print(json.dumps(outcomes))
"""


def mutate(tmp_path, seed, count, names):
    sources = [str(SHIPPED / name) for name in names]
    sources.append(str(write(tmp_path / "enhanced", make_enhanced())))
    done = subprocess.run(
        [sys.executable, "-c", MUTANTS, str(seed), str(count), str(tmp_path), *sources],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


COMPRESSED = ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"]


def test_three_hundred_mutants(tmp_path):
    outcomes = mutate(tmp_path, 1, 300, ["CT_small.dcm", "MR_small_implicit.dcm", "MR_small_RLE.dcm"])
    assert outcomes["read"] > 20
    assert outcomes["refused"] > 100


@pytest.mark.slow
def test_ten_thousand_mutants(tmp_path):
    outcomes = mutate(tmp_path, 2, 10_000, ["CT_small.dcm", "MR_small_implicit.dcm", "image_dfl.dcm", *COMPRESSED])
    assert sum(outcomes.values()) == 10_000
