"""Read and write ``.pth`` files safely: tensors only, no code, and no more memory than the file has bytes."""

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
"""Extensions of the container; Hugging Face uses ``.bin``."""

WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Keys under which training scripts (MedSAM, Lightning) store the tensors beside epoch and optimiser."""

# The index of SAM's ViT-H has 70 kB.
_MAX_INDEX_BYTES = 64 * 2**20
_CHUNK_BYTES = 2**20
_ASK_FOR_SAFETENSORS = "ask its author for a file of tensors only (safetensors)"
_AGAIN = "copy or download it again"


def read_pytorch(path: Path, *, checksums: bool = True) -> dict[str, Tensor]:
    """Read the tensors of a PyTorch file.

    The file is memory-mapped, so a false size in it allocates no memory. Copy the tensors that must outlive the file.

    Args:
        path: A zip archive of ``torch.save``.
        checksums: Read the complete file and verify the CRC-32 of every record, which PyTorch does not.

    Returns:
        Tensors by name, on the CPU, without gradients.

    Raises:
        InputError: The file does not exist, or is not a regular file.
        ModelError: It is damaged, compressed, in the format before PyTorch 1.6, or contains more than tensors.
    """
    with gate.open_regular(path):
        pass
    with _refusing(path):
        sizes = _check_archive(path, checksums)
    with _refusing(path), warnings.catch_warnings():
        # Our errors replace the warnings of torch.load.
        warnings.simplefilter("ignore")
        content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    return _plain_tensors(content, sizes, path)


def write_pytorch(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name as ``torch.save`` does, and verify them."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    def write(target: Path) -> None:
        write_archive(target, lambda archive: torch.save(plain, archive))

    def verify(target: Path) -> None:
        read = read_pytorch(target)
        if set(read) != set(plain) or any(not torch.equal(read[name], plain[name]) for name in plain):
            raise ModelError("the tensors differ from the written ones", where=target)

    atomic.write_with(path, write, verify=verify)


def write_archive(path: Path, save: Callable[[io.BytesIO], None]) -> None:
    """Let a function of PyTorch create an archive in memory, then write it to a file.

    On a full disk PyTorch's own writer ends the process (``torch.export.save``) or raises an error that does not
    mention the disk (``torch.save``). This function raises OSError. The cost is the archive's size in memory.
    """
    archive = io.BytesIO()
    save(archive)
    path.write_bytes(archive.getbuffer())


def _check_archive(path: Path, checksums: bool) -> set[int]:
    """Check the archive by its table of contents, before its content is read; return the record sizes in bytes."""
    with gate.open_regular(path) as file:
        size = file.seek(0, 2)
        if not zipfile.is_zipfile(file):
            raise ModelError(
                "the file is incomplete, or not a zip archive of torch.save since PyTorch 1.6; "
                "other formats could run code and are not loaded",
                where=path,
                fix=f"{_AGAIN}, or {_ASK_FOR_SAFETENSORS}",
            )
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            index = [record for record in records if record.filename.rpartition("/")[2] == "data.pkl"]
            if len(index) != 1 or len({record.filename for record in records}) != len(records):
                raise ModelError("the zip archive was not written by torch.save", where=path)
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise ModelError(
                    "its records are compressed, which torch.save never does; it is not loaded",
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
    """Return the tensors, each of which must be stored in a complete record of the archive."""
    if isinstance(content, Mapping):
        wrapped = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        content = wrapped[0] if len(wrapped) == 1 else content
    if not isinstance(content, Mapping):
        raise ModelError(f"expected tensors by name, got {type(content).__name__}", where=path)
    odd = [str(name) for name, tensor in content.items() if type(tensor) not in (Tensor, nn.Parameter)]
    if odd:
        raise ModelError(f"expected tensors by name, got other objects as well: {', '.join(odd[:5])}", where=path)
    for name, tensor in content.items():
        is_plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
        # A view that repeats its bytes (stride 0) would grow without limit when it is copied.
        stored = tensor.untyped_storage().nbytes() if is_plain else -1
        if stored not in sizes | {0} or tensor.numel() * tensor.element_size() > stored:
            raise ModelError(f"expected plain tensors, {name} claims more values than the file contains", where=path)
    return {str(name): tensor.detach() for name, tensor in content.items()}


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Translate errors of the readers on damaged or malicious content to ModelError."""
    try:
        with gate.library_errors(path):
            yield
    except (InputError, ResourceError) as error:
        cause = error.__cause__ or error
        if isinstance(error, ResourceError) and getattr(cause, "errno", None) != errno.EINVAL:
            raise  # an error of disk or memory; EINVAL comes from a negative offset in the archive
        if isinstance(cause, pickle.UnpicklingError):
            raise ModelError(
                "the file is damaged or contains more than tensors; it could run code and is not loaded",
                where=path,
                fix=_ASK_FOR_SAFETENSORS,
            ) from cause
        reason = str(cause).split("\n", 1)[0]
        raise ModelError(f"cannot be read as a PyTorch file ({reason})", where=path, fix=_AGAIN) from cause
