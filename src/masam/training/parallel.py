"""The processes of a run: one, or many that torchrun or SLURM started, and what they tell each other.

Every process does the same with other windows. The first one alone writes files and talks to the user.
"""

from __future__ import annotations

import datetime
import gc
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from masam.errors import ConfigError, MasamError, ResourceError

Result = TypeVar("Result")
Sharing = Literal["ddp", "fsdp"]

# Preparing cases and validating take one process longer than another; a process that died is noticed at once all the
# same, as its connections close.
_PATIENCE = datetime.timedelta(days=7)

_PORTS = range(20_000, 40_000)


@dataclass(frozen=True)
class Place:
    """Where a process stands among those of its run.

    Attributes:
        rank: Its number, from 0.
        size: Number of processes.
        local_rank: Its number on its machine, which is the GPU that it takes.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0


def find_place(environment: Mapping[str, str]) -> Place:
    """Read off the environment which process of a run this is.

    Args:
        environment: That of torchrun (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``) or of a SLURM step (``SLURM_PROCID``,
            ``SLURM_STEP_NUM_TASKS``, ``SLURM_LOCALID``); of anything else it is a process alone.

    Raises:
        ConfigError: A variable is there and is no number, or they contradict each other.
    """
    for names in (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")):
        if not set(names[:2]) <= set(environment):
            continue
        texts = [environment.get(name, "0") for name in names]
        wrong = [f"{name}={text!r}" for name, text in zip(names, texts, strict=True) if not text.isdecimal()]
        if wrong:
            raise ConfigError(f"expected a whole number, got {wrong[0]}", where="environment")
        place = Place(*map(int, texts))
        if place.rank >= place.size:
            raise ConfigError(f"expected {names[0]} below {names[1]}, got {place.rank} of {place.size}",
                              where="environment")  # fmt: skip
        return place
    return Place()


class World:
    """The processes of a run, seen from one of them.

    Args:
        place: Which of them this is.
        words: Group over which Python objects go; None where the process is alone.
    """

    def __init__(self, place: Place, words: dist.ProcessGroup | None = None) -> None:
        self.rank, self.size, self.is_first = place.rank, place.size, place.is_first
        self._words = words

    def gather(self, thing: Result) -> list[Result]:
        """Return what every process gives, in the order of their ranks; all must call this."""
        if self._words is None:
            return [thing]
        things: list[Any] = [None] * self.size
        dist.all_gather_object(things, thing, group=self._words)
        return things

    def agree(self, work: Callable[[], Result]) -> Result:
        """Let every process do something, and return its own result; where one fails, all do.

        Raises:
            MasamError: Of the first process that failed; the first process of all says it.
        """
        result: Any = None
        error = None
        try:
            result = work()
        except MasamError as fault:
            error = fault
        failed = next((fault for fault in self.gather(error) if fault is not None), None)
        if failed is not None:
            raise failed if self.is_first else _SaidElsewhereError(failed)
        own: Result = result
        return own

    def once(self, work: Callable[[], Result]) -> Result:
        """Let the first process do something, and return its result in all of them.

        Raises:
            MasamError: It failed.
        """
        first: Any = self.gather(self.agree(lambda: work() if self.is_first else None))[0]
        return first

    def leave(self) -> None:
        """Part from the others; nothing can be exchanged any more."""
        self._words = None
        dist.destroy_process_group()
        # A group's threads end with the last that holds it. One that outlived Python, with a tensor in its hands, would
        # abort a process whose work is done.
        gc.collect()

    def sum(self, tensor: Tensor) -> Tensor:
        """Add a tensor up over all processes, in place; all must call this."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor


class _SaidElsewhereError(MasamError):
    """An error that another process of the run says: this one ends with the same code and in silence."""

    def __init__(self, error: MasamError) -> None:
        super().__init__(error.what, where=error.where, fix=error.fix)
        self.exit_code = error.exit_code

    def line(self) -> str:
        """Return nothing."""
        return ""


@contextmanager
def joined(place: Place, device: torch.device, environment: MutableMapping[str, str] = os.environ) -> Iterator[World]:
    """Meet the other processes of the run while inside.

    Args:
        place: Which of them this is.
        device: Where this process trains.
        environment: Says where the first process waits: ``MASTER_ADDR`` and ``MASTER_PORT``, as torchrun sets them. In
            a SLURM step without them they are set to the first of its nodes and a port made of the job's number.

    Raises:
        ConfigError: It does not say.
        ResourceError: The others were not met, or one of them has gone.
    """
    if place.size == 1:
        yield World(place)
        return
    address, port = _meeting_point(environment)
    # Where PyTorch looks for them; torchrun's processes find there that it keeps the meeting point itself.
    environment.update(MASTER_ADDR=address, MASTER_PORT=port)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            init_method="env://",
            rank=place.rank,
            world_size=place.size,
            timeout=datetime.timedelta(minutes=30),
            device_id=device if device.type == "cuda" else None,
        )
        words = dist.new_group(backend="gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise ResourceError(
            f"the {place.size} processes of the run did not meet at {address}:{port} ({str(error).splitlines()[0]})",
            fix="check that all were started and that MASTER_ADDR and MASTER_PORT can be reached",
        ) from error
    world = World(place, words)
    del words
    try:
        with _peer_errors():
            yield world
    finally:
        world.leave()


def _meeting_point(environment: Mapping[str, str]) -> tuple[str, str]:
    address, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
    job, nodes = environment.get("SLURM_JOB_ID", ""), environment.get("SLURM_STEP_NODELIST", "")
    if port is None and job.isdecimal():
        port = str(_PORTS[int(job) % len(_PORTS)])
    if address is None and nodes:
        address = first_node(nodes)
    if not address or not port:
        raise ConfigError(
            "several processes need MASTER_ADDR and MASTER_PORT, which say where they meet",
            where="environment",
            fix="start them with torchrun or srun",
        )
    return address, port


def first_node(nodes: str) -> str:
    """Return the first name of a SLURM list of nodes such as ``gpu[03-05,11],login1``."""
    head, bracket, rest = re.split(r"(\[|,)", nodes + ",", maxsplit=1)
    return head + re.split(r"[-,\]]", rest, maxsplit=1)[0] if bracket == "[" else head


def share(model: nn.Module, layers: nn.ModuleList, world: World, sharing: Sharing, device: torch.device) -> nn.Module:
    """Spread a model over the processes; one alone keeps it as it is.

    Args:
        model: Model on its device.
        layers: Those of its modules that are large and follow each other.
        world: The processes.
        sharing: ``ddp``: each holds the whole model. ``fsdp``: each holds a part of every tensor, and a layer is put
            together when its turn comes; the model is changed in place.
        device: Where this process trains.

    Returns:
        What is called in the model's place: its backward pass takes the mean of all processes' gradients.
    """
    if world.size == 1:
        return model
    if sharing == "ddp":
        return nn.parallel.DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            # The IoU head gets no gradient, and prompts have parts that a batch does not use.
            find_unused_parameters=True,
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    # It fears that somebody changes the output in place, which is a view; nobody does.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
    mesh = init_device_mesh(device.type, (world.size,))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


@contextmanager
def exchange(shared: nn.Module, *, now: bool) -> Iterator[None]:
    """Let the backward passes inside exchange gradients, or keep them for a later one that does.

    Args:
        shared: Result of ``share``.
        now: Whether they do.
    """
    if isinstance(shared, nn.parallel.DistributedDataParallel) and not now:
        with shared.no_sync():
            yield
        return
    # Of fully_shard, which gives the module a class of its own.
    if hasattr(shared, "set_requires_gradient_sync"):
        shared.set_requires_gradient_sync(now)  # type: ignore[operator]
    yield


def whole(tensor: Tensor) -> Tensor:
    """Put a sharded tensor together; all processes must call this, in the same order."""
    if not isinstance(tensor, DTensor):
        return tensor
    full: Tensor = tensor.full_tensor()
    return full


def like(tensor: Tensor, value: Tensor) -> Tensor:
    """Return a value in the form of a tensor: on its device, and sharded as it is."""
    if isinstance(tensor, DTensor):
        # Every process has read the whole value: each cuts out its part, and nothing is sent.
        own = value.to(tensor.device)
        return distribute_tensor(own, tensor.device_mesh, tensor.placements, src_data_rank=None)
    return value.to(tensor.device)


@contextmanager
def _peer_errors() -> Iterator[None]:
    """Explain the loss of another process.

    Raises:
        ResourceError: Another process of the run has gone.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text:
            raise ResourceError(
                f"another process of the run has gone ({text.splitlines()[0]})",
                where="training",
                fix="look at what it said, then go on with --resume",
            ) from error
        raise
