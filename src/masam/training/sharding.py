"""A model on several processes: DDP, where each process holds a copy, or FSDP, where each holds a shard."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from masam.training.processes import ProcessGroup

Sharing = Literal["ddp", "fsdp"]


def distribute_model(
    model: nn.Module, layers: nn.ModuleList, group: ProcessGroup, sharing: Sharing, device: torch.device
) -> nn.Module:
    """Distribute a model over the processes of a run; in a run of one process, return it unchanged.

    Args:
        model: Model on its device.
        layers: The large consecutive modules of the model, the units of FSDP.
        group: The processes.
        sharing: ``ddp``: each process holds all parameters. ``fsdp``: each process holds a shard of every parameter,
            and the parameters of a layer are gathered when it runs; the model is changed in place.
        device: Device of this process.

    Returns:
        The module to call instead of the model: its backward pass averages the gradients over all processes.
    """
    if group.size == 1:
        return model
    if sharing == "ddp":
        return nn.parallel.DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            # The IoU head gets no gradient, and a batch may not use all parts of the prompt encoder.
            find_unused_parameters=True,
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # The warning concerns in-place changes of the output, which is a view; masam makes none.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
    mesh = init_device_mesh(device.type, (group.size,))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    # Validation calls encode and decode, not forward. The decoder's parameters stay gathered after encode.
    register_fsdp_forward_method(model, "encode")
    return model


@contextmanager
def gradient_sync(model: nn.Module, *, enabled: bool) -> Iterator[None]:
    """Enable or disable the averaging of gradients over processes in the backward passes of a ``with`` block.

    Args:
        model: Result of ``distribute_model``.
        enabled: False accumulates gradients locally until a later backward pass averages them.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel) and not enabled:
        with model.no_sync():
            yield
        return
    # A method that fully_shard adds to the module.
    if hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(enabled)  # type: ignore[operator]
    yield


def gather_full_tensor(tensor: Tensor) -> Tensor:
    """Return a sharded tensor as a plain tensor; all processes must call this in the same order."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def match_sharding(value: Tensor, target: Tensor) -> Tensor:
    """Return a full value on the device of a target tensor, sharded as the target is."""
    value = value.to(target.device)
    if isinstance(target, DTensor):
        # Every process has the full value and keeps its own shard; nothing is sent.
        return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
    return value
