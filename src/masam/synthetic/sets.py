"""The synthetic data sets by name, as ``masam make`` writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from masam.synthetic.instruments import INSTRUMENTS
from masam.synthetic.nerves import NERVES
from masam.synthetic.phantom import write_phantom
from masam.synthetic.sites import SITES, write_sites
from masam.synthetic.tumour import TUMOUR


@dataclass(frozen=True)
class SyntheticSet:
    """An entry of ``SYNTHETIC_SETS``."""

    write: Callable[..., Path]  # function that writes the data set, with the arguments of ``SyntheticDataset.write``
    train: int  # default number of training cases, per part if there are several
    test: int  # default number of test cases, likewise
    parts: tuple[str, ...] = ()  # folders of the data sets that it consists of; empty if it is a single data set


# 720 to 800 windows for training: an experiment of configs/evidence is one pass over them.
SYNTHETIC_SETS: Mapping[str, SyntheticSet] = MappingProxyType(
    {
        "phantom": SyntheticSet(write_phantom, 24, 8),
        "tumour": SyntheticSet(TUMOUR.write, 32, 16),
        "sites": SyntheticSet(write_sites, 40, 12, tuple(SITES)),
        "instruments": SyntheticSet(INSTRUMENTS.write, 64, 16),
        "nerves": SyntheticSet(NERVES.write, 40, 12),
    }
)
"""Name to data set."""
