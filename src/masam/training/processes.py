"""The processes of a distributed run, started by torchrun or SLURM, and the communication between them.

Every process executes the same code on different windows. Only the first process writes files and reports progress.
"""

from __future__ import annotations

import datetime
import gc
import os
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from masam.errors import ConfigError, MasamError, ResourceError

Result = TypeVar("Result")

# Case preparation and validation take some processes much longer than others. The loss of a process is still noticed at
# once, because its connections close.
_OBJECT_TIMEOUT = datetime.timedelta(days=7)

_PORTS = range(20_000, 40_000)


@dataclass(frozen=True)
class ProcessRank:
    """The position of a process in its run."""

    rank: int = 0  # index of the process, from 0
    size: int = 1  # number of processes
    local_rank: int = 0  # index of the process on its machine, which selects its GPU

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and reports progress."""
        return self.rank == 0


def find_process_rank(environment: Mapping[str, str]) -> ProcessRank:
    """Read the position of this process from environment variables.

    Args:
        environment: Variables of torchrun (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``) or of a SLURM step
            (``SLURM_PROCID``, ``SLURM_STEP_NUM_TASKS``, ``SLURM_LOCALID``). Without them the run has one process.

    Raises:
        ConfigError: A variable is not a number, or rank and size contradict each other.
    """
    for names in (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")):
        if not set(names[:2]) <= set(environment):
            continue
        texts = [environment.get(name, "0") for name in names]
        wrong = [f"{name}={text!r}" for name, text in zip(names, texts, strict=True) if not text.isdecimal()]
        if wrong:
            raise ConfigError(f"expected an integer, got {wrong[0]}", where="environment")
        process = ProcessRank(*map(int, texts))
        if process.rank >= process.size:
            raise ConfigError(
                f"expected {names[0]} below {names[1]}, got {process.rank} of {process.size}", where="environment"
            )
        return process
    return ProcessRank()


class ProcessGroup:
    """All processes of a run, from the perspective of one of them.

    Args:
        process: The position of this process.
        object_group: Process group for the exchange of Python objects; None in a run of one process.
    """

    def __init__(self, process: ProcessRank, object_group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.size, self.is_first = process.rank, process.size, process.is_first
        self._object_group = object_group

    def gather(self, value: Result) -> list[Result]:
        """Return the values of all processes in the order of their ranks; every process must call this."""
        if self._object_group is None:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._object_group)
        return values

    def run_on_all_processes(self, work: Callable[[], Result]) -> Result:
        """Call a function in every process and return this process's result; if one process fails, all fail.

        Raises:
            MasamError: The error of the failed process with the lowest rank. Only the first process prints it.
        """
        result: Any = None
        own_error = None
        try:
            result = work()
        except MasamError as error:
            own_error = error
        failed = next((error for error in self.gather(own_error) if error is not None), None)
        if failed is not None:
            raise failed if self.is_first else _ReportedElsewhereError(failed)
        return result

    def run_on_first_process(self, work: Callable[[], Result]) -> Result:
        """Call a function in the first process and return its result in all of them."""
        results: list[Any] = self.gather(self.run_on_all_processes(lambda: work() if self.is_first else None))
        return results[0]

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place; every process must call this."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def destroy(self) -> None:
        """End the communication between the processes."""
        self._object_group = None
        dist.destroy_process_group()
        # The threads of a group end when its last reference is gone. A thread that outlives the interpreter while it
        # holds a tensor would abort a process whose work is complete.
        gc.collect()


class _ReportedElsewhereError(MasamError):
    """An error that the first process prints: this process ends with the same exit code and prints nothing."""

    def __init__(self, error: MasamError) -> None:
        super().__init__(error.what, where=error.where, fix=error.fix)
        self.exit_code = error.exit_code

    def line(self) -> str:
        """Return an empty line."""
        return ""


@contextmanager
def connect_processes(
    process: ProcessRank, device: torch.device, environment: MutableMapping[str, str] = os.environ
) -> Iterator[ProcessGroup]:
    """Connect the processes of a run inside a ``with`` block.

    Args:
        process: The position of this process.
        device: Device of this process.
        environment: Contains the address of the first process: ``MASTER_ADDR`` and ``MASTER_PORT``, as torchrun sets
            them. In a SLURM step without them they are set to its first node and a port derived from the job id.

    Raises:
        ConfigError: The address is missing.
        ResourceError: The processes cannot be connected, or one of them was lost.
    """
    if process.size == 1:
        yield ProcessGroup(process)
        return
    address, port = _master_address(environment)
    # PyTorch reads the variables; under torchrun they also name the store that torchrun provides.
    environment.update(MASTER_ADDR=address, MASTER_PORT=port)
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            init_method="env://",
            rank=process.rank,
            world_size=process.size,
            timeout=datetime.timedelta(minutes=30),
            device_id=device if device.type == "cuda" else None,
        )
        object_group = dist.new_group(backend="gloo", timeout=_OBJECT_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise ResourceError(
            f"the {process.size} processes of the run could not connect at {address}:{port} "
            f"({str(error).splitlines()[0]})",
            fix="check that all were started and that MASTER_ADDR and MASTER_PORT can be reached",
        ) from error
    group = ProcessGroup(process, object_group)
    del object_group
    try:
        yield group
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text:
            raise ResourceError(
                f"another process of the run was lost ({text.splitlines()[0]})",
                where="training",
                fix="read its error message, then continue with --resume",
            ) from error
        raise
    finally:
        group.destroy()


def _master_address(environment: Mapping[str, str]) -> tuple[str, str]:
    address, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT")
    job, nodes = environment.get("SLURM_JOB_ID", ""), environment.get("SLURM_STEP_NODELIST", "")
    if port is None and job.isdecimal():
        port = str(_PORTS[int(job) % len(_PORTS)])
    if address is None and nodes:
        address = first_node(nodes)
    if not address or not port:
        raise ConfigError(
            "a run with several processes needs MASTER_ADDR and MASTER_PORT, the address of its first process",
            where="environment",
            fix="start them with torchrun or srun",
        )
    return address, port


def first_node(nodes: str) -> str:
    """Return the first name of a SLURM node list such as ``gpu[03-05,11],login1``."""
    head, bracket, rest = re.split(r"(\[|,)", nodes + ",", maxsplit=1)
    return head + re.split(r"[-,\]]", rest, maxsplit=1)[0] if bracket == "[" else head
