import io
import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from masam.errors import InputError, ModelError, ResourceError
from masam.io.tensors import content_sha256, read_tensors, write_tensors

TENSORS = {
    "weight": torch.tensor([[1.5, -2.0], [0.0, 3.25]]),
    "count": torch.tensor(7),
    "half": torch.tensor([0.5, 1.0], dtype=torch.bfloat16),
    "mask": torch.tensor([True, False]),
    "none": torch.zeros(0, 3),
}


class Bomb:
    """A pickle that creates a file when it is loaded by code that runs it."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return (os.mkdir, (str(self.canary),))


def same(got, expected):
    return set(got) == set(expected) and all(
        torch.equal(got[n], expected[n]) and got[n].dtype == expected[n].dtype for n in got
    )


def test_tensors_and_metadata_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "new folder" / "file.safetensors"
    write_tensors(path, TENSORS, {"note": "ünïcode"})
    tensors, metadata = read_tensors(path, ours=True)
    assert same(tensors, TENSORS)
    assert metadata == {"note": "ünïcode"}
    assert [p.name for p in path.parent.iterdir()] == ["file.safetensors"]


def test_what_needs_gradients_or_is_a_view_is_written_as_plain_numbers(tmp_path):
    path = tmp_path / "file.safetensors"
    base = torch.arange(6.0).reshape(2, 3)
    write_tensors(path, {"p": torch.nn.Parameter(base.clone()), "t": base.T}, {})
    tensors, _ = read_tensors(path)
    assert same(tensors, {"p": base, "t": base.T.contiguous()})
    assert not tensors["p"].requires_grad


def test_the_hash_knows_names_types_shapes_bytes_and_metadata():
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


def test_every_flipped_bit_is_seen(tmp_path):
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


def test_every_truncation_is_seen(tmp_path):
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"w": torch.tensor([1.0, 2.0])}, {})
    whole = path.read_bytes()
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"file.safetensors: expected a safetensors file, it cannot be read \("):
            read_tensors(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(ModelError, match="expected a safetensors file"):
        read_tensors(path)


def test_a_flipped_bit_is_told_as_damage(tmp_path):
    path = tmp_path / "file.safetensors"
    write_tensors(path, TENSORS, {})
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    message = "file.safetensors: the content does not have the hash that was written with it: the file is damaged; copy"
    with pytest.raises(ModelError, match=message):
        read_tensors(path)


def test_published_files_need_no_hash_and_ours_do(tmp_path):
    path = tmp_path / "file.safetensors"
    save_file({"w": torch.ones(2)}, path, metadata={"format": "pt"})
    tensors, metadata = read_tensors(path)
    assert same(tensors, {"w": torch.ones(2)})
    assert metadata == {"format": "pt"}
    with pytest.raises(ModelError, match="expected a file that masam has written, it has no hash of its content"):
        read_tensors(path, ours=True)


@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_files_of_both_kinds(tmp_path, zipped):
    path = tmp_path / "file.pth"
    torch.save({**TENSORS, "p": torch.nn.Parameter(torch.ones(2))}, path, _use_new_zipfile_serialization=zipped)
    tensors, metadata = read_tensors(path)
    assert same(tensors, {**TENSORS, "p": torch.ones(2)})
    assert metadata == {}
    assert not tensors["p"].requires_grad


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare pickle"])
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_code_in_a_file_is_refused_and_does_not_run(tmp_path, kind, suffix):
    path, canary = tmp_path / f"file{suffix}", tmp_path / "canary"
    content = {"weight": torch.ones(2), "bomb": Bomb(canary)}
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps(content["bomb"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(
        ModelError, match=r"is not loaded: it could run code; ask its author for a file of tensors only"
    ):
        read_tensors(path)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Bomb(canary)))  # noqa: S301 - shows that the payload does work
    assert canary.exists()


def test_code_in_a_file_by_another_name_does_not_run(tmp_path):
    canary = tmp_path / "canary"
    for name in ("file.safetensors", "file.bin", "file"):
        path = tmp_path / name
        torch.save({"bomb": Bomb(canary)}, path)
        with pytest.raises((ModelError, InputError)):
            read_tensors(path)
    assert not canary.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_pytorch_file_is_refused(tmp_path, zipped):
    path = tmp_path / "file.pth"
    torch.save({"weight": torch.arange(50.0)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in range(1, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"file.pth: "):
            read_tensors(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_pytorch_file_never_ends_in_another_error(tmp_path, zipped):
    path = tmp_path / "file.pth"
    torch.save({"weight": torch.arange(5.0)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    refused = 0
    for position in torch.randint(len(whole), (300,), generator=generator).tolist():
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            read_tensors(path)
        except ModelError:
            refused += 1
    assert refused > 30  # numbers carry no checksum there, which is why ours are safetensors


def test_a_zip_of_something_else_is_refused(tmp_path):
    path, buffer = tmp_path / "file.pth", io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("notes.txt", "hello")
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ModelError, match="cannot be read as a PyTorch file"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "expected tensors by name, got list"),
        (torch.ones(1), "expected tensors by name, got Tensor"),
        ({"state": {"w": torch.ones(1)}, "epoch": 3, "w": torch.ones(1)}, "got other things too: state, epoch$"),
    ],
)
def test_other_content_is_refused(tmp_path, content, message):
    path = tmp_path / "file.pth"
    torch.save(content, path)
    with pytest.raises(ModelError, match=message):
        read_tensors(path)


def test_the_ending_says_what_a_file_is(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"x")
    with pytest.raises(InputError, match=r"expected a .safetensors or .pth file, got .bin$"):
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
    with pytest.raises(ResourceError, match="there is a folder or a device of that name"):
        write_tensors(tmp_path / "folder.safetensors", TENSORS, {})
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ResourceError, match="cannot write the file"):
        write_tensors(tmp_path / "file" / "inside.safetensors", TENSORS, {})
