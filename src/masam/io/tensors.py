"""Files of tensors: safetensors both ways, PyTorch's ``.pth`` in only and never with code."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from masam import atomic
from masam.errors import InputError, ModelError
from masam.io import gate

_CONTENT_HASH = "content_sha256"


def read_tensors(path: Path, *, ours: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a ``.safetensors`` or ``.pth`` file on the CPU.

    Args:
        path: The file; its ending says what it is.
        ours: Accept only what ``write_tensors`` has written. Without it a file need not have a hash, as published ones
            have none; damage that hides our hash would then go unseen.

    Returns:
        Tensors by name, and the file's metadata (empty for ``.pth``).

    Raises:
        InputError: There is no such file, or it is not a regular one.
        ModelError: The content is damaged, not tensors, or does not have the hash that was written with it.
    """
    with gate.open_regular(path):
        pass
    if path.suffix == ".safetensors":
        return _read_safetensors(path, ours)
    if path.suffix in (".pth", ".pt") and not ours:
        return _read_pth(path), {}
    expected = ".safetensors" if ours else ".safetensors or .pth"
    raise InputError(f"expected a {expected} file, got {path.suffix or 'no ending'}", where=path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a ``.safetensors`` file with a hash of its tensors and metadata in the metadata.

    Raises:
        ResourceError: The file cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = {**metadata, _CONTENT_HASH: content_sha256(plain, metadata)}

    def write(target: Path) -> None:
        # safetensors makes its files readable for their owner alone; ours get the usual mode.
        target.touch()
        mode = target.stat().st_mode
        try:
            save_file(plain, target, metadata=content)
        except SafetensorError as error:
            # A full disk comes as this type, with the system's number in its text.
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        target.chmod(mode)

    atomic.write_with(path, write, verify=_verify)


def content_sha256(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return a SHA-256 over metadata and names, types, shapes and bytes of tensors, whatever file holds them."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _verify(path: Path) -> None:
    _read_safetensors(path, ours=True)


def _read_safetensors(path: Path, ours: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"expected a safetensors file, it cannot be read ({error})", where=path, fix="copy or download it again"
        ) from error
    expected = metadata.pop(_CONTENT_HASH, None)
    if expected is None and ours:
        raise ModelError(
            "expected a file that masam has written, it has no hash of its content",
            where=path,
            fix="give a run folder or its model.safetensors",
        )
    if expected is not None and content_sha256(tensors, metadata) != expected:
        raise ModelError(
            "the content does not have the hash that was written with it: the file is damaged",
            where=path,
            fix="copy it again or train again",
        )
    return tensors, metadata


def _read_pth(path: Path) -> dict[str, Tensor]:
    try:
        # On damaged content torch.load raises whatever its unpickler stumbles over. What it warns of, the error says.
        with gate.border(path), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except InputError as error:
        cause = error.__cause__ or error
        if isinstance(cause, pickle.UnpicklingError):
            raise ModelError(
                "the file is damaged or holds something else than tensors, and is not loaded: it could run code",
                where=path,
                fix="ask its author for a file of tensors only (safetensors)",
            ) from cause
        reason = str(cause).split("\n", 1)[0]
        raise ModelError(f"cannot be read as a PyTorch file ({reason})", where=path, fix="download it again") from cause
    if not isinstance(content, Mapping):
        raise ModelError(f"expected tensors by name, got {type(content).__name__}", where=path)
    odd = [str(name) for name, tensor in content.items() if not isinstance(tensor, Tensor)]
    if odd:
        raise ModelError(f"expected tensors by name, got other things too: {', '.join(odd[:5])}", where=path)
    return {str(name): tensor.detach() for name, tensor in content.items()}
