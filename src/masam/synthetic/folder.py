"""Writing a made data set: cases that are a function of their number, in an nnU-Net raw folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from masam.errors import ConfigError
from masam.synthetic.raw_folder import RawFolder
from masam.volume import Volume


@dataclass(frozen=True)
class MadeVolumes:
    """A data set of volumes that are made by formula.

    Attributes:
        name: Its name; in lower case it begins the cases' names.
        description: What it shows, for a reader.
        channel: Name of the image channel.
        labels: Class name to label value.
        make_case: Seed of the data set and number of a case, from 0, to its image and its labels on the same grid.
    """

    name: str
    description: str
    channel: str
    labels: Mapping[str, int]
    make_case: Callable[[int, int], tuple[Volume, Volume]]

    def write(self, root: Path, *, train: int, test: int, seed: int = 0) -> Path:
        """Write the data set as an nnU-Net raw folder, the labels of the held-out cases in ``labelsTs``.

        Args:
            root: Folder to write; made if missing.
            train: Number of training cases, 1 or more: the cases 0 to train - 1.
            test: Number of held-out cases, 0 or more: the cases that follow.
            seed: Seed of the data set, 0 or more.

        Returns:
            The folder.

        Raises:
            ConfigError: A number is out of its range.
            InputError: The folder holds cases of another data set.
            ResourceError: A file cannot be written.
        """
        require_numbers(seed)
        names = made_names(self.name.lower().replace(" ", "_"), train, test)
        folder = RawFolder.begin(root, names[:train], names[train:])

        def write(index: int) -> None:
            folder.write_case(names[index], *self.make_case(seed, index))

        # Threads, since numpy and zlib let others run; a case does not depend on which one makes it, or when.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(write, range(len(names))))
        description = f"{self.description}, made by formula (masam, seed {seed}); no patient's data."
        folder.finish(name=self.name, description=description, channel=self.channel, labels=self.labels)
        return root


def made_names(stem: str, train: int, test: int) -> tuple[str, ...]:
    """Return the names of all cases, those to train on first.

    Raises:
        ConfigError: A number is out of its range.
    """
    if train < 1 or test < 0:
        raise ConfigError(f"expected 1 training case or more and 0 test cases or more, got {train} and {test}")
    return tuple(f"{stem}_{index:03d}" for index in range(train + test))


def require_numbers(seed: int, index: int = 0) -> None:
    """Refuse a negative seed or number of a case.

    Raises:
        ConfigError: One is negative.
    """
    if seed < 0 or index < 0:
        raise ConfigError(f"expected a seed and an index of 0 or more, got {seed} and {index}")
