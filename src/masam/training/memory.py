"""Prediction of the memory of training from a step on fake tensors, which have shapes but no data.

A complete step with loss and backward pass runs on PyTorch's fake tensors, and every storage is counted from allocation
to release. The peak of the tensors is exact; the overhead of the process was measured.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from masam.model.masam import Masam
from masam.model.parameters import count_parameters
from masam.model.spec import MasamSpec
from masam.training.initial_model import set_trainable
from masam.training.loss import segmentation_loss

# Fitted to the peak (VmHWM) of real steps with Linux's allocator, vit_t and vit_b from 0.6 to 3 GB; up to 8 GB the
# prediction is within 9 % (benchmarks/training_memory.py). The factor is for freed blocks that are not reused, the
# constant for libraries, threads and workspaces.
_ALLOCATOR = 1.34
_PROCESS_BYTES = 350 * 2**20


@dataclass(frozen=True)
class TrainingMemory:
    """Memory of one training process."""

    tensor_bytes: int  # peak of all tensors in a step, including weights and gradients
    optimizer_bytes: int  # the two moments of AdamW

    @property
    def peak_bytes(self) -> int:
        """Predicted peak of the process on a CPU, in float32."""
        return round(_ALLOCATOR * (self.tensor_bytes + self.optimizer_bytes)) + _PROCESS_BYTES


def predict_memory(
    spec: MasamSpec,
    micro_batch_windows: int,
    *,
    trained: Literal["adaptation", "everything", "decoder"] = "adaptation",
    checkpointing: bool = False,
    frozen_dtype: Literal["float32", "bf16"] = "float32",
) -> TrainingMemory:
    """Predict the memory of training without allocating it.

    Args:
        spec: Model specification; its ``window`` is the depth of the training windows.
        micro_batch_windows: Windows per forward pass.
        trained: Trainable parameters, as in the configuration.
        checkpointing: Recompute the encoder blocks in the backward pass.
        frozen_dtype: Number format of the encoder's frozen layers; ``bf16`` also applies to the forward pass.
    """
    is_halved = frozen_dtype == "bf16"
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16) if is_halved else nullcontext():
        model = Masam(spec).train()
        set_trainable(model, trained)
        if is_halved:
            model.halve_frozen()
        model.image_encoder.checkpointing = checkpointing
        with _StorageCount() as count:
            count.add(model.parameters())
            shape = (micro_batch_windows, spec.window, spec.input_channels, spec.image_size, spec.image_size)
            labels = torch.zeros(shape[0] * shape[1], *shape[3:], dtype=torch.long)
            logits = model(torch.zeros(shape)).logits
            segmentation_loss(logits.flatten(0, 1), labels).total.backward()
        changed = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return TrainingMemory(count.peak_bytes, 2 * changed)


def least_memory(spec: MasamSpec) -> TrainingMemory:
    """Return the memory of weights and AdamW's moments only, a fast lower bound of ``predict_memory``."""
    count = count_parameters(spec)
    return TrainingMemory(4 * count.total, 2 * 4 * count.trainable)


class _StorageCount(TorchDispatchMode):
    """Counts the bytes of all live storages and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = self.peak_bytes = 0
        self._counted: set[int] = set()

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Count the storages of tensors, each once."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in self._counted:
                continue
            self._counted.add(key)
            self.live_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self.live_bytes -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count its outputs."""
        result = func(*args, **(kwargs or {}))
        self.add(leaf for leaf in tree_iter(result) if isinstance(leaf, Tensor))
        return result
