"""The data sets that are made by formula, by name: what ``masam make`` writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from masam.synthetic.instruments import write_instruments
from masam.synthetic.nerves import NERVES
from masam.synthetic.phantom import write_phantom
from masam.synthetic.sites import SITES, write_sites
from masam.synthetic.tumour import TUMOUR


@dataclass(frozen=True)
class MadeSet:
    """A data set that is made by formula.

    Attributes:
        write: Writes it into a folder, with the numbers of cases ``train`` and ``test`` and the ``seed``.
        train: Training cases, of each site where there are several, unless another number is asked for.
        test: Held-out cases, likewise.
        parts: Names of the data sets in its folder; empty if it is one itself.
    """

    write: Callable[..., Path]
    train: int
    test: int
    parts: tuple[str, ...] = ()


# 720 to 800 windows to train on: one pass over them is an experiment of configs/evidence.
MADE_SETS: Mapping[str, MadeSet] = MappingProxyType(
    {
        "phantom": MadeSet(write_phantom, 24, 8),
        "tumour": MadeSet(TUMOUR.write, 32, 16),
        "sites": MadeSet(write_sites, 40, 12, tuple(SITES)),
        "instruments": MadeSet(write_instruments, 64, 16),
        "nerves": MadeSet(NERVES.write, 40, 12),
    }
)
"""Name to data set."""
