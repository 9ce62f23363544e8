import errno
import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from tiny import Bomb
from weight_files import TENSORS, same

from masam.errors import InputError, ModelError, ResourceError
from masam.weights.pytorch_file import read_pytorch, write_archive, write_pytorch
from masam.weights.tensors import read_tensors


def rewrite(path, change, compression=zipfile.ZIP_STORED):
    """Rewrite an archive, applying ``change(name, data)`` to each record."""
    with zipfile.ZipFile(path) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records:
            archive.writestr(name, change(name, data))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_files_of_torch_save_are_read(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    torch.save({**TENSORS, "p": torch.nn.Parameter(torch.ones(2))}, path)
    tensors, metadata = read_tensors(path)
    assert same(tensors, {**TENSORS, "p": torch.ones(2)})
    assert metadata == {}
    assert not tensors["p"].requires_grad


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict"])
def test_tensors_in_a_training_scripts_file_are_found(tmp_path, key):
    torch.save({key: TENSORS, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "file.pth")
    assert same(read_pytorch(tmp_path / "file.pth"), TENSORS)


def test_shared_and_sliced_tensors_are_read(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    torch.save({"a": base, "b": base, "row": base[1], "t": base.T}, tmp_path / "file.pth")
    assert same(read_pytorch(tmp_path / "file.pth"), {"a": base, "b": base, "row": base[1], "t": base.T})


def test_pytorch_round_trip_bit_for_bit(tmp_path):
    path = tmp_path / "new" / "file.pth"
    write_pytorch(path, {**TENSORS, "p": torch.nn.Parameter(torch.ones(2)), "t": torch.arange(6.0).reshape(2, 3).T})
    expected = {**TENSORS, "p": torch.ones(2), "t": torch.arange(6.0).reshape(2, 3).T.contiguous()}
    assert same(read_pytorch(path), expected)
    plain = torch.load(path, weights_only=True)
    assert same(plain, expected)
    assert not plain["p"].requires_grad
    assert [p.name for p in path.parent.iterdir()] == ["file.pth"]
    with pytest.raises(ResourceError, match="cannot write the file"):
        write_pytorch(path / "inside.pth", TENSORS)


@pytest.mark.parametrize("kind", ["zip", "wrapped", "legacy", "bare pickle"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_code_in_a_file_is_refused_and_does_not_run(tmp_path, kind, suffix):
    path, canary = tmp_path / f"file{suffix}", tmp_path / "canary"
    content = {"weight": torch.ones(2), "bomb": Bomb(canary)}
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps(content["bomb"]))
    elif kind == "wrapped":
        torch.save({"model": {"weight": torch.ones(2)}, "epoch": Bomb(canary)}, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(ModelError, match=r"could run code.*ask its author for a file of tensors only \(safetensors\)$"):
        read_tensors(path)
    assert not canary.exists()
    pickle.loads(pickle.dumps(Bomb(canary)))  # noqa: S301 - shows that the payload does work
    assert canary.exists()


def test_code_in_a_file_by_another_name_does_not_run(tmp_path):
    canary = tmp_path / "canary"
    for name in ("file.safetensors", "file.npz", "file"):
        path = tmp_path / name
        torch.save({"bomb": Bomb(canary)}, path)
        with pytest.raises((ModelError, InputError)):
            read_tensors(path)
    assert not canary.exists()


def test_the_format_before_1_6_is_refused(tmp_path):
    path = tmp_path / "file.pth"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match=r"not a zip archive of torch.save since PyTorch 1.6; other formats could"):
        read_pytorch(path)


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "file.pth"
    torch.save({"weight": torch.arange(50.0)}, path)
    whole = path.read_bytes()
    for length in range(1, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"file.pth: "):
            read_pytorch(path)


def test_flipped_bits_never_change_a_value_silently(tmp_path):
    path = tmp_path / "file.pth"
    tensors = {"weight": torch.arange(40.0), "bias": torch.arange(7.0)}
    torch.save(tensors, path)
    whole = path.read_bytes()
    generator, refused = torch.Generator().manual_seed(0), 0
    for position in torch.randint(len(whole), (500,), generator=generator).tolist():
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            assert same(read_pytorch(path), tensors)
        except ModelError:
            refused += 1
    assert refused > 100  # the others hit padding and time stamps


def test_a_damaged_value_is_reported(tmp_path):
    path = tmp_path / "file.pth"
    torch.save({"weight": torch.full((64,), 1.5)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(torch.full((64,), 1.5).numpy().tobytes(), torch.full((64,), 1.25).numpy().tobytes()))
    with pytest.raises(
        ModelError, match=r"cannot be read as a PyTorch file \(Bad CRC-32 for file .*; copy or download"
    ):
        read_pytorch(path)


def test_a_zip_of_something_else_is_refused(tmp_path):
    path, buffer = tmp_path / "file.pth", io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("notes.txt", "hello")
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ModelError, match=r"file.pth: the zip archive was not written by torch.save$"):
        read_pytorch(path)


def test_compressed_records_are_refused(tmp_path):
    path = tmp_path / "file.pth"
    torch.save({"weight": torch.zeros(10**6)}, path)
    rewrite(path, lambda name, data: data)
    assert read_pytorch(path)["weight"].shape == (10**6,)
    rewrite(path, lambda name, data: data, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000  # a bomb: 4 MB in a few kB
    with pytest.raises(ModelError, match=r"its records are compressed, which torch.save never does; it is not loaded"):
        read_pytorch(path)


def claim(old, new):
    def change(name, data):
        if not name.endswith("data.pkl"):
            return data
        assert old in data
        return data.replace(old, new)

    return change


@pytest.mark.parametrize("numel", [11, 10**6, 2**31 - 1])
def test_claims_beyond_the_records_are_refused(tmp_path, numel):
    """The index contains the size of each record and the shape of its tensor: both are increased."""
    path, large = tmp_path / "file.pth", b"J" + numel.to_bytes(4, "little")
    torch.save({"weight": torch.arange(10.0)}, path)
    rewrite(path, claim(b"K\ntq", large + b"tq"))  # the record
    rewrite(path, claim(b"QK\x00K\n", b"QK\x00" + large))  # the shape
    with pytest.raises(ModelError, match=r"cannot be read as a PyTorch file|weight claims more values than the file"):
        read_pytorch(path)


def test_a_view_that_repeats_its_bytes_is_refused(tmp_path):
    path = tmp_path / "file.pth"
    torch.save({"fine": torch.ones(2), "weight": torch.ones(1).expand(10**12)}, path)
    assert path.stat().st_size < 10_000
    with pytest.raises(ModelError, match=r"expected plain tensors, weight claims more values than the file contains$"):
        read_pytorch(path)


@pytest.mark.parametrize("tensor", [torch.ones(2, 2).to_sparse(), torch.ones(3, device="meta")])
def test_other_kinds_of_tensors_are_refused(tmp_path, tensor):
    torch.save({"weight": tensor}, tmp_path / "file.pth")
    with pytest.raises(ModelError, match=r"file.pth: .*weight|cannot be read as a PyTorch file"):
        read_pytorch(tmp_path / "file.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "expected tensors by name, got list"),
        (torch.ones(1), "expected tensors by name, got Tensor"),
        ({"weights": {"w": torch.ones(1)}, "epoch": 3, "w": torch.ones(1)}, "other objects as well: weights, epoch$"),
        ({"model": {"w": torch.ones(1), "lr": 1.0}, "epoch": 3}, "got other objects as well: lr$"),
        ({"model": {}, "state_dict": {}}, "got other objects as well: model, state_dict$"),
    ],
)
def test_other_content_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ModelError, match=message):
        read_pytorch(tmp_path / "file.pth")


def test_the_archive_is_what_was_saved(tmp_path):
    state = {"w": torch.arange(5.0)}
    write_archive(tmp_path / "model.pt", lambda archive: torch.save(state, archive))
    assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=True)["w"], state["w"])


def test_a_full_disk_is_reported_as_such(tmp_path, monkeypatch):
    def fail(self, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left on device"):
        write_archive(tmp_path / "model.pt", lambda archive: torch.save({}, archive))
