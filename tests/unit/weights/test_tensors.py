import json
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from weight_files import TENSORS, same

from masam.errors import InputError, ModelError, ResourceError
from masam.weights.pytorch_file import write_pytorch
from masam.weights.tensors import content_sha256, read_header, read_tensors, write_tensors


def test_tensors_and_metadata_round_trip_bit_for_bit(tmp_path):
    path = tmp_path / "new folder" / "file.safetensors"
    write_tensors(path, TENSORS, {"note": "ünïcode"})
    tensors, metadata = read_tensors(path, ours=True)
    assert same(tensors, TENSORS)
    assert metadata == {"note": "ünïcode"}
    assert [p.name for p in path.parent.iterdir()] == ["file.safetensors"]


def test_parameters_and_views_are_written_as_plain_tensors(tmp_path):
    path = tmp_path / "file.safetensors"
    base = torch.arange(6.0).reshape(2, 3)
    write_tensors(path, {"p": torch.nn.Parameter(base.clone()), "t": base.T}, {})
    tensors, _ = read_tensors(path)
    assert same(tensors, {"p": base, "t": base.T.contiguous()})
    assert not tensors["p"].requires_grad


def test_the_hash_covers_names_types_shapes_bytes_and_metadata():
    one = {"a": torch.zeros(4)}
    others = [
        {"b": torch.zeros(4)},
        {"a": torch.zeros(2, 2)},
        {"a": torch.zeros(4, dtype=torch.int32)},
        {"a": torch.tensor([0.0, 0, 0, 1])},
        {"a": torch.tensor([0.0, 0, 0, -0.0])},
        {"a": torch.zeros(4), "b": torch.zeros(0)},
    ]
    hashes = [content_sha256(one), content_sha256(one, {"k": "v"}), *map(content_sha256, others)]
    assert len(set(hashes)) == len(hashes)
    assert content_sha256({"a": torch.zeros(1), "b": torch.ones(1)}) == content_sha256(
        {"b": torch.ones(1), "a": torch.zeros(1)}
    )


def test_every_flipped_bit_is_detected(tmp_path):
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"w": torch.tensor([1.0, 2.0])}, {"scale": "1.0"})
    whole = path.read_bytes()
    for position in range(len(whole)):
        for bit in (0, 1, 2, 3, 4, 5, 6, 7) if position % 2 else (0, 5, 7):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(ModelError):
                read_tensors(path, ours=True)


def test_every_truncation_is_detected(tmp_path):
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"w": torch.tensor([1.0, 2.0])}, {})
    whole = path.read_bytes()
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"file.safetensors: cannot be read as a safetensors file \("):
            read_tensors(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(ModelError, match="cannot be read as a safetensors file"):
        read_tensors(path)


def test_a_flipped_bit_is_reported_as_damage(tmp_path):
    path = tmp_path / "file.safetensors"
    write_tensors(path, TENSORS, {})
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    message = "file.safetensors: the content does not match its hash: the file is damaged; copy"
    with pytest.raises(ModelError, match=message):
        read_tensors(path)


def test_only_files_of_masam_require_a_hash(tmp_path):
    path = tmp_path / "file.safetensors"
    save_file({"w": torch.ones(2)}, path, metadata={"format": "pt"})
    tensors, metadata = read_tensors(path)
    assert same(tensors, {"w": torch.ones(2)})
    assert metadata == {"format": "pt"}
    with pytest.raises(ModelError, match="expected a file written by masam, it has no hash of its content"):
        read_tensors(path, ours=True)


def test_the_extension_determines_the_format(tmp_path):
    path = tmp_path / "weights.npz"
    path.write_bytes(b"x")
    with pytest.raises(InputError, match=r"expected a .safetensors or .pth file, got .npz$"):
        read_tensors(path)
    torch.save({"w": torch.ones(1)}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"expected a .safetensors file, got .pth$"):
        read_tensors(tmp_path / "weights.pth", ours=True)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a file, got none"):
        read_tensors(tmp_path / "nothing.pth")
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(InputError, match="expected a regular file, got a folder"):
        read_tensors(tmp_path / "folder.pth")


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ResourceError, match="the path is a folder or a device"):
        write_tensors(tmp_path / "folder.safetensors", TENSORS, {})
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ResourceError, match="cannot write the file"):
        write_tensors(tmp_path / "file" / "inside.safetensors", TENSORS, {})


# Not getrusage, whose peak is inherited from the parent process.
PEAK = r"""
import re
from pathlib import Path

def peak_mib():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024
"""


def raw(header, data=b"", length=None):
    """Return a safetensors file with a given header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


ATTACKS = {
    "length beyond the file": (raw({}, length=1000), "cannot be read"),
    "length of exabytes": (raw({}, length=2**60), "its header claims 1152921504606846976 bytes"),
    "a huge table": (raw(b" " * (9 * 2**20)), "its header claims 9437184 bytes, expected at most 8388608"),
    "no table": (b"{}", "cannot be read"),
    "not JSON": (raw(b"{]"), "cannot be read"),
    "a list": (raw([]), "its header is not a mapping"),
    "nested without end": (raw(b"[" * 100_000), "cannot be read"),
    "a name twice": (raw(b'{"a": %b, "a": %b}' % ((json.dumps(entry()).encode(),) * 2), b"1234"), "duplicate name"),
    "overlap": (raw({"a": entry(), "b": entry()}, b"1234"), "invalid offset"),
    "a hole": (raw({"a": entry(offsets=(4, 8))}, b"12345678"), "invalid offset"),
    "shape beyond the data": (raw({"a": entry(shape=(10**12,))}, b"1234"), "invalid shape"),
    "shape that overflows": (raw({"a": entry(shape=(2**32, 2**32, 4), offsets=(0, 0))}), "overflow"),
    "negative shape": (raw({"a": entry(shape=(-1,))}, b"1234"), "cannot be read"),
    "data cut off": (raw({"a": entry()}, b"123"), "incomplete"),
    "data after the end": (raw({"a": entry()}, b"12345"), "incomplete"),
    "unknown type": (raw({"a": entry("Q32")}, b"1234"), "a has type Q32, expected one of F64, F32"),
    "type of no weights": (raw({"a": entry("F8_E4M3", offsets=(0, 1))}, b"1"), "a has type F8_E4M3"),
    "entry that is none": (raw({"a": 3}), "a has type 3"),
}


@pytest.mark.parametrize(("content", "message"), ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("read", [read_tensors, read_header])
def test_a_forged_header_is_refused(tmp_path, content, message, read):
    path = tmp_path / "file.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"file.safetensors: cannot be read as a safetensors file") as caught:
        read(path)
    assert message in str(caught.value)


def test_a_valid_handwritten_header_is_accepted(tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(raw({"a": entry()}, struct.pack("<f", 2.5)))
    assert same(read_tensors(path)[0], {"a": torch.tensor([2.5])})


@pytest.mark.slow
def test_mutants_are_refused_or_read_without_much_memory(tmp_path):
    """Runs in a child process, because the reader could crash it."""
    code = f"""{PEAK}
import random
from pathlib import Path
import torch
from masam.errors import MasamError
from masam.weights.tensors import read_header, read_tensors, write_tensors
path = Path({str(tmp_path)!r}) / "file.safetensors"
write_tensors(path, {{f"block.{{i}}.weight": torch.randn(8, 8) for i in range(20)}}, {{"note": "x"}})
whole, draw = path.read_bytes(), random.Random(0)
start, refused = peak_mib(), 0
for _ in range(5000):
    mutant = bytearray(whole)
    for _ in range(draw.randint(1, 8)):
        mutant[draw.randrange(min(1600, len(mutant)))] = draw.randrange(256)
    path.write_bytes(mutant)
    for read in (read_header, read_tensors):
        try:
            read(path)
        except MasamError:
            refused += 1
print(refused, peak_mib() - start)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    refused, grown_mib = map(int, done.stdout.split())
    assert refused > 5000
    assert grown_mib < 200


def test_a_header_has_names_shapes_and_types_without_values(tmp_path):
    safe, pth = tmp_path / "file.safetensors", tmp_path / "file.pth"
    write_tensors(safe, TENSORS, {"note": "x"})
    write_pytorch(pth, TENSORS)
    for path, notes in ((safe, {"note", "content_sha256"}), (pth, set())):
        tensors, metadata = read_header(path)
        assert {name: (t.shape, t.dtype) for name, t in tensors.items()} == {
            name: (t.shape, t.dtype) for name, t in TENSORS.items()
        }
        assert all(tensor.is_meta for tensor in tensors.values())
        assert set(metadata) == notes


def test_a_header_takes_no_memory_for_values(tmp_path):
    path = tmp_path / "large.safetensors"
    save_file({"w": torch.zeros(64 * 2**20, dtype=torch.uint8)}, path)
    read = f"from masam.weights.tensors import read_header; read_header(Path({str(path)!r}))"

    def peak_mib(code):
        command = [sys.executable, "-c", f"{PEAK}\n{code}\nprint(peak_mib())"]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert peak_mib("import torch; kept = torch.zeros(64 * 2**20, dtype=torch.uint8)") > 64  # the measurement works
    assert peak_mib(read) - peak_mib("import masam.weights.tensors") < 32
