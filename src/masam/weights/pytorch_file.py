"""PyTorch's ``.pth`` files: tensors by name and nothing else, never code, never more memory than the file has bytes."""

from __future__ import annotations

import errno
import io
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from masam import atomic
from masam.errors import InputError, ModelError, ResourceError
from masam.io import gate

ENDINGS = (".pth", ".pt", ".bin")
"""``.bin`` is Hugging Face's name for the same container."""

WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Keys under which training scripts (MedSAM's, Lightning's) keep the tensors beside epoch and optimiser."""

# The index of SAM's ViT-H takes 70 kB.
_MAX_INDEX_BYTES = 64 * 2**20
_CHUNK_BYTES = 2**20
_ASK_FOR_SAFETENSORS = "ask its author for a file of tensors only (safetensors)"
_AGAIN = "copy or download it again"


def read_pytorch(path: Path, *, checksums: bool = True) -> dict[str, Tensor]:
    """Read the tensors of a PyTorch file.

    The file is mapped, not loaded: no claim in it takes memory that its bytes do not back. What is to outlive the file
    must be copied.

    Args:
        path: A zip archive of ``torch.save``.
        checksums: Read the whole file and verify every record's CRC-32, which PyTorch itself does not.

    Returns:
        Tensors by name, on the CPU, without gradients.

    Raises:
        InputError: There is no such file, or it is not a regular one.
        ModelError: It is damaged, compressed, of the format before PyTorch 1.6, or holds something else than tensors.
    """
    with gate.open_regular(path):
        pass
    with _refusing(path):
        sizes = _check_archive(path, checksums)
    with _refusing(path), warnings.catch_warnings():
        # What torch.load warns of, our error says.
        warnings.simplefilter("ignore")
        content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    return _plain_tensors(content, sizes, path)


def write_pytorch(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name as ``torch.save`` does.

    Raises:
        ResourceError: The file cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def write(target: Path) -> None:
        write_archive(target, lambda archive: torch.save(plain, archive))

    def verify(target: Path) -> None:
        found = read_pytorch(target)
        if set(found) != set(plain) or any(not torch.equal(found[name], plain[name]) for name in plain):
            raise ModelError("the tensors differ from those that were written", where=target)

    atomic.write_with(path, write, verify=verify)


def write_archive(path: Path, save: Callable[[io.BytesIO], None]) -> None:
    """Let one of PyTorch's functions make an archive, and write it, by way of memory.

    On a full disk PyTorch's own writer ends the process (``torch.export.save``) or raises an error that does not name
    the disk (``torch.save``); Python's says what happened. The price is the archive's size in memory.

    Args:
        path: File to write.
        save: Writes the archive to an open file.

    Raises:
        OSError: The file cannot be written.
    """
    archive = io.BytesIO()
    save(archive)
    path.write_bytes(archive.getbuffer())


def _check_archive(path: Path, checksums: bool) -> set[int]:
    """Judge the archive by its table of contents before anything in it is read; returns its records' sizes in bytes."""
    with gate.open_regular(path) as file:
        size = file.seek(0, 2)
        if not zipfile.is_zipfile(file):
            raise ModelError(
                "the file is cut off, or no zip archive as torch.save writes it since PyTorch 1.6; "
                "other kinds could run code, so it is not loaded",
                where=path,
                fix=f"{_AGAIN}, or {_ASK_FOR_SAFETENSORS}",
            )
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            index = [record for record in records if record.filename.rpartition("/")[2] == "data.pkl"]
            if len(index) != 1 or len({record.filename for record in records}) != len(records):
                raise ModelError("the zip archive is not one that torch.save has written", where=path)
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise ModelError(
                    "its records are compressed, which torch.save never does, so it is not loaded",
                    where=path,
                    fix=_ASK_FOR_SAFETENSORS,
                )
            claimed = sum(record.file_size for record in records)
            if claimed > size or index[0].file_size > _MAX_INDEX_BYTES:
                raise ModelError(
                    f"it claims {claimed} bytes of content, {index[0].file_size} of them an index, in {size} bytes",
                    where=path,
                    fix=_AGAIN,
                )
            for record in records if checksums else ():
                with archive.open(record) as stream:
                    while stream.read(_CHUNK_BYTES):
                        pass
    return {record.file_size for record in records}


def _plain_tensors(content: Any, sizes: set[int], path: Path) -> dict[str, Tensor]:
    """Return the tensors, each of them backed by a whole record of its archive."""
    if isinstance(content, Mapping):
        wrapped = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        content = wrapped[0] if len(wrapped) == 1 else content
    if not isinstance(content, Mapping):
        raise ModelError(f"expected tensors by name, got {type(content).__name__}", where=path)
    odd = [str(name) for name, tensor in content.items() if type(tensor) not in (Tensor, nn.Parameter)]
    if odd:
        raise ModelError(f"expected tensors by name, got other things too: {', '.join(odd[:5])}", where=path)
    for name, tensor in content.items():
        is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        # A view that repeats its bytes (stride 0) would grow without bound when it is copied.
        held = tensor.untyped_storage().nbytes() if is_plain else -1
        if held not in sizes | {0} or tensor.numel() * tensor.element_size() > held:
            raise ModelError(f"expected plain tensors, {name} claims values that the file does not hold", where=path)
    return {str(name): tensor.detach() for name, tensor in content.items()}


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn whatever the readers stumble over, on content that is damaged or made to harm, into a ModelError."""
    try:
        with gate.library_errors(path):
            yield
    except (InputError, ResourceError) as error:
        cause = error.__cause__ or error
        if isinstance(error, ResourceError) and getattr(cause, "errno", None) != errno.EINVAL:
            raise  # the disk's or the memory's fault; EINVAL is a place before the file's start, named by the archive
        if isinstance(cause, pickle.UnpicklingError):
            raise ModelError(
                "the file is damaged or holds something else than tensors, and is not loaded: it could run code",
                where=path,
                fix=_ASK_FOR_SAFETENSORS,
            ) from cause
        reason = str(cause).split("\n", 1)[0]
        raise ModelError(f"cannot be read as a PyTorch file ({reason})", where=path, fix=_AGAIN) from cause
