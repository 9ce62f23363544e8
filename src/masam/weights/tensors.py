"""Read and write safetensors files, with a hash of the content, and read ``.pth`` files."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from masam import atomic
from masam.errors import InputError, ModelError
from masam.io import gate
from masam.weights.pytorch_file import ENDINGS as PYTORCH_ENDINGS
from masam.weights.pytorch_file import read_pytorch

CONTENT_HASH = "content_sha256"
"""Key of the metadata with the hash of tensors and metadata."""

# SAM's ViT-H needs 80 kB. The format allows 100 MB, which takes over a gigabyte as a Python mapping.
_MAX_HEADER_BYTES = 8 * 2**20

_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Accepted types; files with other types (8-bit floats, complex numbers) are refused."""


def read_tensors(path: Path, *, ours: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a ``.safetensors`` or ``.pth`` file on the CPU.

    Args:
        path: The file; its extension determines the format.
        ours: Accept only files of ``write_tensors``, so that damage to the hash itself is detected. Published files
            have no hash.

    Returns:
        Tensors by name, and the file's metadata (empty for ``.pth``). The tensors may be memory-mapped: copy those that
        must outlive the file.

    Raises:
        InputError: The file does not exist, or is not a regular file.
        ModelError: The content is damaged, is not tensors, or does not match its hash.
    """
    if _is_safetensors(path, ours):
        return _read_safetensors(path, ours)
    return read_pytorch(path), {}


def read_header(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the header of a ``.safetensors`` or ``.pth`` file, without the values.

    Returns:
        Tensors on the meta device by name (shape and type, no memory), and the file's metadata with the content hash.
    """
    if not _is_safetensors(path, ours=False):
        shapes = read_pytorch(path, checksums=False)
        return {name: torch.empty_like(tensor, device="meta") for name, tensor in shapes.items()}, {}
    with _safetensors(path) as file:
        tensors = {}
        for name in file.keys():  # noqa: SIM118 - not a mapping
            entry = file.get_slice(name)
            tensors[name] = torch.empty(entry.get_shape(), dtype=_TYPES[entry.get_dtype()], device="meta")
        return tensors, dict(file.metadata() or {})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a ``.safetensors`` file with a hash of its tensors and metadata in the metadata, and verify it."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = {**metadata, CONTENT_HASH: content_sha256(plain, metadata)}

    def write(target: Path) -> None:
        # safetensors creates files that only their owner can read; ours get the usual mode.
        target.touch()
        mode = target.stat().st_mode
        try:
            save_file(plain, target, metadata=content)
        except SafetensorError as error:
            # A full disk raises this type, with the system's error number in its text.
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        target.chmod(mode)

    def verify(target: Path) -> None:
        _read_safetensors(target, ours=True)

    atomic.write_with(path, write, verify=verify)


def content_sha256(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return a SHA-256 of the metadata and of names, types, shapes and bytes of the tensors, for any container."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_safetensors(path: Path, ours: bool) -> bool:
    with gate.open_regular(path):
        pass
    if path.suffix == ".safetensors":
        return True
    if path.suffix in PYTORCH_ENDINGS and not ours:
        return False
    expected = ".safetensors" if ours else ".safetensors or .pth"
    raise InputError(f"expected a {expected} file, got {path.suffix or 'no extension'}", where=path)


@contextmanager
def _safetensors(path: Path) -> Iterator[Any]:
    """Open a file after checking its header."""
    try:
        _check_header(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"cannot be read as a safetensors file ({error})", where=path, fix="copy or download it again"
        ) from error


def _check_header(path: Path) -> None:
    """Check what safetensors itself does not: a huge header, a duplicate name, other types."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("duplicate name")
        return dict(pairs)

    with gate.open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER_BYTES:
            raise ValueError(f"its header claims {length} bytes, expected at most {_MAX_HEADER_BYTES}")
        table = json.loads(file.read(length), object_pairs_hook=unique)
    if not isinstance(table, dict):
        raise ValueError("its header is not a mapping")
    for name, entry in table.items():
        if name != "__metadata__" and not (isinstance(entry, dict) and entry.get("dtype") in _TYPES):
            kind = entry.get("dtype") if isinstance(entry, dict) else entry
            raise ValueError(f"{name} has type {kind}, expected one of {', '.join(_TYPES)}")


def _read_safetensors(path: Path, ours: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    with _safetensors(path) as file:
        metadata = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    expected = metadata.pop(CONTENT_HASH, None)
    if expected is None and ours:
        raise ModelError(
            "expected a file written by masam, it has no hash of its content",
            where=path,
            fix="give a run folder or its model.safetensors",
        )
    if expected is not None and content_sha256(tensors, metadata) != expected:
        raise ModelError(
            "the content does not match its hash: the file is damaged",
            where=path,
            fix="copy it again or train again",
        )
    return tensors, metadata
