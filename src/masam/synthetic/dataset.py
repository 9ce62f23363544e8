"""A synthetic data set: cases that are a function of (seed, index), written as an nnU-Net raw folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masam.errors import ConfigError
from masam.synthetic.raw_folder import RawFolder


@dataclass(frozen=True)
class SyntheticDataset:
    """A data set of synthetic volumes or videos.

    Attributes:
        name: Name of the data set; its lower-case form is the prefix of the case names.
        description: One phrase for ``dataset.json``.
        channels: Names of the image channels.
        labels: Class name to label value.
        make_case: Function of (seed, index) that returns image and labels, see :meth:`RawFolder.write_case`.
        file_ending: ``.nii.gz`` for volumes, ``.png`` for videos.
    """

    name: str
    description: str
    channels: tuple[str, ...]
    labels: Mapping[str, int]
    make_case: Callable[[int, int], tuple[Any, Any]]
    file_ending: str = ".nii.gz"

    def write(self, root: Path, *, train: int, test: int, seed: int = 0) -> Path:
        """Write the data set as an nnU-Net raw folder, with the labels of the test cases in ``labelsTs``.

        Args:
            root: Folder to write; created if missing.
            train: Number of training cases, 1 or more; they have the indices 0 to train - 1.
            test: Number of test cases, 0 or more; their indices follow.
            seed: Seed of the data set, 0 or more.

        Returns:
            The folder.

        Raises:
            ConfigError: A number is out of range.
            InputError: The folder contains cases of another data set.
            ResourceError: A file cannot be written, or Pillow is missing (videos).
        """
        require_non_negative(seed)
        if train < 1 or test < 0:
            raise ConfigError(f"expected 1 training case or more and 0 test cases or more, got {train} and {test}")
        stem = self.name.lower().replace(" ", "_")
        names = tuple(f"{stem}_{index:03d}" for index in range(train + test))
        folder = RawFolder(root, names[:train], names[train:], self.channels, self.labels, self.file_ending)
        folder.begin()

        def write_case(index: int) -> None:
            folder.write_case(names[index], *self.make_case(seed, index))

        # Threads suffice, since numpy and zlib release the GIL. Cases are independent of each other and of their order.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(write_case, range(len(names))))
        folder.finish(self.name, f"{self.description}; synthetic (masam, seed {seed}), no patient data.")
        return root


def require_non_negative(seed: int, index: int = 0) -> None:
    """Check the seed of a data set and the index of a case."""
    if seed < 0 or index < 0:
        raise ConfigError(f"expected a seed and an index of 0 or more, got {seed} and {index}")
